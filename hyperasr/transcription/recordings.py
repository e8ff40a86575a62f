"""What a caller hands over becomes recordings, and these segments in which someone may speak."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from hyperasr.audio.container import Warn, read_pipe
from hyperasr.audio.loudness import audible
from hyperasr.audio.mel import MIN_SAMPLES, SAMPLE_RATE
from hyperasr.audio.reading import find_audio, from_array, stream
from hyperasr.audio.segments import PAUSES, cut_at_pauses
from hyperasr.audio.vad import Silencer, Speech
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.errors import AudioError, ConfigError, HyperASRError
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.types import Utterance

Source = str | os.PathLike[str] | Utterance
"""A path (file, folder, manifest) or a row of a manifest."""

MOST_BYTES = 10**9
"""Of a recording that comes from an open file or an address, which is read at once and whole."""
_TIMEOUT_S = 30.0  # without an answer of an address
_WEB = ("http://", "https://")
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
        longest_s: no segment is longer, in seconds.
        options: what counts as a pause.
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
    """Yield a recording piece by piece, (n_samples,) float32, 16 kHz, however long it is.

    `warn` is called with a line on what is lost or wrong, as it is found.

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
            recordings += _found(source, name, warn)
        except HyperASRError as error:
            recordings.append(Recording(name, error=error))
    return recordings


def _found(source: Source, name: str, warn: Warn | None) -> list[Recording]:
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


def holds_several(source: Any) -> bool:
    """Whether a source is a folder, a manifest or an iterable of sources, and no recording itself.

    A list is always many recordings, never the channels of one.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return str(source) != "" and (path.is_dir() or path.suffix.lower() == ".jsonl")
    return not _is_one(source)


def recordings_of(
    sources: Any, sampling_rate: float | None = None, *, online: bool = False
) -> Iterator[Recording]:
    """Yield the recordings of one source or many, each made when it is asked for.

    What cannot be found or read becomes a recording with an error, so that the rest goes on.

    Args:
        sources: one or an iterable of what `hyperasr.hub.HyperASR.transcribe` takes.
        sampling_rate: of arrays that come without one, in hertz.
        online: whether addresses are fetched.
    Raises:
        AudioError: it is none of these.
    """
    if _is_one(sources):
        return _each([sources], sampling_rate, online)
    if not isinstance(sources, Iterable):
        raise AudioError(f"a {type(sources).__name__} is no recording; give a path or samples")
    if isinstance(sources, list | tuple) and sources and isinstance(sources[0], Real):
        raise AudioError(
            f"a {type(sources).__name__} is several recordings; give samples as a NumPy array"
        )
    return _each(sources, sampling_rate, online)


def _is_one(source: Any) -> bool:
    if isinstance(source, tuple):
        return len(source) == 2 and any(isinstance(part, Real) for part in source)
    kinds = str | os.PathLike | bytes | bytearray | memoryview | Mapping | Utterance | Recording
    return isinstance(source, kinds) or hasattr(source, "read") or hasattr(source, "ndim")


def _each(sources: Iterable[Any], rate: float | None, online: bool) -> Iterator[Recording]:
    for number, source in enumerate(sources, start=1):
        name = f"recording {number}"
        try:
            recordings = _of_one(source, name, rate, online)
        except HyperASRError as error:
            recordings = [Recording(name, error=error)]
        yield from recordings


def _of_one(source: Any, name: str, rate: float | None, online: bool) -> list[Recording]:
    if hasattr(source, "ndim"):
        if rate is None:
            raise AudioError(f"{name}: samples need their rate; give sampling_rate, in hertz")
        return [_of_samples(source, rate, name)]
    if rate is not None:
        raise AudioError(f"{name} is no array: it states its own rate; leave sampling_rate out")
    if isinstance(source, Recording):
        return [source]
    if isinstance(source, str) and source.startswith(_WEB):
        return [Recording(source, content=_fetched(source, online))]
    if isinstance(source, str | os.PathLike | Utterance):
        return find_recordings(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return [Recording(name, content=bytes(source))]
    if hasattr(source, "read"):
        named = getattr(source, "name", None)
        name = named if isinstance(named, str) else name
        return [Recording(name, content=_content(source, name))]
    samples, rate = _with_rate(source, name)
    return [_of_samples(samples, rate, name)]


def _of_samples(samples: Any, rate: Any, name: str) -> Recording:
    if not isinstance(rate, Real):
        raise AudioError(f"{name} has the sampling rate {rate!r}; give a number, in hertz")
    return Recording(name, waveform=from_array(samples, float(rate)))


def _with_rate(source: Any, name: str) -> tuple[Any, Any]:
    """Return samples and rate of a tuple in either order, or of a mapping."""
    if isinstance(source, Mapping):
        missing = {"array", "sampling_rate"} - set(source)
        if missing:
            raise AudioError(
                f"{name} is a mapping without {min(missing)!r}, with {sorted(map(str, source))}; "
                "give one with 'array' and 'sampling_rate', such as row['audio'] of a dataset"
            )
        return source["array"], source["sampling_rate"]
    if not (isinstance(source, tuple) and _is_one(source)):
        raise AudioError(f"{name} is a {type(source).__name__}; give a path, bytes or samples")
    first, second = source
    if isinstance(first, Real) and isinstance(second, Real):
        raise AudioError(f"{name} is two numbers; give samples and their rate")
    return (second, first) if isinstance(first, Real) else (first, second)


def _content(file: Any, name: str) -> bytes:
    try:
        content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError, TypeError) as error:
        raise AudioError(f"{name} cannot be read: {error}") from error
    if not isinstance(content, bytes | bytearray):
        raise AudioError(f"{name} does not give bytes; open it with mode 'rb'")
    if len(content) > MOST_BYTES:
        raise AudioError(f"{name} has more than {MOST_BYTES / 1e9:g} GB; give its path")
    return bytes(content)


def _fetched(address: str, online: bool) -> bytes:
    if not online:
        raise ConfigError(f"{address}: the network is switched off here; give a file of this disk")
    import urllib.request
    from http.client import HTTPException

    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer:
            return _content(answer, address)
    except (OSError, ValueError, HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise AudioError(f"{address} cannot be fetched: {reason}") from error
