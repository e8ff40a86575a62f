"""A whole corpus of simulated atypical speech from a manifest of typical speech, on disk.

Every view is a FLAC file with a JSON file of its labels beside it (both transcripts, events, word
times). The labels are written last, so an interrupted run goes on where it stopped, and what the
files hold depends on the manifest and the seed alone, not on how many processes made them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.audio.reading import load
from hyperasr.cohorts.manifest import write_manifest
from hyperasr.cohorts.simulate import COHORTS, VERSION, check_simulated, simulate
from hyperasr.cohorts.views import TYPICAL, View, plan_key, plan_views
from hyperasr.errors import AudioError, HyperASRError, ManifestError
from hyperasr.types import Utterance
from hyperasr.util.files import alone_in, atomic_write_bytes, atomic_write_text, keep_inputs
from hyperasr.util.workers import WorkerPool


@dataclass(frozen=True)
class CorpusMade:
    """What came of a corpus.

    Attributes:
        manifest: of all simulated recordings.
        n_written: recordings made now; n_kept: those that an earlier run had made.
        failed: id of the recording and why, for those that could not be read.
        n_left_out: rows of the manifest that are of other cohorts than typical speech.
    """

    manifest: Path
    n_written: int
    n_kept: int
    failed: tuple[tuple[str, str], ...]
    n_left_out: int = 0


def simulate_corpus(
    utterances: Sequence[Utterance],
    out: Path,
    *,
    cohorts: Sequence[str] = COHORTS,
    severities: Sequence[float] | None = None,
    people_per_speaker: int = 1,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> CorpusMade:
    """Simulate every utterance in every cohort, and write recordings, labels and a manifest.

    Args:
        utterances: rows of a manifest; typical ones are simulated on, any other is left out. One
            without text loses what needs words.
        out: folder of ``manifest.jsonl`` and a folder for each cohort.
        cohorts, severities, people_per_speaker, seed: as for `plan_views`; None for severities
            draws one for each simulated person.
        workers: processes.
        progress: called with recordings done and recordings in all.
    Raises:
        ConfigError: an unknown cohort or an impossible severity; another run is writing into `out`.
        ManifestError: not one recording could be made.
        ConfigError: a recording of the manifest would be replaced.
    """
    cohorts = tuple(dict.fromkeys(cohorts))
    for cohort in cohorts:
        check_simulated(cohort)
    typical = [u for u in utterances if u.cohort == TYPICAL]
    if utterances and not typical:
        raise ManifestError(
            f"none of the {len(utterances)} rows is typical speech, and nothing else is simulated "
            "on; their cohorts are " + ", ".join(sorted({u.cohort for u in utterances}))
        )
    views = plan_views(
        typical,
        seed=seed,
        cohorts=cohorts,
        severities=severities,
        people_per_speaker=people_per_speaker,
    )
    done = {view.id: labels for view in views if (labels := _finished(view, out)) is not None}
    n_kept = len(done)
    failed: list[tuple[str, str]] = []
    todo = [view for view in views if view.id not in done]
    written = (out / _name(view).with_suffix(end) for view in todo for end in (".flac", ".json"))
    keep_inputs([*written, out / "manifest.jsonl"], (u.path for u in utterances))
    if progress:
        progress(n_kept, len(views))
    with alone_in(out):
        for view, labels, error in _made(todo, out, workers):
            if labels is not None:
                done[view.id] = labels
            else:
                failed.append((view.utterance.id, error))
            if progress:
                progress(len(done) + len(failed), len(views))
        if not done:
            raise ManifestError(
                f"no recording could be simulated; the first is {failed[0][0]}: {failed[0][1]}"
                if failed
                else "the manifest has no recording to simulate"
            )
        rows = [_row(view, done[view.id]) for view in views if view.id in done]
        write_manifest(out / "manifest.jsonl", rows)
    return CorpusMade(
        manifest=out / "manifest.jsonl",
        n_written=len(done) - n_kept,
        n_kept=n_kept,
        failed=tuple(failed),
        n_left_out=len(utterances) - len(typical),
    )


def _made(
    views: Sequence[View], out: Path, workers: int
) -> Iterator[tuple[View, dict[str, Any] | None, str]]:
    if workers <= 1 or len(views) < 2:
        for view in views:
            yield (view, *_make(view, out))
        return
    with WorkerPool(workers) as pool:
        # In chunks, because sending a view costs as much as a tenth of simulating it.
        results = pool.map(_make, views, [out] * len(views), chunksize=16)
        for view, result in zip(views, results, strict=True):
            yield (view, *result)


def _make(view: View, out: Path) -> tuple[dict[str, Any] | None, str]:
    """Write one recording and then its labels; returns the labels, or why there are none."""
    u = view.utterance
    assert view.severity is not None
    try:
        key = plan_key([view])
        waveform = load(u.path, start_s=u.start_s, end_s=u.end_s, channel=u.channel)
        text = u.text_clean or u.text or ""
        simulated = simulate(
            waveform, text, view.cohort, view.severity, seed=view.seed, speaker=view.person
        )
    except HyperASRError as error:
        return None, str(error)
    labels = {"version": VERSION, "key": key, "person": view.person, **simulated.labels()}
    flac = io.BytesIO()
    soundfile.write(flac, simulated.waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    path = out / _name(view)
    # Killed after the recording, labels of an earlier run with another seed would pass for its.
    path.with_suffix(".json").unlink(missing_ok=True)
    atomic_write_bytes(path.with_suffix(".flac"), flac.getvalue())
    atomic_write_text(path.with_suffix(".json"), json.dumps(labels, ensure_ascii=False) + "\n")
    return labels, ""


def _finished(view: View, out: Path) -> dict[str, Any] | None:
    """Return the labels of a recording that an earlier run has made of the very same view."""
    path = out / _name(view)
    try:
        labels = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        same = isinstance(labels, dict) and labels.get("key") == plan_key([view])
    except (OSError, ValueError, AudioError):
        return None
    return labels if same and path.with_suffix(".flac").is_file() else None


def _name(view: View) -> Path:
    """Name a view's files: readable, safe on every disk, and unique."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", view.utterance.id).strip("-")[-60:]
    mark = hashlib.sha256(view.id.encode()).hexdigest()[:8]
    return Path(view.cohort) / f"{readable}-{mark}"


def _row(view: View, labels: dict[str, Any]) -> Utterance:
    clean, verbatim = labels["text_clean"], labels["text_verbatim"]
    assert view.severity is not None
    extra = dict(view.utterance.extra or {})
    extra.pop("channel", None)  # the simulated recording has one alone
    return dataclasses.replace(
        view.utterance,
        id=view.id,
        path=str(_name(view).with_suffix(".flac")),
        text=verbatim or None,
        text_clean=clean or None,
        speaker=view.person,
        cohort=view.cohort,
        severity=round(float(view.severity), 4),
        start_s=0.0,
        end_s=None,
        source=f"simulated from {view.utterance.source}".strip(),
        domain="simulated",
        extra=extra or None,
    )
