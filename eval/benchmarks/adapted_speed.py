"""How fast trimmed and adapted is beside the unadapted recogniser on 30 s, on real recordings.

    python -m eval.benchmarks.adapted_speed --config eval/configs/default_model.yaml \\
      --out results/adapted_speed.json

The views of one corpus of the test set (its recordings, and the simulated ones made of them),
sorted by length, are decoded in batches, each by all in turn: log-mel, encoder, embedding,
hypernetwork and greedy search are counted, reading and simulating are not. A ratio is the peer's
time over ours, summed over batches, its interval a bootstrap over batches; the word error rates of
the very same decodings stand beside it (``wer``, ``peer_wer``). With `peers` there is a row besides
of every system's error rates and its time for an hour of sound (``error_against_time``), and a
figure of these; ``make results/error_against_time.json`` names six, which take five times as long
as all else. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from eval.benchmarks.speed import ctranslate2_folder, in_own_process
from eval.lib import results
from eval.lib.bench import BenchConfig
from eval.lib.systems import (
    BACKBONE,
    TRIMMED_STOP,
    System,
    open_system,
    open_unadapted,
)
from eval.lib.testset import fixed_views
from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.cohorts.views import TYPICAL, View, render_view
from hyperasr.errors import ConfigError
from hyperasr.export.ggml import write_ggml
from hyperasr.metrics.error_rates import error_rate, score
from hyperasr.metrics.protocols import protocol
from hyperasr.model import decode
from hyperasr.types import Batch
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.search import SearchConfig, text_only
from train.loop.program import read_config, run_program

BENCHMARK = "trimmed_adapted_over_unadapted"
POINTS = "error_against_time"
FASTER_WHISPER, WHISPER_CPP = "faster_whisper_int8", "whisper_cpp"
Heard = Callable[[list[np.ndarray]], list[str]]
"""Texts of waveforms (n_samples,) float32, 16 kHz."""


@dataclass(frozen=True)
class AdaptedSpeedConfig:
    """What is timed."""

    bench: BenchConfig = field(default_factory=BenchConfig)
    """Test set, backbone and the folders of `systems`."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further test sets of the same configuration file; they are not timed."""
    systems: tuple[str, ...] = ("hypernet_one_pass", "hypernet")
    """The adapted systems, by their names in `bench.systems`; the first is the headline."""
    peers: tuple[str, ...] = ()
    """Further systems, unadapted: a Whisper, and how it is run: ``backbone`` (30 s),
    ``backbone_trimmed_stop``, ``faster_whisper_int8``, ``whisper_cpp`` (float16)."""
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
    figure: Path = Path("docs/images/error-against-time.svg")
    """Error against time, where there are peers."""

    def __post_init__(self) -> None:
        for name in self.systems:
            if name not in self.bench.systems:
                known = ", ".join(self.bench.systems)
                raise ConfigError(f"no system {name!r}; bench.systems has {known}")
        ways = (BACKBONE, TRIMMED_STOP, FASTER_WHISPER, WHISPER_CPP)
        if unknown := [peer for peer in self.peers if peer.rpartition(" ")[2] not in ways]:
            raise ConfigError(
                f"no peer {unknown[0]!r}; give a Whisper and one of {', '.join(ways)}"
            )


def hears(system: System) -> Heard:
    """Return the function that decodes by a system."""
    backbone = system.model.backbone
    search = text_only(SearchConfig(), backbone.eos, int(backbone.whisper.config.vocab_size))

    def texts(waveforms: list[np.ndarray]) -> list[str]:
        mel, n_frames = backbone.features(waveforms)
        found = decode(system.model, Batch(n_frames=n_frames, mel=mel), search, adapt=system.adapt)
        return [backbone.text(tokens) for tokens in found.tokens]

    return texts


