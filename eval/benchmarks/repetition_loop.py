"""The loop guard: how often it finds a decoder that runs away, and how often it cries wolf.

    python -m eval.benchmarks.repetition_loop --config eval/configs/repetition_loop.yaml

False alarms are counted on what the model decodes by itself: typical recordings and recordings with
simulated stuttering. Runaway decoders are forced on the same recordings in two ways: end of text is
forbidden, so that the decoder writes on until it is stopped (``no_end``); or the last words of what
it decoded are repeated many times and then end (``looped_text``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from scipy.stats import binomtest

from eval.lib import results
from eval.lib.looks import note_look
from eval.lib.tables import print_lines, with_interval
from hyperasr.audio import reading as audio
from hyperasr.audio.loudness import normalise_loudness
from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.simulate import simulate
from hyperasr.decode import decode
from hyperasr.hub import HyperASR
from hyperasr.transcription.options import LONGEST_SEGMENT_S
from hyperasr.transcription.repetition_loop import find_loops
from hyperasr.transcription.words import words_of
from hyperasr.types import Batch, Utterance
from hyperasr.whisper.search import SearchConfig, text_only
from train.loop.program import read_config


@dataclass(frozen=True)
class GuardEvalConfig:
    """Which model, on which recordings."""

    model: str = "tiny.en"
    """``tiny.en``, or a model folder."""
    test: Path = Path("runs/data/test.jsonl")
    """Manifest of typical recordings of held-out speakers."""
    n_utterances: int = 200
    """Recordings, spread evenly over the manifest; all where it has fewer."""
    severities: tuple[float, ...] = (0.5, 1.0)
    """Of the simulated stuttering."""
    repeats: int = 12
    """How often the last words are repeated in a looped text."""
    batch_size: int = 16
    """Recordings decoded together."""
    looks: Path | None = Path("results/test_looks.jsonl")
    """File that gets a line each time test speakers are looked at; None for none."""
    out: Path = Path("results/repetition_loop.json")
    """Result file."""
    seed: int = 0
    """Of the simulation."""


@dataclass(frozen=True)
class SpeechSegment:
    """One recording under test."""

    speaker: str
    waveform: np.ndarray


@dataclass(frozen=True)
class Verdict:
    """What the guard said of one decoded recording.

    Attributes:
        speaker: who speaks.
        flagged: whether a stretch was marked.
        kept: where a runaway was forced, the share of the words decoded without force that stand
            before the marked stretch; None otherwise.
    """

    speaker: str
    flagged: bool
    kept: float | None = None


def recordings(config: GuardEvalConfig, severity: float, longest_s: float) -> list[SpeechSegment]:
    """Return the recordings up to `longest_s`, stuttered at a severity; 0 leaves them typical."""
    rows: list[Utterance] = read_manifest(config.test)
    picked = np.linspace(0, len(rows) - 1, min(config.n_utterances, len(rows))).round().astype(int)
    heard = []
    for index in sorted(set(picked.tolist())):
        row = rows[index]
        waveform = audio.load(row.path, start_s=row.start_s, end_s=row.end_s)
        if severity:
            made = simulate(
                waveform,
                row.text or "",
                "stuttering",
                severity,
                seed=config.seed + index,
                speaker=row.speaker,
            )
            waveform = made.waveform
        if len(waveform) <= longest_s * SAMPLE_RATE:
            heard.append(SpeechSegment(row.speaker, normalise_loudness(waveform)))
    return heard


def looped(tokens: Sequence[int], first_of_last_words: int, repeats: int) -> list[int]:
    """Return the tokens with those of the last words repeated."""
    return [*tokens, *list(tokens[first_of_last_words:]) * repeats]


def examine(
    model: HyperASR, heard: Sequence[SpeechSegment], config: GuardEvalConfig
) -> dict[str, list[Verdict]]:
    """Return the guard's verdicts on free, endless and looped decoding of a batch."""
    backbone = model.backbone
    waveforms = tuple(h.waveform for h in heard)
    mel, n_frames = backbone.features(waveforms)
    batch = Batch(n_frames=n_frames, mel=mel, waveforms=waveforms)
    n_vocab = int(backbone.whisper.config.vocab_size)
    free = decode(model, batch, text_only(SearchConfig(), backbone.eos, n_vocab))
    endless_search = text_only(SearchConfig(suppress=(backbone.eos,)), backbone.eos, n_vocab)
    endless = decode(model, batch, endless_search)
    words = [words_of(backbone, *row) for row in zip(free.tokens, free.logprobs, strict=True)]
    n_most = int(backbone.whisper.config.max_target_positions) - len(backbone.prompt_ids())
    loops = [
        looped(row, own[-2 if len(own) > 1 else -1].first if own else 0, config.repeats)[:n_most]
        for row, own in zip(free.tokens, words, strict=True)
    ]
    conditions = {
        "free": (free.tokens, free.finished),
        "no_end": (endless.tokens, endless.finished),
        "looped_text": (loops, (True,) * len(heard)),
    }
    verdicts: dict[str, list[Verdict]] = {}
    for name, (tokens, finished) in conditions.items():
        found = find_loops(model, batch, tokens, finished)
        verdicts[name] = []
        for index, (runaway, _) in enumerate(found):
            kept = None
            if name != "free" and runaway is not None and words[index]:
                # Words that begin before the marked stretch stay.
                same = [w for w in words[index] if w.first < runaway.first]
                kept = len(same) / len(words[index])
            if name == "free" or words[index]:
                verdicts[name].append(Verdict(heard[index].speaker, runaway is not None, kept))
    return verdicts


