"""What is to be transcribed: files, folders, manifests and arrays become recordings, and these
segments in which someone may speak."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hyperasr.audio.container import Warn, read_pipe
from hyperasr.audio.loudness import audible
from hyperasr.audio.mel import MIN_SAMPLES, SAMPLE_RATE
from hyperasr.audio.reading import find_audio, stream
from hyperasr.audio.segments import PAUSES, cut_at_pauses
from hyperasr.audio.vad import Silencer, Speech
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.errors import AudioError, HyperASRError
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.types import Utterance

Source = str | os.PathLike[str] | Utterance
"""A path (file, folder, manifest) or a row of a manifest."""

_CHUNK_S = 5.0
_CLIPPED = 0.98  # of full scale; resampling moves the flat tops a little
_CLIPPED_SHARE = 0.005  # of all samples; loud speech that is not clipped stays far below


@dataclass(frozen=True, slots=True)  # a manifest may have millions of them
class Recording:
    """One recording, or a part of one, that is to be transcribed.

    Attributes:
        id: its name as the caller gave it: a path, a manifest's id, or a number for an array.
        path: the file; None for an array.
        waveform: of an array, (n_samples,) float32, 16 kHz.
        content: bytes of a file that is not on the disk, such as one that came through a pipe.
        start_s, end_s: the part, in seconds; None means to the end.
        channel: the one to hear, from 0; None hears all at once.
        reference: what was said, where a manifest tells.
        cohort, severity, domain: of a manifest.
        error: why there is nothing to read.
    """

    id: str
    path: str | None = None
    waveform: np.ndarray | None = None
    content: bytes | None = None
    start_s: float = 0.0
    end_s: float | None = None
    channel: int | None = None
    reference: str | None = None
    cohort: str = "typical"
    severity: float | None = None
    domain: str = "recorded"
    error: HyperASRError | None = None


class Reading:
    """Read a recording, cut at pauses, and note what its reader should know.

    Args:
        recording: to read.
        longest_s: no segment is longer, in seconds.
        options: what counts as a pause, and whether loudness is brought to one level.
        speech: a detector of speech, as `hyperasr.audio.vad.silero` makes it; None goes by energy.
    Attributes:
        n_samples: read so far, 16 kHz.
        n_kept: of them, in the segments, without what the detector silenced.
        warnings: one line each; complete when all segments were read.
    """

    def __init__(
        self,
        recording: Recording,
        longest_s: float,
        options: TranscribeOptions,
        speech: Speech | None = None,
    ) -> None:
        self.recording, self.longest_s, self.options = recording, longest_s, options
        self.n_samples = self.n_kept = 0
        self.warnings: list[str] = []
        pauses = PAUSES[options.pauses]
        self._silencer = Silencer(speech, pauses) if speech is not None else None

    def segments(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield the segments in which someone may speak.

        Yields:
            Start in seconds, and the waveform (n_samples,) float32, 16 kHz.
        Raises:
            HyperASRError: the recording cannot be read.
        """
        silencer = self._silencer
        pieces = self._pieces() if silencer is None else silencer(self._pieces())
        n_segments = 0
        for start, waveform in cut_at_pauses(pieces, self.longest_s, PAUSES[self.options.pauses]):
            raised = audible(waveform) if len(waveform) >= MIN_SAMPLES else None
            if raised is None:
                continue
            n_segments += 1
            self.n_kept += len(waveform)
            if silencer is not None:
                self.n_kept -= silencer.n_silenced(start, start + len(waveform))
            yield start / SAMPLE_RATE, raised
        if self.n_samples < MIN_SAMPLES:
            ms = 1000 * self.n_samples / SAMPLE_RATE
            self.warnings.append(f"it lasts {ms:.0f} ms, too short for speech: empty transcript")
        elif not n_segments:
            self.warnings.append("nobody speaks in it: empty transcript")

    def _pieces(self) -> Iterator[np.ndarray]:
        n_clipped = 0
        for piece in samples_of(self.recording, self.warnings.append):
            self.n_samples += len(piece)
            n_clipped += int(np.count_nonzero(np.abs(piece) > _CLIPPED))
            yield piece
        if n_clipped > _CLIPPED_SHARE * self.n_samples:
            share = 100 * n_clipped / self.n_samples
            self.warnings.append(f"{share:.0f} % of it is clipped; record it with less gain")


def samples_of(recording: Recording, warn: Warn) -> Iterator[np.ndarray]:
    """Yield a recording piece by piece, in flat memory however long it is.

    Args:
        recording: to read.
        warn: called with a line on what is lost or wrong, as it is found.
    Yields:
        (n_samples,) float32, 16 kHz.
    Raises:
        HyperASRError: it cannot be read.
    """
    r = recording
    if r.error is not None:
        raise r.error
    if r.waveform is not None:
        yield r.waveform
        return
    yield from stream(
        r.path or r.id,
        chunk_s=_CHUNK_S,
        start_s=r.start_s,
        end_s=r.end_s,
        channel=r.channel,
        warn=warn,
        content=r.content,
    )


def find_recordings(
    sources: Source | Iterable[Source], warn: Warn | None = None
) -> list[Recording]:
    """List every recording of the sources, in their order; folders are searched recursively.

    What cannot be found or read becomes a recording with an error, so that the rest goes on. A
    pipe, or ``-`` for standard input, is read at once and whole.

    Args:
        sources: paths of recordings, folders and manifests (``.jsonl``), or `Utterance` rows; or a
            single one of these.
        warn: called with a line on what a folder holds beside recordings; None is silent.
    """
    recordings: list[Recording] = []
    if isinstance(sources, str | os.PathLike | Utterance):
        sources = [sources]
    for source in sources:
        name = source.id if isinstance(source, Utterance) else _printable(source)
        try:
            recordings += _recordings(source, name, warn)
        except HyperASRError as error:
            recordings.append(Recording(name, error=error))
    return recordings


def _recordings(source: Source, name: str, warn: Warn | None) -> list[Recording]:
    if isinstance(source, Utterance):
        return [_row(source)]
    if not str(source):
        raise AudioError("an empty name is no recording; give a file, a folder, or - for a pipe")
    path = Path(source)
    if os.path.isdir(path):
        return [Recording(_printable(p), str(p)) for p in find_audio(path, warn)]
    if str(source) == "-" or (os.path.exists(path) and not os.path.isfile(path)):
        return [Recording("stdin" if str(source) == "-" else name, content=read_pipe(source))]
    if path.suffix.lower() == ".jsonl":
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
