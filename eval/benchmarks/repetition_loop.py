"""The loop guard: how often it finds a decoder that runs away, and how often it cries wolf.

    python -m eval.benchmarks.repetition_loop --config eval/configs/repetition_loop.yaml

False alarms are counted on what the model decodes by itself: typical recordings and recordings with
simulated stuttering. Runaway decoders are forced on the same recordings in two ways: end of text is
forbidden, so that the decoder writes on until it is stopped (``no_end``); or the last words of what
it decoded are repeated many times and then end (``looped_text``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from scipy.stats import binomtest

from eval.lib import results
from eval.lib.tables import print_lines, with_interval
from hyperasr.audio.loudness import normalise_loudness
from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.audio.reading import load
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.simulate import simulate
from hyperasr.decode import decode
from hyperasr.hub import HyperASR
from hyperasr.transcription.options import LONGEST_SEGMENT_S
from hyperasr.transcription.repetition_loop import find_loops
from hyperasr.transcription.words import words_of
from hyperasr.types import Batch
from hyperasr.whisper.search import SearchConfig, text_only
from train.loop.program import read_config, run_program

SEVERITIES = (0.0, 0.5, 1.0)  # of simulated stuttering; 0 is the recording as it is
REPEATS = 12  # of the last words of a looped text
BATCH = 16


@dataclass(frozen=True)
class GuardEvalConfig:
    """Which model, on which recordings."""

    model: str = "tiny.en"
    """``tiny.en``, or a model folder."""
    test: Path = Path("runs/data/test.jsonl")
    """Manifest of typical recordings of held-out speakers."""
    n_utterances: int = 200
    """Recordings, spread evenly over the manifest; all where it has fewer."""
    looks: Path | None = Path("results/test_looks.jsonl")
    """File that gets a line each time test speakers are looked at; None for none."""
    out: Path = Path("results/repetition_loop.json")
    """Result file."""
    seed: int = 0
    """Of the simulation."""


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


def recordings(
    config: GuardEvalConfig, severity: float, longest_s: float
) -> list[tuple[str, np.ndarray]]:
    """Return speaker and samples of the recordings up to `longest_s`, stuttered at a severity."""
    rows = read_manifest(config.test)
    picked = np.linspace(0, len(rows) - 1, min(config.n_utterances, len(rows))).round().astype(int)
    heard = []
    for index in sorted(set(picked.tolist())):
        row = rows[index]
        waveform = load(row.path, start_s=row.start_s, end_s=row.end_s, channel=row.channel)
        if severity:
            who = {"seed": config.seed + index, "speaker": row.speaker}
            waveform = simulate(waveform, row.text or "", "stuttering", severity, **who).waveform
        if len(waveform) <= longest_s * SAMPLE_RATE:
            heard.append((row.speaker, normalise_loudness(waveform)))
    return sorted(heard, key=lambda one: len(one[1]))


def examine(model: HyperASR, heard: Sequence[tuple[str, np.ndarray]]) -> dict[str, list[Verdict]]:
    """Return the guard's verdicts on free, endless and looped decoding of a batch.

    Args:
        model: the model.
        heard: speaker and samples (n_samples,) of each recording.
    """
    backbone = model.backbone
    waveforms = tuple(waveform for _, waveform in heard)
    mel, n_frames = backbone.features(waveforms)
    batch = Batch(n_frames=n_frames, mel=mel, waveforms=waveforms)
    n_vocab = int(backbone.whisper.config.vocab_size)
    free = decode(model, batch, text_only(SearchConfig(), backbone.eos, n_vocab))
    forbidden = SearchConfig(suppress=(backbone.eos,))
    endless = decode(model, batch, text_only(forbidden, backbone.eos, n_vocab))
    words = [words_of(backbone, *row) for row in zip(free.tokens, free.logprobs, strict=True)]
    n_most = int(backbone.whisper.config.max_target_positions) - len(backbone.prompt_ids())
    loops = []
    for tokens, own in zip(free.tokens, words, strict=True):
        last = tokens[own[-2 if len(own) > 1 else -1].first if own else 0 :]
        loops.append((*tokens, *last * REPEATS)[:n_most])
    verdicts: dict[str, list[Verdict]] = {}
    for name, tokens, finished in (
        ("free", free.tokens, free.finished),
        ("no_end", endless.tokens, endless.finished),
        ("looped_text", loops, (True,) * len(heard)),
    ):
        verdicts[name] = []
        found = find_loops(model, batch, tokens, finished)
        for (speaker, _), own, (runaway, _) in zip(heard, words, found, strict=True):
            kept = None
            if name != "free" and runaway is not None and own:
                # Words that begin before the marked stretch stay.
                kept = sum(word.first < runaway.first for word in own) / len(own)
            if name == "free" or own:
                verdicts[name].append(Verdict(speaker, runaway is not None, kept))
    return verdicts


def rows_of(severity: float, verdicts: Mapping[str, Sequence[Verdict]]) -> list[dict[str, Any]]:
    """Return the rows of one severity: false alarms, detections and words kept."""
    rows = []
    for condition, found in verdicts.items():
        if not found:
            continue
        n_flagged = sum(v.flagged for v in found)
        # Of utterances taken as independent: a bootstrap of nothing but zeros has no width.
        interval = binomtest(n_flagged, len(found)).proportion_ci(method="wilson")
        common: dict[str, Any] = {
            "system": "loop_guard",
            "cohort": "stuttering" if severity else "typical",
            "condition": condition,
            "n_utterances": len(found),
            "n_speakers": len({v.speaker for v in found}),
        }
        common |= {"severity": severity} if severity else {}
        metric = "false_alarm_rate" if condition == "free" else "detection_rate"
        ends = {"low": float(interval.low), "high": float(interval.high)}
        rows.append({**common, "metric": metric, "value": n_flagged / len(found), **ends})
        kept = [v.kept for v in found if v.kept is not None]
        if kept:
            rows.append({**common, "metric": "words_kept", "value": float(np.mean(kept))})
    return rows


def measure(model: HyperASR, config: GuardEvalConfig) -> list[dict[str, Any]]:
    """Return all rows."""
    longest_s = LONGEST_SEGMENT_S[str(model.backbone.audio_context)]
    rows = []
    for severity in SEVERITIES:
        heard = recordings(config, severity, longest_s)
        verdicts: dict[str, list[Verdict]] = {}
        for start in track(range(0, len(heard), BATCH), f"severity {severity:g}", transient=True):
            for name, found in examine(model, heard[start : start + BATCH]).items():
                verdicts.setdefault(name, []).extend(found)
        rows += rows_of(severity, verdicts)
    return rows


def main() -> None:
    """Measure, write the JSON, print the table."""
    config = read_config(GuardEvalConfig)
    results.note_look(config.looks, config.test, read_manifest(config.test), (config.model,))
    rows = measure(HyperASR.from_pretrained(config.model), config)
    program = "eval.benchmarks.repetition_loop"
    results.save(program, config, rows, seed=config.seed, protocol="loop guard")
    lines = [
        (
            f"{row['cohort']} {row.get('severity', '')}",
            row["condition"],
            row["metric"],
            with_interval(row),
            str(row["n_utterances"]),
        )
        for row in rows
    ]
    print_lines("loop guard", ("cohort", "condition", "metric", "value", "utterances"), lines)


if __name__ == "__main__":
    run_program(main)