def peer(spec: str, scratch: Path, threads: int) -> Heard:
    """Open one of `AdaptedSpeedConfig.peers`; `scratch` is for a copy in the peer's own layout."""
    name, _, way = spec.rpartition(" ")
    backbone = Backbone.from_pretrained(name)
    if way in (BACKBONE, TRIMMED_STOP):
        return hears(open_unadapted(way, backbone))
    folder = scratch / Path(name).name / "whisper"  # its conversion lies beside it
    if way == WHISPER_CPP:
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_ggml(backbone, folder.with_name("ggml.bin"))
        return in_own_process(_whisper_cpp, str(folder.with_name("ggml.bin")), threads)
    backbone.save_pretrained(folder)
    return in_own_process(_faster_whisper, str(ctranslate2_folder(folder, "int8")), threads)


def _faster_whisper(folder: str, threads: int) -> Heard:
    from faster_whisper import WhisperModel

    model = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=threads)
    how: dict[str, Any] = {"language": "en", "beam_size": 1, "without_timestamps": True}

    def texts(waveforms: list[np.ndarray]) -> list[str]:
        # One by one: a list of recordings is nothing that it takes.
        found = (model.transcribe(wave, **how)[0] for wave in waveforms)
        return ["".join(segment.text for segment in segments).strip() for segments in found]

    return texts


def _whisper_cpp(file: str, threads: int) -> Heard:
    from pywhispercpp.model import Model

    quiet: dict[str, Any] = {"redirect_whispercpp_logs_to": None, "print_progress": False}
    # Its greedy search takes the best of five where it samples again at a higher temperature.
    model = Model(file, n_threads=threads, language="en", no_timestamps=True, **quiet)

    def texts(waveforms: list[np.ndarray]) -> list[str]:
        return [
            " ".join(segment.text.strip() for segment in model.transcribe(wave))
            for wave in waveforms
        ]

    return texts


def point_of(
    name: str, seconds: float, views: Sequence[View], counts: Sequence[Any], audio_s: float
) -> dict[str, Any]:
    """Return a system's time for an hour of sound, and its error rates by cohort."""
    cohorts = [view.cohort for view in views]
    simulated = [c for c, cohort in zip(counts, cohorts, strict=True) if cohort != TYPICAL]
    row = {
        "benchmark": POINTS,
        "system": name,
        "seconds_an_hour": 3600 * seconds / audio_s,
        "wer_simulated": error_rate(simulated),
    }
    for cohort in sorted(set(cohorts)):
        own = [c for c, other in zip(counts, cohorts, strict=True) if other == cohort]
        row[f"wer_{cohort}"] = error_rate(own)
    return row


