"""What a caller hands over becomes recordings: paths, bytes, files, samples, addresses, lists."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from hyperasr.audio.reading import from_array
from hyperasr.errors import AudioError, ConfigError, HyperASRError
from hyperasr.transcription.recordings import Recording, find_recordings
from hyperasr.types import Utterance

MOST_BYTES = 10**9
"""Of a recording that comes from an open file or an address, which is read at once and whole."""
_TIMEOUT_S = 30.0  # without an answer
_WEB = ("http://", "https://")


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
        sources: one or an iterable of: a path of a recording, a folder (searched recursively), a
            manifest (``.jsonl``), an `Utterance`; the bytes of a file, or a file opened as binary;
            an array of samples, (n,), (n, channels) or (channels, n), numpy or torch; an array and
            its rate in hertz as a tuple, in either order; a mapping with ``array`` and
            ``sampling_rate``, as of datasets; an http or https address.
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
            recordings = _recordings(source, name, rate, online)
        except HyperASRError as error:
            recordings = [Recording(name, error=error)]
        yield from recordings


def _recordings(source: Any, name: str, rate: float | None, online: bool) -> list[Recording]:
    if hasattr(source, "ndim"):
        if rate is None:
            raise AudioError(f"{name}: samples need their rate; give sampling_rate, in hertz")
        return [_of_samples(source, rate, name)]
    if rate is not None:
        raise AudioError(f"{name} is no array: it states its own rate; leave sampling_rate out")
    if isinstance(source, Recording):
        return [source]
    if isinstance(source, Utterance | os.PathLike):
        return find_recordings(source)
    if isinstance(source, str):
        if not source.startswith(_WEB):
            return find_recordings(source)
        return [Recording(source, content=_fetched(source, online))]
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
