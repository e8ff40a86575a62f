"""What keeping freed memory is worth: the same work in a process that keeps it, and in a usual one.

See `hyperasr.startup.keep_freed_memory`, which nothing can take back: hence a process for each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from eval.own_process import OwnProcess
from eval.upkeep import batch_as_cached, training_step
from hyperasr.decode import decode
from hyperasr.model import HyperASR
from hyperasr.search import SearchConfig
from hyperasr.types import Batch

__all__ = ["WORK", "pair"]


def _decoding(waves: list[np.ndarray], n_tokens: int, threads: int) -> Callable[[], None]:
    torch.set_num_threads(threads)
    model = HyperASR.from_pretrained("micro").eval()
    mel, n_frames = model.backbone.features(waves)
    search = SearchConfig(max_tokens=n_tokens, suppress=(model.backbone.eos,))

    def once() -> None:
        decode(model, Batch(n_frames=n_frames, mel=mel), search)

    return once


def _training(waves: list[np.ndarray], n_tokens: int, threads: int) -> Callable[[], None]:
    torch.set_num_threads(threads)
    model = HyperASR.from_pretrained("micro")
    batch, step = batch_as_cached(model, waves, n_tokens), training_step(model)
    return lambda: step(batch)


WORK = {"adapted decoding": _decoding, "a step of meta-training": _training}
"""What is done with the embedded model, in words, and what makes a function that does it once."""


def pair(
    what: str, waves: list[np.ndarray], n_tokens: int, threads: int
) -> tuple[OwnProcess, OwnProcess]:
    """Return one piece of work twice: in a process that keeps memory, and in one as glibc has it.

    Args:
        what: a key of `WORK`.
        waves: the utterances of the batch, each (n_samples,) float32, 16 kHz.
        n_tokens: of each utterance.
        threads: of torch, in each process.
    """
    make, arguments = WORK[what], (waves, n_tokens, threads)
    return OwnProcess(make, *arguments), OwnProcess(make, *arguments, keep_memory=False)
