"""What the analysis costs: angles at the size of large-v3, and bootstrap intervals.

    python -m eval.benchmarks.analysis_speed --config eval/configs/analysis_speed.yaml
    python -m eval.benchmarks.analysis_speed --what pairs  # one of them, as one line of JSON

Angles are of 32 layers of fc1, 5120 x 1280, and 100 utterances; factors are random, since time and
memory do not depend on their values. Each measurement has a process of its own. The peak of memory
is that whole process's, torch and the factors included. Rows of the result file: ``seconds`` of
wall time, ``cpu_seconds`` of all threads together, which another program on the machine does not
lengthen, ``peak_gib``, and what we aimed at, ``aim_seconds`` and ``aim_gib``.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from eval.lib import results
from eval.lib.threads import in_threads
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
    """Layers, at least 1."""
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
    """Speakers of the bootstrap; the more, the longer it takes."""
    n_resamples: int = 10_000
    """Draws of the bootstrap."""
    what: str = ""
    """``neighbours``: each utterance with the next one, at full rank; ``leading``: all pairs at
    ranks 1 and 4; ``pairs``: all pairs at ranks 1, 4 and the full one; ``weights``: W against W +
    delta W, rank 32, first layer and ten utterances only; ``bootstrap``: the interval of one error
    rate. Empty for all of them, into the result file."""
    out: Path = Path("results/analysis_speed.json")
    """Result file."""

    def __post_init__(self) -> None:
        if self.what not in ("", *MEASUREMENTS):
            raise ConfigError(f"what is {self.what!r}; it is one of {', '.join(MEASUREMENTS)}")
        for name in ("n_layer", "rank", "threads", "n_resamples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.n_utt < 2 or not 2 <= self.n_speakers <= self.n_scored:
            raise ConfigError(
                f"n_utt is {self.n_utt}, n_speakers {self.n_speakers} and n_scored "
                f"{self.n_scored}; give two utterances and two speakers at least, and an utterance "
                "to each speaker"
            )


def measure(config: AnalysisSpeedConfig) -> Row:
    """Return one row: seconds, CPU seconds and peak memory of what `config.what` names."""
    torch.set_num_threads(config.threads if config.what == "weights" else 1)
    prepare = _bootstrap_work if config.what == "bootstrap" else _angle_work
    work, about = prepare(config)
    started, started_cpu = time.perf_counter(), time.process_time()
    about |= work()
    return {
        "benchmark": config.what,
        **about,
        "threads": 1 if config.what == "bootstrap" else config.threads,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - started_cpu,
        # Linux counts in KiB.
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "aim_seconds": AIMS.get(config.what),
        "aim_gib": AIM_GIB if config.what in AIMS else None,
    }


def _bootstrap_work(config: AnalysisSpeedConfig) -> tuple[Callable[[], Row], Row]:
    rng = np.random.default_rng(0)
    wrong = rng.binomial(8, 0.3, config.n_scored).tolist()
    counts = [EditCounts(hits=8 - n, substitutions=n) for n in wrong]
    # Everybody has an utterance, the others fall to whom they will.
    rest = rng.integers(config.n_speakers, size=config.n_scored - config.n_speakers)
    speakers = [f"s{i}" for i in (*range(config.n_speakers), *rest.tolist())]

    def work() -> Row:
        SpeakerBootstrap(speakers, n_resamples=config.n_resamples).rate(counts)
        return {}

    setting = (
        f"{config.n_resamples:,} draws of {config.n_speakers:,} speakers, "
        f"{config.n_scored:,} utterances"
    )
    return work, {"setting": setting}


def _angle_work(config: AnalysisSpeedConfig) -> tuple[Callable[[], Row], Row]:
    generator = torch.Generator().manual_seed(0)
    n_layer, n_utt = (1, 10) if config.what == "weights" else (config.n_layer, config.n_utt)
    pair = LayerFactors(
        torch.randn(n_layer, n_utt, config.rank, config.d_in, generator=generator),
        torch.randn(n_layer, n_utt, config.d_out, config.rank, generator=generator),
    )
    factors = LoRAFactors({"decoder.fc1": pair}, scaling=1.0)

    def work() -> Row:
        if config.what == "weights":
            return {"n_angles": _weights(factors)}
        angles = in_threads(
            lambda layer: _angles(factors, layer, config.what), range(n_layer), config.threads
        )
        return {"n_angles": sum(angles)}

    layers = "1 layer" if n_layer == 1 else f"{n_layer} layers"
    size = f"{config.d_out} x {config.d_in}, rank {config.rank}"
    setting = f"{layers} of {size}, {n_utt} utterances"
    return work, {"setting": setting}


def _angles(factors: LoRAFactors, layer: int, what: str) -> int:
    """Angles between the updates of utterances in one layer, column and row space."""
    pair, n_angles = factors["decoder.fc1"], 0
    svd = delta_svd(pair.A[layer], pair.B[layer], factors.scaling)
    rank = svd.values.shape[-1]
    for space in SPACES:
        if what == "neighbours":
            bases = svd.basis(space, rank)
            for start in range(0, len(bases) - 1, _AT_ONCE):
                end = min(start + _AT_ONCE, len(bases) - 1)
                found = principal_angles(bases[start:end], bases[start + 1 : end + 1])
                n_angles += found.numel()
            continue
        ranks = [1, min(4, rank)] + ([rank] if what == "pairs" else [])
        angles = pairwise_angles(svd.basis(space, max(ranks)), ranks)
        n_angles += sum(found.numel() for found in angles.values())
    return n_angles


def _weights(factors: LoRAFactors) -> int:
    """Angles between a weight and what each utterance makes of it."""
    pair = factors["decoder.fc1"]
    d_out, d_in = pair.B.shape[2], pair.A.shape[3]
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(d_out, d_in, generator=generator) * torch.linspace(2, 0.1, d_in)
    top, n_angles = TopSubspace(weight, min(32, d_in - 1)), 0
    for a, b in zip(pair.A[0], pair.B[0], strict=True):
        found = top.angles(0.01 * a, b)[top.k]
        n_angles += found["column"].numel() + found["row"].numel()
    return n_angles


def measured_apart(what: str, argv: Sequence[str]) -> Row:
    """Return the row of one measurement, made in a process of its own with the same options.

    Raises:
        ConfigError: it failed.
    """
    command = [sys.executable, "-m", "eval.benchmarks.analysis_speed", *argv, "--what", what]
    environment = {**os.environ, "OMP_NUM_THREADS": "1" if what != "weights" else "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(
            f"eval.benchmarks.analysis_speed --what {what} failed: {done.stderr[-300:].strip()}"
        )
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """Print a line a measurement, with what was aimed at."""
    table = Table(title="what the analysis costs")
    for name in ("what", "setting", "seconds", "CPU seconds", "peak, GiB", "aim"):
        table.add_column(name)
    for row in rows:
        numbers = (f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}", f"{row['peak_gib']:.2f}")
        aim = f"{row['aim_seconds']:g} s, {row['aim_gib']:g} GiB" if row["aim_seconds"] else ""
        table.add_row(row["benchmark"], row["setting"], *numbers, aim)
    console.print(table)


def main() -> None:
    """Measure one thing and print its line of JSON, or all of them and write the result file."""
    config = read_config(AnalysisSpeedConfig)
    if config.what:
        print(json.dumps(measure(config)))
        return
    rows = [measured_apart(what, sys.argv[1:]) for what in MEASUREMENTS]
    command = results.command("eval.benchmarks.analysis_speed")
    results.write(config.out, results.head(command, config, 0, "time and memory", None), rows)
    print_rows(rows, Console(width=None if sys.stdout.isatty() else 200))


if __name__ == "__main__":
    run_program(main)
