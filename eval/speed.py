"""What adaptation costs: the adapted batch against the unadapted one, in the same run.

    python -m eval.speed --config eval/configs/speed.yaml

Encoder, embedding, hypernetwork and greedy decoding of one batch, with the number of decoding
steps forced, so that both do the same work. Rounds alternate; the ratio is that of the medians'
throughput, its interval a bootstrap over rounds. Also: transcription of one utterance, and
simulation against real time.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyperasr import results
from hyperasr.cohorts.simulate import COHORTS, simulate
from hyperasr.decode import decode
from hyperasr.model import HyperASR
from hyperasr.search import SearchConfig
from hyperasr.types import Batch
from train.program import read_config


@dataclass(frozen=True)
class SpeedConfig:
    """What is timed, how often."""

    model: str = "micro"
    """Model folder, or ``micro``."""
    n_utt: int = 16
    """Utterances of the batch."""
    seconds: float = 3.0
    """Length of each utterance."""
    n_tokens: int = 12
    """Decoding steps of each utterance, forced."""
    rounds: int = 40
    """Timed rounds, after three that are not."""
    threads: int = 2
    """Threads of torch."""
    out: Path = Path("results/speed.json")
    """Result file."""
    seed: int = 0
    """Of the audio and the bootstrap."""


def alternate(ours: Callable[[], Any], peer: Callable[[], Any], rounds: int) -> np.ndarray:
    """Time both in turn; returns seconds (rounds, 2) after three rounds of warming up."""
    times = []
    for index in range(rounds + 3):
        pair = []
        for job in (ours, peer):
            started = time.perf_counter()
            job()
            pair.append(time.perf_counter() - started)
        if index >= 3:
            times.append(pair)
    return np.array(times)


def ratio_row(name: str, times: np.ndarray, peer: str, setting: str, seed: int) -> dict[str, Any]:
    """Return the row of our throughput over the peer's."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(times), size=(2_000, len(times)))
    medians = np.median(times[draws], axis=1)
    low, high = np.quantile(medians[:, 1] / medians[:, 0], [0.025, 0.975])
    ratio = float(np.median(times[:, 1]) / np.median(times[:, 0]))
    return results.speed_row(name, ratio, float(low), float(high), len(times), peer, setting)


def simulation_row(seconds: float, rounds: int, seed: int) -> dict[str, Any]:
    """Return how many times faster than real time one core simulates, all cohorts together."""
    rng = np.random.default_rng(seed)
    rates = []
    for index in range(rounds):
        waveform = voice_like(seconds, rng)
        for cohort in COHORTS:
            started = time.process_time()
            simulate(waveform, "one two three four five", cohort, 0.7, seed=index, speaker=index)
            rates.append(seconds / (time.process_time() - started))
    low, high = np.quantile(rates, [0.025, 0.975])
    return results.speed_row(
        "simulate_over_real_time",
        statistics.median(rates),
        float(low),
        float(high),
        len(rates),
        "real time",
        f"{seconds:g} s utterances, severity 0.7, CPU time, range of single calls",
    )


def voice_like(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return a pulse train of syllables: what is timed is arithmetic, not recognition."""
    t = np.arange(int(seconds * 16_000)) / 16_000
    wave = np.sign(np.sin(2 * np.pi * rng.uniform(90, 220) * t)) * (np.sin(2 * np.pi * 3 * t) > 0)
    return (0.2 * wave + 0.01 * rng.standard_normal(len(t))).astype(np.float32)


def main() -> None:
    """Measure, write the JSON, print the table."""
    config = read_config(SpeedConfig)
    torch.set_num_threads(config.threads)
    model = HyperASR.from_pretrained(config.model)
    rng = np.random.default_rng(config.seed)
    waves = [voice_like(config.seconds, rng) for _ in range(config.n_utt)]
    mel, n_frames = model.backbone.features(waves)
    batch = Batch(n_frames=n_frames, mel=mel)
    search = SearchConfig(max_tokens=config.n_tokens, suppress=(model.backbone.eos,))
    times = alternate(
        lambda: decode(model, batch, search),
        lambda: decode(model, batch, search, adapt=False),
        config.rounds,
    )
    setting = (
        f"{config.n_utt} utterances of {config.seconds:g} s, {config.n_tokens} tokens, greedy, "
        f"{config.threads} threads"
    )
    rows = [
        ratio_row("adapted_over_unadapted", times, "the unadapted backbone", setting, config.seed),
        simulation_row(config.seconds, config.rounds, config.seed),
    ]
    one = Batch(n_frames=n_frames[:1], mel=mel[:1])
    single = alternate(
        lambda: decode(model, one, search),
        lambda: decode(model, one, search, adapt=False),
        config.rounds,
    )
    extra = {
        "batch_s": float(np.median(times[:, 0])),
        "one_utterance_s": float(np.median(single[:, 0])),
    }
    head = results.head(
        "python -m eval.speed " + " ".join(sys.argv[1:]), config, config.seed, "speed", None
    )
    results.write(config.out, {**head, "seconds": extra}, rows)
    results.print_table(rows, title="speed")
    print(f"one utterance of {config.seconds:g} s: {extra['one_utterance_s']:.3f} s")


if __name__ == "__main__":
    main()
