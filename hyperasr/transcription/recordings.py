"""What is to be transcribed: files, folders, manifests and arrays become a list of recordings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hyperasr.audio import reading as audio
from hyperasr.audio.container import open_recording
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.errors import AudioError, HyperASRError
from hyperasr.types import Utterance

__all__ = ["MANIFEST_SUFFIX", "Reading", "Recording", "Source", "find_recordings"]

Source = Any
"""A path (file, folder, manifest), an `Utterance`, a `Recording`, or an array with its rate."""

MANIFEST_SUFFIX = ".jsonl"

_CHUNK_S = 5.0
_NARROW_HZ = 8_000  # under the rate of a telephone
_CLIPPED = 0.98  # of full scale; resampling moves the flat tops a little
_CLIPPED_SHARE = 0.005  # of all samples; loud speech that is not clipped stays far below


@dataclass(frozen=True)
class Recording:
    """One recording, or a part of one, that is to be transcribed.

    Attributes:
        id: its name as the caller gave it: a path, a manifest's id, or a number for an array.
        path: the file; None for an array.
        waveform: of an array, (n_samples,) float32, 16 kHz.
        start_s, end_s: the part, in seconds; None means to the end.
        channel: the one to hear, from 0; None hears all at once.
        reference: what was said, where a manifest tells.
        cohort, severity, domain: of a manifest.
        error: why there is nothing to read.
    """

    id: str
    path: str | None = None
    waveform: np.ndarray | None = None
    start_s: float = 0.0
    end_s: float | None = None
    channel: int | None = None
    reference: str | None = None
    cohort: str = "typical"
    severity: float | None = None
    domain: str = "recorded"
    error: HyperASRError | None = None


class Reading:
    """Read a recording piece by piece and note what its reader should know.

    Attributes:
        n_samples: read so far, 16 kHz.
        warnings: one line each; complete when all pieces were read.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.n_samples = 0
        self.warnings: list[str] = []

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield the waveform, (n_samples,) float32, 16 kHz each.

        Raises:
            HyperASRError: the recording cannot be read.
        """
        if self.recording.error is not None:
            raise self.recording.error
        n_clipped = 0
        for piece in self._source():
            self.n_samples += len(piece)
            n_clipped += int(np.count_nonzero(np.abs(piece) > _CLIPPED))
            yield piece
        if n_clipped > _CLIPPED_SHARE * self.n_samples:
            share = 100 * n_clipped / self.n_samples
            self.warnings.append(f"{share:.0f} % of it is clipped; record it with less gain")

    def _source(self) -> Iterator[np.ndarray]:
        r = self.recording
        if r.path is None:
            assert r.waveform is not None
            yield r.waveform
            return
        with open_recording(r.path, lambda line: None) as file:  # `stream` will say it
            rate = file.samplerate
        if rate < _NARROW_HZ:
            self.warnings.append(
                f"recorded at {rate:,} Hz: speech sounds above {rate // 2:,} Hz are missing, "
                "expect more errors"
            )
        yield from audio.stream(
            r.path,
            chunk_s=_CHUNK_S,
            start_s=r.start_s,
            end_s=r.end_s,
            channel=r.channel,
            warn=self.warnings.append,
        )


def find_recordings(sources: Source | Iterable[Source]) -> list[Recording]:
    """List every recording of the sources, in their order; folders are searched recursively.

    What cannot be found or read becomes a recording with an error, so that the rest goes on.

    Args:
        sources: paths of recordings, folders and manifests (``.jsonl``), `Utterance` rows, or
            tuples of an array and its sample rate in hertz; or a single one of these.
    """
    if _is_one(sources):
        sources = [sources]
    found: list[Recording] = []
    for number, source in enumerate(sources, start=1):
        is_path = isinstance(source, str | os.PathLike)
        name = _printable(source) if is_path else f"array {number}"
        try:
            found += _recordings(source, name)
        except HyperASRError as error:
            found.append(Recording(name, error=error))
    return found


def _is_one(sources: Any) -> bool:
    if isinstance(sources, tuple):
        return len(sources) == 2 and isinstance(sources[1], int | float)
    return isinstance(sources, str | os.PathLike | Utterance | Recording) or hasattr(
        sources, "ndim"
    )


def _recordings(source: Source, name: str) -> list[Recording]:
    if isinstance(source, Recording):
        return [source]
    if isinstance(source, Utterance):
        return [_row(source)]
    if isinstance(source, tuple):
        if len(source) != 2:
            raise AudioError(f"{name}: give an array with its sample rate, as a tuple of two")
        return [Recording(name, waveform=audio.from_array(source[0], source[1]))]
    if not isinstance(source, str | os.PathLike):
        raise AudioError(f"{name}: an array needs its sample rate; give both as a tuple")
    path = Path(source)
    if path.is_dir():
        return [Recording(_printable(p), str(p)) for p in audio.find_audio(path)]
    if path.suffix.lower() == MANIFEST_SUFFIX:
        return [_row(row) for row in read_manifest(path)]
    return [Recording(name, str(path))]


def _printable(path: str | os.PathLike[str]) -> str:
    """Return a path as text; bytes that are no UTF-8 show as escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _row(row: Utterance) -> Recording:
    return Recording(
        row.id,
        row.path,
        start_s=row.start_s,
        end_s=row.end_s,
        channel=row.channel,
        reference=row.text,
        cohort=row.cohort,
        severity=row.severity,
        domain=row.domain,
    )