def draw(points: Sequence[dict[str, Any]], adapted: Sequence[str], figure: Path) -> None:
    """Write the figure of the rows of `point_of`; `adapted` are the names of our systems."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot, ticker

    axes: Any
    shown = [("wer_simulated", "simulated cohorts"), (f"wer_{TYPICAL}", "typical speech")]
    with pyplot.rc_context({"svg.hashsalt": "hyperasr", "font.size": 9, "svg.fonttype": "none"}):
        drawing, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
        for ax, (key, title) in zip(axes, shown, strict=True):
            for point, shape in zip(points, itertools.cycle("osD^v<>PX*"), strict=False):
                colour = "#0072b2" if point["system"] in adapted else "none"
                edge = "#0072b2" if point["system"] in adapted else "#404040"
                how = {"marker": shape, "facecolor": colour, "edgecolor": edge, "s": 50}
                at = (point["seconds_an_hour"], 100 * point[key])
                ax.scatter(*at, label=point["system"], **how)
            ax.set(xscale="log", title=title, xlabel="seconds for an hour of sound")
            ax.set(ylabel="word error rate, %", ylim=(0, None))
            ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(ticker.ScalarFormatter())
            ax.xaxis.set_minor_formatter(ticker.NullFormatter())
            ax.margins(x=0.15)
        drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
        figure.parent.mkdir(parents=True, exist_ok=True)
        drawing.savefig(figure, metadata={"Date": None})
        pyplot.close(drawing)


def timed(
    systems: Sequence[Heard], batches: Sequence[list[np.ndarray]]
) -> tuple[np.ndarray, list[list[str]]]:
    """Decode batches by all systems in turn; returns seconds (n_batches, n_systems) and texts."""
    for system in systems:
        system(batches[0])  # warm up
    times = np.zeros((len(batches), len(systems)))
    texts: list[list[str]] = [[] for _ in systems]
    order = range(len(systems))
    for number, batch in enumerate(track(batches, "decoding")):
        for which in order if number % 2 else reversed(order):
            started = time.perf_counter()
            texts[which] += systems[which](batch)
            times[number, which] = time.perf_counter() - started
    return times, texts


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
    """Decode by all in turn, write the JSON and the figure, print the ratios."""
    config = read_config(AdaptedSpeedConfig)
    torch.set_num_threads(config.threads)
    views = [v for v in fixed_views(config.bench) if v.utterance.source == config.source]
    if not views:
        raise ConfigError(f"{config.bench.test} has nothing of the corpus {config.source!r}")
    made = [(*render_view(view), view) for view in views]
    made.sort(key=lambda one: len(one[0]))
    with tempfile.TemporaryDirectory() as scratch:
        bench, backbone = config.bench, Backbone.from_pretrained(config.bench.backbone)
        systems = {
            name: hears(open_system(name, bench.systems[name], backbone)) for name in config.systems
        }
        systems[f"{bench.backbone} {BACKBONE}"] = hears(open_unadapted(BACKBONE, backbone))
        systems |= {spec: peer(spec, Path(scratch), config.threads) for spec in config.peers}
        rows_tested = [view.utterance for view in views]
        results.note_look(config.bench.looks, config.bench.test, rows_tested, list(systems))
        batches = [
            [waveform for waveform, *_ in made[i : i + config.batch_size]]
            for i in range(0, len(made), config.batch_size)
        ]
        times, texts = timed(list(systems.values()), batches)
    references, views = [text for _, text, _ in made], [view for *_, view in made]
    rules = protocol(config.bench.protocol).normaliser
    counts = [score(references, own, rules, "wer") for own in texts]
    audio_s = sum(len(waveform) for waveform, *_ in made) / SAMPLE_RATE
    n_short = sum(len(batch[-1]) <= SAMPLE_RATE * config.short_s for batch in batches)
    rows = []
    parts = [(len(batches), "all"), (n_short, f"up to {config.short_s:g} s")]
    for which, name in enumerate(config.systems):
        for n_batches, what in parts if n_short else parts[:1]:
            n_views = sum(map(len, batches[:n_batches]))
            how = f"batches of {config.batch_size}, {config.threads} threads"
            pair = [which, len(config.systems)]
            own = [counts[i][:n_views] for i in pair]
            setting = f"{config.source}, {what}, {how}"
            row = row_of(times[:n_batches, pair], own, setting, config.bench.seed)
            rows.append({**row, "system": name, "headline": which == 0})
    points = [
        point_of(name, float(seconds), views, own, audio_s)
        for name, seconds, own in zip(systems, times.sum(axis=0), counts, strict=True)
    ]
    results.save(
        "eval.benchmarks.adapted_speed",
        config,
        [*rows, *points] if config.peers else rows,
        seed=config.bench.seed,
        protocol="trimmed and adapted beside the unadapted backbone on 30 s, greedy",
        normaliser=rules,
    )
    if config.peers:
        draw(points, config.systems, config.figure)
    for row in rows:
        print(
            f"{row['system']}, {row['setting']}: {row['ratio']:.2f} times as fast "
            f"({row['seconds']:.1f} s against {row['peer_seconds']:.1f} s), "
            f"{100 * row['wer']:.1f} % errors against {100 * row['peer_wer']:.1f} %"
        )
    for point in points:
        print(
            f"{point['system']}: {point['seconds_an_hour']:.0f} s for an hour of sound, "
            f"{100 * point['wer_simulated']:.1f} % errors, "
            f"typical {100 * point[f'wer_{TYPICAL}']:.1f} %"
        )


if __name__ == "__main__":
    run_program(main)
