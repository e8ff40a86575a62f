"""What Ray costs, and what a second worker is worth, in bulk transcription on this machine.

    python -m eval.benchmarks.cluster --config eval/configs/cluster.yaml

The same recordings, repeated until they last `minutes`, are transcribed by one process of one
thread without Ray, and by Ray with as many workers of one thread each as `workers` says. Time is
counted from the first block that is finished to the last one, so that no loading is in it: of the
first block neither sound nor time counts. Sides take turns; a ratio is that of the medians, its
interval from the least and the greatest round. ``hours_an_hour`` is of speech, by all workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from eval.benchmarks.speed import peer_version
from eval.lib import results
from eval.lib.tables import print_rows
from hyperasr.audio.reading import duration_s
from hyperasr.errors import ConfigError
from hyperasr.hub import load
from hyperasr.transcription.cluster import Row, in_this_process, on_ray, recordings_of
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.recordings import Recording
from train.loop.program import read_config, run_program


@dataclass(frozen=True)
class ClusterConfig:
    """What is transcribed, by how many."""

    model: str = "tiny.en"
    """As `hyperasr transcribe` takes it."""
    clips: Path = Path("hyperasr/assets/demo/manifest.jsonl")
    """Manifest of the recordings."""
    minutes: float = 30.0
    """Of speech in a round; the recordings are repeated under new ids."""
    workers: tuple[int, ...] = (1, 2)
    """Workers of Ray, one thread each; 1 has to be among them."""
    rounds: int = 3
    """Timed rounds."""
    out: Path = Path("results/cluster.json")
    """Result file."""

    def __post_init__(self) -> None:
        if 1 not in self.workers or self.rounds < 1 or self.minutes <= 0:
            raise ConfigError("workers must hold 1; rounds and minutes must be above 0")


def speech(clips: Path, seconds: float) -> list[Recording]:
    """Return recordings of at least so much speech, each with an id of its own."""
    recordings = recordings_of([str(clips)])
    repeats = int(np.ceil(seconds / sum(duration_s(str(r.path)) for r in recordings)))
    return [replace(r, id=f"{i}-{r.id}") for i in range(repeats) for r in recordings]


def throughput(blocks: Iterator[list[Row]]) -> float:
    """Return seconds of speech a second, after the first block.

    Raises:
        ConfigError: there is but one block.
    """
    started = ended = heard = 0.0
    for rows in blocks:
        ended = time.perf_counter()
        if not started:
            started = ended
        else:
            heard += sum(row["duration_s"] for row in rows)
    if ended == started:
        raise ConfigError("all was one block; give more minutes")
    return heard / (ended - started)


def measure(config: ClusterConfig) -> list[results.Row]:
    """Return the rows: two workers over one, one over no Ray."""
    torch.set_num_threads(1)
    open_model = partial(load, config.model, offline=True)
    model, options = open_model(device="cpu"), TranscribeOptions(word_times=True)
    recordings = speech(config.clips, 60 * config.minutes)
    ray = partial(on_ray, model, open_model, recordings, options)
    sides: dict[int, Callable[[], Iterator[list[Row]]]] = {
        0: partial(in_this_process, model, recordings, options),
        **{n: partial(ray, workers=n) for n in config.workers},
    }
    times: dict[int, list[float]] = {n: [] for n in sides}
    for _ in range(config.rounds):
        for n, blocks in sides.items():
            times[n].append(throughput(blocks()))
    work = f"{config.model}, {config.minutes:g} minutes of {config.clips.stem}, one thread a worker"
    name = peer_version("ray")
    rows = [row("ray_over_one_process", times[1], times[0], "one process, without Ray", work, 1)]
    for n in config.workers:
        if n != 1:
            rows.append(row("workers_over_one_worker", times[n], times[1], f"{name}, 1", work, n))
    return rows


def row(
    benchmark: str, ours: list[float], peers: list[float], peer: str, setting: str, workers: int
) -> results.Row:
    """Return a comparison of throughputs (seconds of speech a second) of the same rounds.

    It has the ratio of each round in place of an interval, which so few do not give.
    """
    ratios = [a / b for a, b in zip(ours, peers, strict=True)]
    ratio = float(np.median(ours) / np.median(peers))
    text = f"{workers} workers, {setting}" if workers > 1 else f"1 worker, {setting}"
    return results.speed_row(benchmark, ratio, None, None, len(ours), peer, text) | {
        "workers": workers,
        "hours_an_hour": float(np.median(ours)),
        "peer_hours_an_hour": float(np.median(peers)),
        "ratios": ratios,
    }


def main() -> None:
    """Measure, write the JSON, print the table."""
    config = read_config(ClusterConfig)
    rows = measure(config)
    results.save("eval.benchmarks.cluster", config, rows, protocol="speed")
    print_rows(rows, title="bulk transcription")


if __name__ == "__main__":
    run_program(main)
