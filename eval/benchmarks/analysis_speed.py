"""What the analysis costs: angles at the size of large-v3, and bootstrap intervals.

    python -m eval.benchmarks.analysis_speed --config eval/configs/analysis_speed.yaml

Angles are of 32 layers of fc1, 5120 x 1280, and 100 utterances; factors are random, since time and
memory do not depend on their values. Each measurement has a process of its own. The peak of memory
is that whole process's, torch and the factors included. Rows of the result file: ``seconds`` of
wall time, ``cpu_seconds`` of all threads together, which another program on the machine does not
lengthen, ``peak_gib``, and what we aimed at, ``aim_seconds`` and ``aim_gib``.

Measured are ``neighbours``, each utterance with the next one, at full rank; ``leading``, all pairs
at ranks 1 and 4; ``pairs``, all pairs at ranks 1, 4 and the full one; ``weights``, W against W +
delta W, rank 32, first layer and ten utterances only; ``bootstrap``, the interval of an error rate.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.benchmarks.timing import in_own_process, peak_mib
from eval.lib import results
from eval.lib.tables import print_lines
from hyperasr.errors import ConfigError
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.metrics.statistics import SpeakerBootstrap
from hyperasr.metrics.subspace import (
    SPACES,
    TopSubspace,
    delta_svd,
    pairwise_angles,
    principal_angles,
)
from hyperasr.types import LayerFactors, LoRAFactors
from train.loop.program import read_config, run_program

Row = dict[str, Any]
MEASUREMENTS = ("neighbours", "leading", "pairs", "weights", "bootstrap")
AIMS = {"neighbours": 10.0, "leading": 10.0, "pairs": 10.0, "bootstrap": 5.0}  # seconds, two cores
AIM_GIB = 2.0
_AT_ONCE = 20  # pairs, so that their residuals stay small in memory


@dataclass(frozen=True)
class AnalysisSpeedConfig:
    """How large."""

    n_layer: int = 32
    """Layers."""
    d_in: int = 1280
    """Inputs of the matrix."""
    d_out: int = 5120
    """Outputs of the matrix."""
    rank: int = 16
    """Rank of the factors."""
    n_utt: int = 100
    """Utterances, at least 2."""
    threads: int = 2
    """Layers worked on at a time."""
    n_scored: int = 5_000
    """Utterances of the bootstrap."""
    n_speakers: int = 2_000
    """Speakers of the bootstrap, at most `n_scored`; the more, the longer it takes."""
    n_resamples: int = 10_000
    """Draws of the bootstrap."""
    out: Path = Path("results/analysis_speed.json")
    """Result file."""

    def __post_init__(self) -> None:
        if self.n_utt < 2 or not 2 <= self.n_speakers <= self.n_scored:
            raise ConfigError(
                f"n_utt is {self.n_utt}, n_speakers {self.n_speakers} and n_scored "
                f"{self.n_scored}; give two utterances and two speakers at least, and an utterance "
                "to each speaker"
            )


def measure(what: str, config: AnalysisSpeedConfig) -> Row:
    """Return one row: seconds, CPU seconds and peak memory of one of `MEASUREMENTS`."""
    torch.set_num_threads(config.threads if what == "weights" else 1)
    if what == "bootstrap":
        work, setting = _bootstrap_work(config)
    else:
        work, setting = _angle_work(what, config)
    started, started_cpu = time.perf_counter(), time.process_time()
    n_angles = work()
    return {
        "benchmark": what,
        "setting": setting,
        **({} if n_angles is None else {"n_angles": n_angles}),
        "threads": 1 if what == "bootstrap" else config.threads,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - started_cpu,
        "peak_gib": peak_mib() / 1024,
        "aim_seconds": AIMS.get(what),
        "aim_gib": AIM_GIB if what in AIMS else None,
    }


def _bootstrap_work(config: AnalysisSpeedConfig) -> tuple[Callable[[], int | None], str]:
    rng = np.random.default_rng(0)
    wrong = rng.binomial(8, 0.3, config.n_scored).tolist()
    counts = [EditCounts(hits=8 - n, substitutions=n) for n in wrong]
    # Everybody has an utterance, the others fall to whom they will.
    rest = rng.integers(config.n_speakers, size=config.n_scored - config.n_speakers)
    speakers = [f"s{i}" for i in (*range(config.n_speakers), *rest.tolist())]

    def work() -> None:
        SpeakerBootstrap(speakers, n_resamples=config.n_resamples).rate(counts)

    setting = (
        f"{config.n_resamples:,} draws of {config.n_speakers:,} speakers, "
        f"{config.n_scored:,} utterances"
    )
    return work, setting


def _angle_work(what: str, config: AnalysisSpeedConfig) -> tuple[Callable[[], int | None], str]:
    generator = torch.Generator().manual_seed(0)
    n_layer, n_utt = (1, 10) if what == "weights" else (config.n_layer, config.n_utt)
    pair = LayerFactors(
        torch.randn(n_layer, n_utt, config.rank, config.d_in, generator=generator),
        torch.randn(n_layer, n_utt, config.d_out, config.rank, generator=generator),
    )
    factors = LoRAFactors({"decoder.fc1": pair}, scaling=1.0)

    def by_layer() -> int:
        # Many small matrices keep one thread of torch busy, not two.
        with ThreadPoolExecutor(
            config.threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            return sum(pool.map(partial(_angles, factors, what), range(n_layer)))

    layers = "1 layer" if n_layer == 1 else f"{n_layer} layers"
    size = f"{config.d_out} x {config.d_in}, rank {config.rank}"
    work = partial(_weights, factors) if what == "weights" else by_layer
    return work, f"{layers} of {size}, {n_utt} utterances"


def _angles(factors: LoRAFactors, what: str, layer: int) -> int:
    """Count angles between the updates of utterances in one layer, column and row space."""
    pair, n_angles = factors["decoder.fc1"], 0
    svd = delta_svd(pair.A[layer], pair.B[layer], factors.scaling)
    rank = svd.values.shape[-1]
    for space in SPACES:
        if what == "neighbours":
            bases = svd.basis(space, rank)
            for start in range(0, len(bases) - 1, _AT_ONCE):
                end = min(start + _AT_ONCE, len(bases) - 1)
                angles = principal_angles(bases[start:end], bases[start + 1 : end + 1])
                n_angles += angles.numel()
            continue
        ranks = [1, min(4, rank)] + ([rank] if what == "pairs" else [])
        by_rank = pairwise_angles(svd.basis(space, max(ranks)), ranks)
        n_angles += sum(angles.numel() for angles in by_rank.values())
    return n_angles


def _weights(factors: LoRAFactors) -> int:
    """Count angles between a weight and what each utterance makes of it."""
    pair = factors["decoder.fc1"]
    d_out, d_in = pair.B.shape[2], pair.A.shape[3]
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(d_out, d_in, generator=generator) * torch.linspace(2, 0.1, d_in)
    top, n_angles = TopSubspace(weight, min(32, d_in - 1)), 0
    for a, b in zip(pair.A[0], pair.B[0], strict=True):
        angles = top.angles(0.01 * a, b)[top.k]
        n_angles += angles["column"].numel() + angles["row"].numel()
    return n_angles


def main() -> None:
    """Measure each in a process of its own, write the JSON, print the table."""
    config = read_config(AnalysisSpeedConfig)
    os.environ["OMP_NUM_THREADS"] = "1"  # of these processes; torch is told what it may use
    rows = [in_own_process(measure, what, config) for what in MEASUREMENTS]
    results.save("eval.benchmarks.analysis_speed", config, rows, protocol="time and memory")
    lines = []
    for row in rows:
        numbers = (f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}", f"{row['peak_gib']:.2f}")
        aim = f"{row['aim_seconds']:g} s, {row['aim_gib']:g} GiB" if row["aim_seconds"] else ""
        lines.append((row["benchmark"], row["setting"], *numbers, aim))
    header = ("what", "setting", "seconds", "CPU seconds", "peak, GiB", "aim")
    print_lines("what the analysis costs", header, lines)


if __name__ == "__main__":
    run_program(main)
