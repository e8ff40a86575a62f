"""`hyperasr simulate`: one recording, or a whole manifest, as simulated people would say it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.audio.reading import load
from hyperasr.cli.terminal import Reporter
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.simulate import COHORTS, check_simulated
from hyperasr.cohorts.simulate import simulate as make_simulated
from hyperasr.cohorts.simulated_corpus import simulate_corpus
from hyperasr.util.files import atomic_write_bytes, keep_inputs
from hyperasr.util.program import complain, one_line

_ENDINGS = (".wav", ".verbatim.txt", ".clean.txt", ".json")


def simulate(args: Any) -> int:
    """Simulate a recording or a manifest; returns 1 where some recordings failed.

    Raises:
        ConfigError: an unknown cohort, a severity outside [0, 1].
        AudioError, ManifestError: the recording or the manifest cannot be read.
    """
    cohorts = list(COHORTS) if args.cohorts == ["all"] else list(args.cohorts)
    for cohort in cohorts:
        check_simulated(cohort)
    if str(args.source).endswith(".jsonl"):
        return _corpus(args, cohorts)
    waveform = load(args.source)
    stem = Path(args.source).stem
    views = {
        Path(args.out, f"{stem}-{cohort}-{severity:g}-{args.seed}"): (cohort, severity)
        for severity in args.severity or [0.5]
        for cohort in cohorts
    }
    keep_inputs((f"{view}{end}" for view in views for end in _ENDINGS), [args.source])
    for view, (cohort, severity) in views.items():
        for path in _recording(args, waveform, cohort, severity, str(view)):
            print(one_line(path))
    return 0


def _recording(
    args: Any, waveform: np.ndarray, cohort: str, severity: float, view: str
) -> list[Path]:
    """Write a simulated recording, what is heard in it, what was meant, and its events."""
    made = make_simulated(
        waveform, args.text, cohort, severity, seed=args.seed, speaker=args.person
    )
    wav = io.BytesIO()
    soundfile.write(wav, made.waveform, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    notes = {"person": args.person, "seed": args.seed, **made.labels()}
    contents = (
        wav.getvalue(),
        f"{made.verbatim}\n".encode(),
        f"{made.text}\n".encode(),
        json.dumps(notes, ensure_ascii=False, indent=2).encode() + b"\n",
    )
    return [
        atomic_write_bytes(view + end, content)
        for end, content in zip(_ENDINGS, contents, strict=True)
    ]


def _corpus(args: Any, cohorts: list[str]) -> int:
    rows = read_manifest(args.source)
    out = Path(args.out)
    keep_inputs([out / "manifest.jsonl"], [args.source])
    with Reporter() as reporter:
        made = simulate_corpus(
            rows,
            out,
            cohorts=cohorts,
            severities=args.severity,
            people_per_speaker=args.people,
            seed=args.seed,
            workers=args.workers,
            progress=lambda done, total: reporter.progress(done, total, 0.0),
        )
    for name, reason in made.failed:
        complain(f"{name}: {reason}", "hyperasr: error")
    if made.n_left_out:
        print(
            f"hyperasr: {made.n_left_out} rows are no typical speech and were not simulated on",
            file=sys.stderr,
        )
    print(
        f"{one_line(made.manifest)}: {made.n_written} recordings written, {made.n_kept} were there"
    )
    return 1 if made.failed else 0
