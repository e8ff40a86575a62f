"""What keeping freed memory is worth: the same work in a process that keeps it, and in a usual one.

See `hyperasr.startup.keep_freed_memory`, which nothing can take back: hence a process for each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from eval import upkeep
from eval.own_process import OwnProcess
from hyperasr.decode import decode
from hyperasr.model import HyperASR
from hyperasr.search import SearchConfig
from hyperasr.types import Batch

__all__ = ["WORK", "pair"]


def _decoding(
    name: str, waves: list[np.ndarray], n_tokens: int, threads: int, scratch: Path
) -> Callable[[], None]:
    torch.set_num_threads(threads)
    model = HyperASR.from_pretrained(name).eval()
    mel, n_frames = model.backbone.features(waves)
    search = SearchConfig(max_tokens=n_tokens, suppress=(model.backbone.eos,))

    def once() -> None:
        decode(model, Batch(n_frames=n_frames, mel=mel), search)

    return once


def _training(
    name: str, waves: list[np.ndarray], n_tokens: int, threads: int, scratch: Path
) -> Callable[[], None]:
    torch.set_num_threads(threads)
    model = HyperASR.from_pretrained(name)
    cached, _ = upkeep.training_steps(model, waves, n_tokens, name, scratch)
    return cached


WORK = {"adapted decoding": _decoding, "a step of training from the cache": _training}
"""What is compared, in words, and what makes a function that does it once."""


def pair(
    what: str, name: str, waves: list[np.ndarray], n_tokens: int, threads: int, scratch: Path
) -> tuple[OwnProcess, OwnProcess]:
    """Return one piece of work twice: in a process that keeps memory, and in one as glibc has it.

    Args:
        what: a key of `WORK`.
        name: an embedded model.
        waves: the utterances of the batch, each (n_samples,) float32, 16 kHz.
        n_tokens: of each utterance.
        threads: of torch, in each process.
        scratch: for the cache that a step reads.
    """
    made = []
    for keep in (True, False):
        folder = scratch / f"kept-{keep}"
        folder.mkdir(exist_ok=True)
        arguments = (name, waves, n_tokens, threads, folder)
        made.append(OwnProcess(WORK[what], *arguments, keep_memory=keep))
    return made[0], made[1]
