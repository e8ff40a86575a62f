"""`hyperasr simulate`: one recording, or a whole manifest, as simulated people would say it."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

import soundfile

from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.audio.reading import load
from hyperasr.cli.terminal import Reporter
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.simulate import COHORTS
from hyperasr.cohorts.simulate import simulate as make_simulated
from hyperasr.cohorts.simulated_corpus import simulate_corpus
from hyperasr.errors import ConfigError
from hyperasr.util.files import atomic_write_bytes, atomic_write_text

__all__ = ["simulate"]


def simulate(args: Any) -> int:
    """Simulate a recording or a manifest; returns 1 where some recordings failed.

    Raises:
        ConfigError: an unknown cohort, a severity outside [0, 1].
        AudioError, ManifestError: the recording or the manifest cannot be read.
    """
    cohorts = list(COHORTS) if args.cohorts == ["all"] else list(args.cohorts)
    for cohort in cohorts:
        if cohort not in COHORTS:
            raise ConfigError(f"no cohort {cohort!r} to simulate; there are {', '.join(COHORTS)}")
    if str(args.source).endswith(".jsonl"):
        return _corpus(args, cohorts)
    for severity in args.severity or [0.5]:
        for cohort in cohorts:
            for path in _recording(args, cohort, severity):
                print(path)
    return 0


def _recording(args: Any, cohort: str, severity: float) -> list[Path]:
    """Write a simulated recording, what is heard in it, what was meant, and its events."""
    waveform = load(args.source)
    made = make_simulated(
        waveform, args.text, cohort, severity, seed=args.seed, speaker=args.person
    )
    stem = f"{Path(args.source).stem}-{cohort}-{severity:g}-{args.seed}"
    wav = io.BytesIO()
    soundfile.write(wav, made.waveform, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    notes = {
        "simulated": True,
        "cohort": made.cohort,
        "severity": made.severity,
        "person": args.person,
        "seed": args.seed,
        "duration_s": round(len(made.waveform) / SAMPLE_RATE, 3),
        "text_clean": made.text,
        "text_verbatim": made.verbatim,
        "events": [dataclasses.asdict(event) for event in made.events],
        "words": [dataclasses.asdict(word) for word in made.words],
    }
    return [
        atomic_write_bytes(args.out / f"{stem}.wav", wav.getvalue()),
        atomic_write_text(args.out / f"{stem}.verbatim.txt", f"{made.verbatim}\n"),
        atomic_write_text(args.out / f"{stem}.clean.txt", f"{made.text}\n"),
        atomic_write_text(
            args.out / f"{stem}.json", json.dumps(notes, ensure_ascii=False, indent=2) + "\n"
        ),
    ]


def _corpus(args: Any, cohorts: list[str]) -> int:
    with Reporter() as reporter:
        made = simulate_corpus(
            read_manifest(args.source),
            args.out,
            cohorts=cohorts,
            severities=args.severity,
            people_per_speaker=args.people,
            seed=args.seed,
            workers=args.workers,
            progress=lambda done, total: reporter.progress(done, total, 0.0),
        )
    for name, reason in made.failed:
        print(f"hyperasr: error: {name}: {' '.join(reason.split())}", file=sys.stderr)
    if made.n_left_out:
        print(
            f"hyperasr: {made.n_left_out} rows are no typical speech and were not simulated on",
            file=sys.stderr,
        )
    print(f"{made.manifest}: {made.n_written} recordings written, {made.n_kept} were there")
    return 1 if made.failed else 0
