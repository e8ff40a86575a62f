"""How fast trimmed and adapted is beside the unadapted recogniser on 30 s, on real recordings.

    python -m eval.benchmarks.adapted_speed --config eval/configs/zero_shot.yaml \\
      --out results/adapted_speed.json

The views of one corpus of the test set (its recordings, and the simulated ones made of them),
sorted by length, are decoded in batches, each by all in turn: log-mel, encoder, embedding,
hypernetwork and greedy search are counted, reading and simulating are not. A ratio is the peer's
time over ours, summed over batches, its interval a bootstrap over batches; the word error rates of
the very same decodings stand beside it (``wer``, ``peer_wer``). Run it on a machine that does
nothing else.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from eval.lib import results
from eval.lib.bench import BenchConfig
from eval.lib.systems import System, open_system, open_unadapted
from eval.lib.testset import fixed_views
from hyperasr.cohorts.views import render_view
from hyperasr.decode import decode
from hyperasr.errors import ConfigError
from hyperasr.metrics.error_rates import error_rate, score
from hyperasr.metrics.protocols import protocol
from hyperasr.types import Batch
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.search import SearchConfig, text_only
from train.loop.program import read_config, run_program

BENCHMARK = "trimmed_adapted_over_unadapted"


@dataclass(frozen=True)
class AdaptedSpeedConfig:
    """What is timed."""

    bench: BenchConfig = field(default_factory=BenchConfig)
    """Test set, backbone and the folders of `systems`."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further test sets of the same configuration file; they are not timed."""
    systems: tuple[str, ...] = ("hypernet_encoder_decoder", "hypernet")
    """The adapted systems, by their names in `bench.systems`; the first is the headline."""
    source: str = "librispeech-test-other"
    """Corpus of the test set whose views are timed."""
    short_s: float = 7.0
    """Views of up to this length have a row of their own, in seconds."""
    batch_size: int = 16
    """Views a batch, at least 1."""
    threads: int = 2
    """Threads of torch."""
    out: Path = Path("results/adapted_speed.json")
    """Result file."""

    def __post_init__(self) -> None:
        for name in self.systems:
            if name not in self.bench.systems:
                known = ", ".join(self.bench.systems)
                raise ConfigError(f"no system {name!r}; bench.systems has {known}")


def heard(system: System, waveforms: list[np.ndarray]) -> list[str]:
    """Return the texts of waveforms, from samples on."""
    backbone = system.model.backbone
    mel, n_frames = backbone.features(waveforms)
    search = text_only(SearchConfig(), backbone.eos, int(backbone.whisper.config.vocab_size))
    found = decode(system.model, Batch(n_frames=n_frames, mel=mel), search, adapt=system.adapt)
    return [backbone.text(tokens) for tokens in found.tokens]


def row_of(times: np.ndarray, counts: list[list[Any]], setting: str, seed: int) -> dict[str, Any]:
    """Return a speed row from seconds (n_batches, 2), ours first, and both systems' edits."""
    rng = np.random.default_rng(seed)
    sums = times[rng.integers(len(times), size=(2_000, len(times)))].sum(axis=1)
    low, high = np.quantile(sums[:, 1] / sums[:, 0], [0.025, 0.975])
    ours, theirs = times.sum(axis=0)
    row = results.speed_row(
        BENCHMARK,
        float(theirs / ours),
        float(low),
        float(high),
        len(times),
        "the unadapted backbone, 30 s",
        setting,
    )
    wer, peer_wer = (error_rate(own) for own in counts)
    return {
        **row,
        "seconds": float(ours),
        "peer_seconds": float(theirs),
        "wer": wer,
        "peer_wer": peer_wer,
        "n_utterances": len(counts[0]),
    }


def main() -> None:
    """Decode by both in turn, write the JSON, print the ratios."""
    config = read_config(AdaptedSpeedConfig)
    torch.set_num_threads(config.threads)
    backbone = Backbone.from_pretrained(config.bench.backbone)
    systems = [open_system(n, config.bench.systems[n], backbone) for n in config.systems]
    systems.append(open_unadapted("backbone", backbone))
    views = [v for v in fixed_views(config.bench) if v.utterance.source == config.source]
    if not views:
        raise ConfigError(f"{config.bench.test} has nothing of the corpus {config.source!r}")
    rows_tested = [view.utterance for view in views]
    results.note_look(config.bench.looks, config.bench.test, rows_tested, [s.name for s in systems])
    made = sorted((render_view(view) for view in views), key=lambda one: len(one[0]))
    size = config.batch_size
    batches = [made[i : i + size] for i in range(0, len(made), size)]
    for system in systems:
        heard(system, [waveform for waveform, _ in batches[0]])  # warm up
    times = np.zeros((len(batches), len(systems)))
    texts: list[list[str]] = [[] for _ in systems]
    order = range(len(systems))
    for number, batch in enumerate(track(batches, "decoding")):
        waveforms = [waveform for waveform, _ in batch]
        for which in order if number % 2 else reversed(order):
            started = time.perf_counter()
            texts[which] += heard(systems[which], waveforms)
            times[number, which] = time.perf_counter() - started
    rules = protocol(config.bench.protocol).normaliser
    counts = [score([text for _, text in made], own, rules, "wer") for own in texts]
    n_short = sum(len(batch[-1][0]) <= 16_000 * config.short_s for batch in batches)
    rows = []
    parts = ((len(batches), "all"), (n_short, f"up to {config.short_s:g} s"))
    for which, name in enumerate(config.systems):
        for n_batches, what in parts:
            n_views = sum(map(len, batches[:n_batches]))
            if n_batches:
                setting = f"{config.source}, {what}, batches of {size}, {config.threads} threads"
                pair = [which, len(systems) - 1]
                own = [counts[i][:n_views] for i in pair]
                row = row_of(times[:n_batches, pair], own, setting, config.bench.seed)
                rows.append({**row, "system": name, "headline": which == 0})
    results.save(
        "eval.benchmarks.adapted_speed",
        config,
        rows,
        seed=config.bench.seed,
        protocol="trimmed and adapted beside the unadapted backbone on 30 s, greedy",
        normaliser=rules,
    )
    for row in rows:
        print(
            f"{row['system']}, {row['setting']}: {row['ratio']:.2f} times as fast "
            f"({row['seconds']:.1f} s against {row['peer_seconds']:.1f} s), "
            f"{100 * row['wer']:.1f} % errors against {100 * row['peer_wer']:.1f} %"
        )


if __name__ == "__main__":
    run_program(main)
