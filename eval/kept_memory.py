"""What keeping freed memory is worth: the same work in a process that keeps it, and in a usual one.

    python -m eval.kept_memory --config eval/configs/kept_memory.yaml

`hyperasr.startup.keep_freed_memory` cannot be taken back, hence a process for each; and how much
the usual one hands back depends on where its heap lies, hence several pairs of processes. The ratio
is the median over pairs, each that of the medians of interleaved rounds; its interval is a
bootstrap over pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from eval.own_process import OwnProcess
from eval.rounds import interleaved
from eval.upkeep import batch_as_cached, training_step, voice_like
from hyperasr import results
from hyperasr.decode import decode
from hyperasr.errors import ConfigError
from hyperasr.model import HyperASR
from hyperasr.search import SearchConfig
from hyperasr.types import Batch
from train.program import read_config, run_program

_BENCHMARK = "kept_over_returned_memory"
_DRAWS = 2_000


@dataclass(frozen=True)
class KeptMemoryConfig:
    """What is timed, how often."""

    n_utt: int = 16
    """Utterances of the batch."""
    seconds: float = 3.0
    """Length of each."""
    n_tokens: int = 20
    """Tokens of each."""
    pairs: int = 8
    """Pairs of processes, at least 2."""
    rounds: int = 15
    """Timed rounds of a pair, at least 1."""
    threads: int = 2
    """Of torch, in each process."""
    out: Path = Path("results/kept_memory.json")
    """Result file."""
    seed: int = 0
    """Of audio and bootstrap."""

    def __post_init__(self) -> None:
        if self.pairs < 2 or min(self.rounds, self.n_utt, self.n_tokens, self.threads) < 1:
            raise ConfigError(
                "pairs must be at least 2; rounds, n_utt, n_tokens and threads at least 1"
            )


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


def row(what: str, config: KeptMemoryConfig) -> results.Row:
    """Time one piece of work in pairs of processes.

    Args:
        what: a key of `WORK`.
        config: how much of it.
    Returns:
        Throughput with memory kept over that with glibc's defaults.
    """
    rng = np.random.default_rng(config.seed)
    waves = [voice_like(config.seconds, rng) for _ in range(config.n_utt)]
    arguments = (waves, config.n_tokens, config.threads)
    ratios = np.zeros(config.pairs)
    for index in range(config.pairs):
        pair = [OwnProcess(WORK[what], *arguments, keep_memory=keep) for keep in (True, False)]
        kept, returned = np.median(interleaved(list(pair), config.rounds), axis=0)
        ratios[index] = returned / kept
        for process in pair:
            process.close()
    medians = np.median(rng.choice(ratios, (_DRAWS, config.pairs)), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975]).tolist()
    setting = (
        f"micro model, {what}, {config.n_utt} utterances of {config.seconds:g} s, "
        f"{config.n_tokens} tokens, {config.threads} threads, pairs of processes"
    )
    ratio = float(np.median(ratios))
    return results.speed_row(
        _BENCHMARK, ratio, low, high, config.pairs, "glibc's defaults", setting
    )


def main() -> None:
    """Measure, write the JSON, print the table."""
    config = read_config(KeptMemoryConfig)
    rows = [row(what, config) for what in WORK]
    head = results.head(results.command("eval.kept_memory"), config, config.seed, "speed", None)
    results.write(config.out, head, rows)
    results.print_table(rows, title="keeping freed memory")


if __name__ == "__main__":
    run_program(main)