def rows_of(
    cohort: str, severity: float, verdicts: dict[str, list[Verdict]]
) -> list[dict[str, Any]]:
    """Return the rows of one cohort: false alarms, detections and words kept."""
    rows = []
    for condition, found in verdicts.items():
        if not found:
            continue
        n_flagged = sum(v.flagged for v in found)
        # Of utterances taken as independent: a bootstrap of nothing but zeros has no width.
        interval = binomtest(n_flagged, len(found)).proportion_ci(method="wilson")
        common = {
            "system": "loop_guard",
            "cohort": cohort,
            "condition": condition,
            "n_utterances": len(found),
            "n_speakers": len({v.speaker for v in found}),
        }
        if severity:
            common["severity"] = severity
        metric = "false_alarm_rate" if condition == "free" else "detection_rate"
        rows.append(
            common
            | {
                "metric": metric,
                "value": n_flagged / len(found),
                "low": float(interval.low),
                "high": float(interval.high),
            }
        )
        kept = [v.kept for v in found if v.kept is not None]
        if kept:
            rows.append(common | {"metric": "words_kept", "value": float(np.mean(kept))})
    return rows


def measure(model: HyperASR, config: GuardEvalConfig) -> list[dict[str, Any]]:
    """Return all rows."""
    longest_s = LONGEST_SEGMENT_S[str(model.backbone.audio_context)]
    rows = []
    for severity in (0.0, *config.severities):
        heard = recordings(config, severity, longest_s)
        heard.sort(key=lambda h: len(h.waveform))
        verdicts: dict[str, list[Verdict]] = {}
        starts = range(0, len(heard), config.batch_size)
        for start in track(starts, f"severity {severity:g}", console=Console(stderr=True)):
            part = examine(model, heard[start : start + config.batch_size], config)
            for name, found in part.items():
                verdicts.setdefault(name, []).extend(found)
        rows += rows_of("stuttering" if severity else "typical", severity, verdicts)
    return rows


def main() -> None:
    """Measure, write the JSON, print the table."""
    config = read_config(GuardEvalConfig)
    note_look(config.looks, config.test, read_manifest(config.test), (config.model,))
    rows = measure(HyperASR.from_pretrained(config.model), config)
    program = "eval.benchmarks.repetition_loop"
    results.save(program, config, rows, seed=config.seed, protocol="loop guard")
    lines = []
    for row in rows:
        cohort = f"{row['cohort']} {row['severity']:g}" if "severity" in row else row["cohort"]
        cells = (row["metric"], with_interval(row), str(row["n_utterances"]))
        lines.append((cohort, row["condition"], *cells))
    print_lines("loop guard", ("cohort", "condition", "metric", "value", "utterances"), lines)


if __name__ == "__main__":
    main()
