"""Recordings in: any file or array becomes one waveform, float32, mono, 16 kHz."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from hyperasr.audio.container import (
    UNKNOWN_LENGTH,
    RecordingFile,
    Warn,
    check_rate,
    open_recording,
)
from hyperasr.audio.mel import CHUNK_S, SAMPLE_RATE
from hyperasr.errors import AudioError

logger = logging.getLogger(__name__)

# What a folder is searched for.
_SUFFIXES = frozenset(
    ".wav .wave .flac .ogg .oga .opus .mp3 .sph .nist .aif .aiff .aifc .au .snd .caf .w64 .rf64 "
    ".m4a .m4b .mp4 .m4v .mov .3gp .webm .weba .mkv .mka .mp2 .mpg .mpeg .avi .flv .aac .ac3 .amr "
    ".wma .wmv .asf .ape .tta .wv".split()
)
_NARROW_HZ = 8_000  # under the rate of a telephone
_BLOCK_SAMPLES = 1 << 18  # over all channels, read at once: 1 MiB
_CANCELLED_SHARE = 0.1
_MAX_CHANNELS = 64  # more, and an array is probably no audio but features
_MAX_AMPLITUDE = 2.0**32  # beyond 32-bit integers stored as float


def load(
    path: str | os.PathLike[str],
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    channel: int | None = None,
) -> np.ndarray:
    """Read a recording, or a part of it, as 16 kHz mono.

    Reads whatever libsndfile or FFmpeg can decode, also the first sound track of a video, told
    apart by content and not by name. Channels are averaged, unless they cancel each other: then
    the strongest is taken. Nothing is scaled or clipped. A file that breaks off gives what can be
    decoded of it.

    Args:
        path: the file.
        start_s: where the part begins, in seconds; the file is read from there.
        end_s: where it ends; None, or anything beyond the end, means to the end.
        channel: the one to read, from 0, as where each caller has one; None averages all.
    Returns:
        (n_samples,) float32, 16 kHz, at least one sample. It may be shorter than `MIN_SAMPLES`.
    Raises:
        AudioError: no such file, no audio, damaged beyond reading, no samples, NaN or infinite
            samples, or a part or channel that lies outside of the recording.
    """
    pieces = list(stream(path, chunk_s=CHUNK_S, start_s=start_s, end_s=end_s, channel=channel))
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def stream(
    path: str | os.PathLike[str],
    *,
    chunk_s: float,
    start_s: float = 0.0,
    end_s: float | None = None,
    channel: int | None = None,
    warn: Warn | None = None,
    content: bytes | None = None,
) -> Iterator[np.ndarray]:
    """Yield a recording piece by piece, in flat memory however long it is.

    Joined, the pieces are exactly what `load` returns.

    Args:
        path: the file.
        chunk_s: length of each piece but the last, in seconds.
        start_s: where to begin, in seconds.
        end_s: where to end; None means at the end.
        channel: the one to read, from 0; None averages all.
        warn: called with a line about what is lost or wrong, as it is found; None logs it.
        content: what `read_pipe` gave of a pipe that is named `path`; None opens the file.
    Yields:
        (n_samples,) float32 mono 16 kHz, at least one sample each.
    Raises:
        AudioError: as `load`, when a piece is asked for; or `chunk_s` is not positive.
    """
    n_chunk = round(chunk_s * SAMPLE_RATE)
    if n_chunk < 1:
        raise AudioError(f"chunk_s is {chunk_s}; it must be positive")
    waiting: list[np.ndarray] = []
    n_waiting, n_total = 0, 0
    warn = warn or logger.warning
    with open_recording(path, warn, content=content) as file:
        if file.samplerate < _NARROW_HZ:
            warn(
                f"recorded at {file.samplerate:,} Hz: speech sounds above "
                f"{file.samplerate // 2:,} Hz are missing, expect more errors"
            )
        blocks = _mono_blocks(file, path, start_s, end_s, channel, warn)
        for block in _resampled(blocks, file.samplerate):
            waiting.append(block)
            n_waiting += len(block)
            n_total += len(block)
            if n_waiting >= n_chunk:
                joined = np.concatenate(waiting)
                n_whole = n_waiting - n_waiting % n_chunk
                yield from (joined[i : i + n_chunk] for i in range(0, n_whole, n_chunk))
                waiting, n_waiting = [joined[n_whole:]], n_waiting - n_whole
    if n_total == 0:
        raise AudioError(f"{path} holds no samples that can be read; record or export it again")
    if n_waiting:
        yield np.concatenate(waiting)


def duration_s(path: str | os.PathLike[str]) -> float:
    """Return the length of a recording in seconds, as a rule from its header alone.

    Raises:
        AudioError: the file cannot be opened, or holds no samples.
    """
    with open_recording(path) as file:
        n_frames = file.frames
        if n_frames >= UNKNOWN_LENGTH:
            n_frames = sum(len(b) for b in _mono_blocks(file, path, 0.0, None))
        if n_frames == 0:
            raise AudioError(f"{path} holds no samples; record or export it again")
        return float(n_frames / file.samplerate)


def from_array(array: Any, sample_rate: float) -> np.ndarray:
    """Turn an array of samples into a 16 kHz mono waveform.

    Args:
        array: (n,), (n, channels) or (channels, n), numpy, torch or nested lists. Floats are in
            [-1, 1]. Integers are scaled by the range of their type; 64-bit integers, which no
            recorder writes, by that of int16 where all fit, else of int32, else of their own.
        sample_rate: of the array, in hertz.
    Returns:
        (n_samples,) float32, 16 kHz, at least one sample.
    Raises:
        AudioError: no samples, NaN or infinite ones, a shape or type that is no audio, or an
            impossible sample rate.
    """
    check_rate(sample_rate, "the array")
    samples = _to_float(_to_numpy(array))
    if samples.ndim == 2 and samples.size:
        samples = _mean_of_channels(samples)
    if samples.ndim != 1 or samples.size == 0:
        raise AudioError(
            f"an array of shape {samples.shape} is no recording; "
            "expected (n,), (n, channels) or (channels, n) with at least one sample"
        )
    _check_finite(samples, 0, sample_rate, "the array")
    resampled = np.concatenate(list(_resampled(iter([samples]), sample_rate)))
    if resampled.size == 0:
        raise AudioError(f"{len(samples)} samples at {sample_rate:g} Hz are too few to resample")
    return resampled


def find_audio(folder: str | os.PathLike[str], warn: Warn | None = None) -> list[Path]:
    """List the recordings in a folder and all folders below it.

    Recordings are regular files known by their suffix. Hidden files and folders are left out,
    folders that are links are not followed, and the order does not depend on upper and lower case.

    Args:
        folder: to be searched.
        warn: called with one line that counts what was passed over, and why; None is silent.
    Raises:
        AudioError: there is no such folder, or no recording in it.
    """
    top = Path(folder)
    if not top.is_dir():
        raise AudioError(f"{top} is {'a file, not a folder' if top.exists() else 'not there'}")
    found = []
    passed: Counter[str] = Counter()
    for where, folders, names in os.walk(top, onerror=lambda _: passed.update(["not readable"])):
        passed["hidden"] += sum(name.startswith(".") for name in [*folders, *names])
        passed["linked folders"] += sum(os.path.islink(Path(where, name)) for name in folders)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(where, name) for name in names if not name.startswith(".")):
            if path.suffix.lower() not in _SUFFIXES:
                passed[path.suffix.lower() or "without a suffix"] += 1
            elif not path.is_file():
                passed["pipes, devices and broken links"] += 1
            else:
                found.append(path)
    if not found:
        raise AudioError(f"no recording in {top}; looked for {' '.join(sorted(_SUFFIXES))}")
    reasons = [f"{n} {why}" for why, n in sorted(passed.items()) if n]
    if warn is not None and reasons:
        warn(f"{top}: {len(found)} recordings; passed over: {', '.join(reasons)}")
    return sorted(found, key=lambda path: ([part.casefold() for part in path.parts], str(path)))


def _mono_blocks(
    file: RecordingFile,
    path: str | os.PathLike[str],
    start_s: float,
    end_s: float | None,
    channel: int | None = None,
    warn: Warn = logger.warning,
) -> Iterator[np.ndarray]:
    """Yield the asked part at its own rate, one channel or their average, checked."""
    rate = file.samplerate
    if channel is not None and not 0 <= channel < file.channels:
        raise AudioError(
            f"{path} has {file.channels} channels; there is no channel {channel} (counted from 0)"
        )
    start, stop = _part(file, path, start_s, end_s)
    try:
        if start:
            file.seek(start)
    except RuntimeError:  # libsndfile's errors as well
        raise AudioError(f"{path} breaks off before the part that was asked for") from None
    n_block = max(1, _BLOCK_SAMPLES // file.channels)
    position, heard = start, channel
    while stop is None or position < stop:
        n_wanted = n_block if stop is None else min(n_block, stop - position)
        block, broken = file.read_block(n_wanted)
        if channel is None:
            mono, strongest = _mixed(block, heard)
            if heard is None and strongest is not None:
                warn(f"its channels cancel each other: channel {strongest} alone is read there")
            heard = strongest if heard is None else heard
        else:
            mono = block[:, channel]
        _check_finite(mono, position, rate, str(path))
        if len(mono):
            yield mono
        position += len(mono)
        if broken and file.frames < UNKNOWN_LENGTH:
            warn(f"a recording is damaged after {position / rate:.2f} s: the rest is lost")
        if len(mono) < n_wanted:
            if not broken and (missing := file.missing(position)):
                warn(
                    f"a recording breaks off after {position / rate:.2f} s{missing}; copy or "
                    "record it again"
                )
            return


def _part(
    file: RecordingFile, path: str | os.PathLike[str], start_s: float, end_s: float | None
) -> tuple[int, int | None]:
    valid = math.isfinite(start_s) and start_s >= 0 and (end_s is None or end_s > start_s)
    if not valid:
        raise AudioError(f"{path} has no part from {start_s} s to {end_s} s")
    start = round(start_s * file.samplerate)
    if start and start >= file.frames:
        raise AudioError(
            f"{path} lasts {file.frames / file.samplerate:.2f} s; there is no part from {start_s} s"
        )
    if end_s is None or end_s == math.inf:
        return start, None
    return start, max(start + 1, round(end_s * file.samplerate))


def _resampled(blocks: Iterator[np.ndarray], rate: float) -> Iterator[np.ndarray]:
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def _to_numpy(array: Any) -> np.ndarray:
    if hasattr(array, "detach"):  # torch, which has dtypes that numpy lacks
        array = array.detach().cpu()
        array = array.float().numpy() if array.is_floating_point() else array.numpy()
    try:
        return np.asarray(array)
    except ValueError as error:
        raise AudioError("samples in rows of different lengths are no recording") from error


def _to_float(samples: np.ndarray) -> np.ndarray:
    kind = samples.dtype.kind
    if kind == "f":
        with np.errstate(over="ignore"):  # infinite samples are refused later
            return samples.astype(np.float32)
    if kind not in "iu":
        raise AudioError(f"samples of type {samples.dtype} are no audio; give floats or integers")
    n_bits = samples.dtype.itemsize * 8
    if n_bits == 64:
        peak = max(int(samples.max(initial=0)), -1 - int(samples.min(initial=0)))
        n_bits = next((n for n in (16, 32) if peak < 2 ** (n - (kind == "i"))), 64)
    scaled = samples.astype(np.float64) / 2.0 ** (n_bits - 1)
    return (scaled - (kind == "u")).astype(np.float32)


def _mean_of_channels(samples: np.ndarray) -> np.ndarray:
    n_rows, n_columns = samples.shape
    n_channels = min(n_rows, n_columns)
    if n_channels > _MAX_CHANNELS or n_rows == n_columns > 1:
        raise AudioError(
            f"an array of shape {samples.shape} does not say which axis is time; "
            "give (n,), (n, channels) or (channels, n)"
        )
    return _mixed(samples.T if n_rows == n_channels else samples)[0]


def _mixed(samples: np.ndarray, before: int | None = None) -> tuple[np.ndarray, int | None]:
    """Return the mean of the channels (n, channels), or one where they cancel, and which.

    With one microphone wired the wrong way round, the channels are each other's opposite and
    their mean is silence. Channels that have nothing in common leave one part in `channels` of
    their mean energy; a tenth of that is taken for cancellation. What was taken `before` is taken
    again unless another channel is twice as strong, since changing it makes a step.
    """
    n_channels = samples.shape[1]
    if n_channels == 1:
        return samples[:, 0], None
    with np.errstate(over="ignore", invalid="ignore"):  # infinite samples are refused later
        mean = samples.mean(axis=1, dtype=np.float32)
        energy = np.einsum("ij,ij->j", samples, samples)
        if not mean @ mean * n_channels < _CANCELLED_SHARE * energy.mean():
            return mean, None
    strongest = int(energy.argmax())
    if before is not None and 2 * energy[before] >= energy[strongest]:
        strongest = before
    return samples[:, strongest], strongest


def _check_finite(samples: np.ndarray, position: int, rate: float, what: str) -> None:
    # NaN fails every comparison. Two passes without a copy, for nearly every block is sound.
    if not (samples.max(initial=0) <= _MAX_AMPLITUDE and samples.min(initial=0) >= -_MAX_AMPLITUDE):
        bad = ~(np.abs(samples) <= _MAX_AMPLITUDE)
        at_s = (position + int(bad.argmax())) / rate
        raise AudioError(
            f"{what} has NaN, infinite or impossibly large samples, the first at {at_s:.3f} s; "
            "export it again"
        )
