"""Open a recording by what is in the file, whatever its name and its header say.

WAV, FLAC, OGG and their like are read by libsndfile; every other format, and a WAV whose header
was never closed, by FFmpeg's libraries (PyAV).
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from hyperasr.errors import AudioError

logger = logging.getLogger(__name__)

Warn = Callable[[str], object]
"""Takes a line about a recording that its reader should know."""

UNKNOWN_LENGTH = 2**62
"""`frames` from here on: only reading to the end can tell the length."""

_WAVE = (b"RIFF", b"RIFX", b"RF64")
_SOUNDFILE = (*_WAVE, b"fLaC", b"OggS", b"NIST_1A", b"FORM", b".snd", b"caff", b"riff\x2e\x91\xcf")
# What FFmpeg may take a file for. No playlists, which name other files and addresses to open.
_FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,rm,tta,voc,"
    "w64,wav,wv"
)
# Formats without a header that tells the length: FFmpeg guesses it from the bit rate.
_UNMEASURED = frozenset({"aac", "ac3", "amr", "eac3", "mpeg", "mpegts"})
_LENGTH_TAGS = (b"Xing", b"Info", b"VBRI")  # right before the first frame of an MP3
_SPHERE_PACKED = (b"embedded-shorten", b"embedded-wavpack", b"embedded-shortpack")
_HEAD_BYTES = 4096  # of a file, to see what it is
_PIPE_BYTES = 10**9  # 8 hours of WAV at 16 kHz
_PREROLL_S = 1.0  # decoded ahead of a part: the first frames after a jump lack what they overlap
_RESCUE_FRAMES = 64  # read at once where a file is damaged
_RATES_HZ = (1_000, 768_000)
# What libsndfile notes down of a WAV, AIFF, AU or Wave64 that is shorter than its header says,
_SHORT_OF_BYTES = re.compile(r"^ *(?:data|SSND|Data Size|riff) *: (\d+) \(should be (\d+)\)", re.M)
# and of a WAV whose sound goes on behind the size that its header gives.
_NO_CHUNK = re.compile(r"(?:Have 0|Unknown chunk) marker .*at position (\d+)")
_RF64_FRAMES = re.compile(r"^ *Frames *: (\d+)", re.M)
_SPHERE_FRAMES = re.compile(r"^sample_count -i (\d+)", re.M)
_SLACK_BYTES = 64  # padding that some writers count and others do not
# Sizes in headers of streams that stand for "not known": round figures near the largest possible,
# or a gigabyte and more where a hundredth of it is there.
_STREAM_BYTES = 2**31 - 2**16
_LARGE_BYTES, _LARGE_SHARE = 10**9, 100


class SoundFile(soundfile.SoundFile):
    """A recording as libsndfile reads it."""

    def __init__(self, source: bytes | io.BytesIO, head: bytes) -> None:
        super().__init__(source)
        self._source, self._head = source, head

    def read_block(self, n_frames: int) -> tuple[np.ndarray, bool]:
        """Return up to `n_frames` (n, channels) float32, and whether the file is damaged there."""
        position = self.tell()
        buffer = np.empty((n_frames, self.channels), dtype=np.float32)
        try:
            return self.read(out=buffer), False
        except (soundfile.LibsndfileError, RuntimeError):
            pass
        # What was decoded before the damage is lost with the error, and so is the decoder: read it
        # again from a fresh one, in small steps.
        rescued = 0
        try:
            if isinstance(self._source, io.BytesIO):
                self._source.seek(0)
            with soundfile.SoundFile(self._source) as again:
                again.seek(position)
                while rescued < n_frames:
                    n_read = len(again.read(out=buffer[rescued : rescued + _RESCUE_FRAMES]))
                    if n_read == 0:
                        break
                    rescued += n_read
        except (soundfile.LibsndfileError, RuntimeError):
            pass
        return buffer[:rescued], rescued < n_frames

    def missing(self, n_read: int) -> str | None:
        """Say what is missing of a recording that was read to its end; None for nothing."""
        notes, whole_s = self.extra_info, self.frames / self.samplerate
        if self.format == "OGG" and "lacks an end-of-stream" in notes:
            return ", before its end"
        if sizes := _SHORT_OF_BYTES.search(notes):
            said, there = int(sizes[1]), int(sizes[2])
            stream = said >= _STREAM_BYTES or said >= max(_LARGE_BYTES, _LARGE_SHARE * there)
            return None if stream or said <= there + _SLACK_BYTES else _of(whole_s * said / there)
        counted = None
        if self.format == "NIST":
            counted = _SPHERE_FRAMES.search(self._head.decode("latin-1"))
        elif self.format == "RF64":
            counted = _RF64_FRAMES.search(notes)
        if counted and int(counted[1]) > self.frames:
            return _of(int(counted[1]) / self.samplerate)
        short = n_read < self.frames - self.samplerate // 10 and self.frames < UNKNOWN_LENGTH
        return _of(whole_s) if short else None


class MediaFile:
    """The first sound track of a recording or video, as FFmpeg decodes it.

    Args:
        raw: the file; it is closed with this.
        warn: called with a line about what is wrong in it.
        options: for FFmpeg's demuxer.
    Attributes:
        samplerate, channels: of the track.
        frames: as its header says; at least `UNKNOWN_LENGTH` where none says it.
    Raises:
        AudioError: it has no sound track, or one of a coding that is not known.
        av.error.FFmpegError: it is no media file, or damaged beyond use.
    """

    _rest: np.ndarray  # decoded samples that nobody has read yet

    def __init__(self, raw: BinaryIO, warn: Warn, options: dict[str, str] | None = None) -> None:
        self._raw, self._warn = raw, warn
        self._begins: int | None = None  # byte of the first packet
        self._damaged = False
        self._options = {"format_whitelist": _FORMATS} | (options or {})
        self._open()
        n_tracks = len(self._container.streams.audio)
        if n_tracks > 1:
            warn(f"it has {n_tracks} sound tracks: the first one is read")
        decoded = self._decoded()
        first = next(decoded, None)
        # Only a decoded frame tells the true rate; the header of AAC or Opus may give another.
        self.samplerate: int = first.sample_rate if first else self._track.rate
        self.channels: int = first.layout.nb_channels if first else 1
        self._layout = first.layout.name if first else "mono"
        self._origin = first.pts if first else None
        self.frames = self._stated_frames() if first else 0
        self._go_on(chain([first] if first else [], decoded), 0)

    def __enter__(self) -> MediaFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._container.close()
        self._raw.close()

    def seek(self, start: int) -> None:
        """Go to a sample of each channel, counted from 0."""
        from av.error import FFmpegError

        first = None
        try:
            at_s = max(0.0, start / self.samplerate - _PREROLL_S)
            at = (self._origin or 0) + int(at_s / self._track.time_base)
            self._container.seek(at, stream=self._track)
            decoded = self._decoded()
            first = next(decoded, None)
        except FFmpegError:
            pass
        if first is None or self._position(first) > start:  # without an index: from the beginning
            self._container.close()
            self._open()
            decoded = self._decoded()
            first = next(decoded, None)
        self._go_on(chain([first] if first else [], decoded), start)

    def read_block(self, n_frames: int) -> tuple[np.ndarray, bool]:
        """Return up to `n_frames` (n, channels) float32, and False: damage is passed over."""
        parts = [self._rest]
        n_waiting = len(self._rest)
        while n_waiting < n_frames and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            n_waiting += len(block)
        joined = np.concatenate(parts)
        self._rest = joined[n_frames:]
        return joined[:n_frames], False

    def missing(self, n_read: int) -> str | None:
        """Say what is missing of a recording that was read to its end; None for nothing."""
        short = n_read < self.frames - self.samplerate // 10 and self.frames < UNKNOWN_LENGTH
        return _of(self.frames / self.samplerate) if short and not self._damaged else None

    def _open(self) -> None:
        import av

        self._raw.seek(0)
        # A title in an unknown encoding is no reason to refuse a recording.
        self._container: Any = av.open(self._raw, options=self._options, metadata_errors="ignore")
        if not self._container.streams.audio:
            raise AudioError("has no sound track")
        self._track: Any = self._container.streams.audio[0]
        if self._track.codec_context is None:
            raise AudioError("has sound in a coding that is not known")

    def _stated_frames(self) -> int:
        track, container = self._track, self._container
        length_s = track.duration and track.duration * track.time_base
        if length_s is None and len(container.streams) == 1 and container.duration:
            length_s = Fraction(container.duration, 10**6)
        n_frames = (length_s or 0) * self.samplerate
        measured = container.format.name not in _UNMEASURED and "ignore_length" not in self._options
        if container.format.name == "mp3":  # by a tag in its first frame, or guessed
            at = self._raw.tell()  # of FFmpeg's reading
            begins = self._begins or 0
            self._raw.seek(max(0, begins - _HEAD_BYTES))
            tag = self._raw.read(min(begins, _HEAD_BYTES))
            self._raw.seek(at)
            measured = n_frames.denominator == 1 and any(name in tag for name in _LENGTH_TAGS)
        return round(n_frames) if measured and n_frames else UNKNOWN_LENGTH

    def _position(self, frame: Any) -> int:
        """Return where a frame begins, in samples of each channel from the beginning."""
        if frame.pts is None or self._origin is None:
            return 0
        return round((frame.pts - self._origin) * self._track.time_base * self.samplerate)

    def _decoded(self) -> Iterator[Any]:
        """Yield what can be decoded, and report what cannot."""
        from av.error import FFmpegError

        packets = self._container.demux(self._track)
        last, damaged = None, False
        while True:
            try:
                packet = next(packets, None)
                frames = [] if packet is None else packet.decode()
            except FFmpegError:
                damaged = True
                continue
            if packet is None:
                return  # damage at the very end is reported as what is missing
            if self._begins is None:
                self._begins = packet.pos or 0
            for frame in frames:
                if damaged:
                    after_s = (self._position(last) + last.samples) / self.samplerate if last else 0
                    self._warn(f"a recording is damaged after {after_s:.2f} s: a piece is left out")
                    damaged, self._damaged = False, True
                yield frame
                last = frame

    def _go_on(self, frames: Iterator[Any], start: int) -> None:
        self._blocks = self._samples(frames, start)
        self._rest = np.empty((0, self.channels), dtype=np.float32)

    def _samples(self, frames: Iterator[Any], start: int) -> Iterator[np.ndarray]:
        """Yield frames as (n, channels) float32, from the sample `start` on."""
        from av import AudioResampler

        convert, form = None, None
        counted = self._track.time_base * self.samplerate == 1  # durations are samples
        nothing = np.empty((0, self.channels), dtype=np.float32)
        block = nothing
        n_last: int | None = None
        position: int | None = None
        for frame in chain(frames, [None]):
            # The last frame of MPEG-4 is as long as all others; its duration says what is sound.
            block = block if frame else block[:n_last]
            yield block[max(0, start - (position or 0)) :]
            if frame:
                position = self._position(frame) if position is None else position + len(block)
                if convert is None or form != _form(frame):
                    # A stream may change in the middle; a resampler takes frames of one form.
                    convert = AudioResampler("flt", self._layout, self.samplerate)
                    form = _form(frame)
                parts = [part.to_ndarray() for part in convert.resample(frame)]
                block = np.concatenate([nothing, *(p.reshape(-1, self.channels) for p in parts)])
                n_last = frame.duration if counted and frame.duration else None


def _form(frame: Any) -> tuple[str, str, int]:
    """Return what a resampler needs to know of a frame."""
    return frame.format.name, frame.layout.name, frame.sample_rate


RecordingFile = SoundFile | MediaFile


def open_recording(
    path: str | os.PathLike[str], warn: Warn | None = None, *, content: bytes | None = None
) -> RecordingFile:
    """Open a recording for reading.

    Args:
        path: of the recording.
        warn: called with a line about what is wrong in it; None logs it.
        content: what was read of a pipe that is named `path`; None opens the file.
    Raises:
        AudioError: no such file, not a file, no sound, or a header damaged beyond use.
    """
    warn = warn or logger.warning
    try:
        raw = _opened(Path(path)) if content is None else io.BytesIO(content)
        head = raw.read(_HEAD_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"cannot read {path}: {reason}") from error
    source = os.fsencode(path) if content is None else io.BytesIO(content)
    try:
        file = _of_format(path, source, raw, head, warn)
        check_rate(file.samplerate, str(path))
    except AudioError:
        raw.close()
        raise
    return file


def _opened(path: Path) -> BinaryIO:
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return path.open("rb")
    except FileNotFoundError:
        raise AudioError(f"there is no file {path}; check the name") from None
    if stat.S_ISDIR(mode):
        raise AudioError(f"{path} is a folder; give a recording in it")
    raise AudioError(f"{path} is a pipe or a device, which only transcribe and export read")


def _of_format(
    path: str | os.PathLike[str], source: bytes | io.BytesIO, raw: BinaryIO, head: bytes, warn: Warn
) -> RecordingFile:
    _refuse_what_is_no_audio(path, head)
    options: dict[str, str] = {}
    reason = ""
    if head.startswith(_SOUNDFILE):
        try:
            file = SoundFile(source, head)
            size = _unclosed_size(file)
            if size is None:
                raw.close()
                return file
            file.close()
            warn(f"a WAV header gives {size} bytes of sound, but there are more: reading all")
            options["ignore_length"] = "1"
        except (soundfile.LibsndfileError, OSError, ValueError, RuntimeError) as error:
            reason = str(getattr(error, "error_string", error))
    from av.error import FFmpegError

    try:
        return MediaFile(raw, warn, options)
    except AudioError as error:
        raise AudioError(f"{path} {error}; give WAV, FLAC, OGG, MP3, m4a, mp4 or webm") from None
    except FFmpegError as error:
        reason = " ".join((reason or error.strerror or "").split()).rstrip(".")
        raise AudioError(
            f"{path} is no audio that is known, or its header is damaged or cut short "
            f"({reason or 'no reason given'}); copy or export it again"
        ) from error


def _unclosed_size(file: SoundFile) -> int | None:
    """Return what a WAV header says of the bytes of sound, where sound goes on behind them.

    Writers that were interrupted leave a size of 0 or of what they had written by then. Sizes
    that are too large need no help.
    """
    notes = file.extra_info
    said = re.search(r"^data *: (\d+)$", notes, re.M)
    length = re.search(r"^Length *: (\d+)$", notes, re.M)
    behind = _NO_CHUNK.search(notes)
    if not (file.format in ("WAV", "WAVEX") and said and length and behind):
        return None
    return int(said[1]) if int(length[1]) > int(behind[1]) + _SLACK_BYTES else None


def read_pipe(path: str | os.PathLike[str]) -> bytes:
    """Read a pipe, a device, or for ``-`` standard input, once and to its end.

    Raises:
        AudioError: it cannot be read, is a terminal, or has more than 1 GB (8 hours of 16 kHz WAV).
    """
    content = bytearray()
    try:
        with open(0 if str(path) == "-" else path, "rb", closefd=str(path) != "-") as pipe:
            if pipe.isatty():
                raise AudioError("standard input is a terminal; give a recording: < my.wav")
            while block := pipe.read(1 << 20):
                content += block
                if len(content) > _PIPE_BYTES:
                    raise AudioError(f"{path} gives more than 1 GB; write it to a file first")
    except OSError as error:
        raise AudioError(f"cannot read {path}: {error.strerror}") from error
    return bytes(content)


def check_rate(sample_rate: float, what: str) -> None:
    """Raise `AudioError` where `what` has a sample rate (in hertz) that no recording has."""
    if not _RATES_HZ[0] <= sample_rate <= _RATES_HZ[1]:
        raise AudioError(
            f"{what} has a sample rate of {sample_rate:g} Hz; "
            f"expected {_RATES_HZ[0]} to {_RATES_HZ[1]} (hertz, not kilohertz)"
        )


def _refuse_what_is_no_audio(path: str | os.PathLike[str], head: bytes) -> None:
    if not head:
        raise AudioError(f"{path} is empty (0 bytes); record or copy it again")
    if head.startswith(b"NIST_1A") and any(coding in head for coding in _SPHERE_PACKED):
        raise AudioError(
            f"{path} is a compressed SPHERE file; unpack it: sph2pipe -f wav IN.sph OUT.wav"
        )
    if not head.startswith(_SOUNDFILE) and _is_text(head):
        raise AudioError(f"{path} is text, whatever its name says; give a recording")


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not merely a character cut at the end
            return False
        text = head[: error.start].decode()
    return all(c.isprintable() or c.isspace() for c in text)


def _of(whole_s: float) -> str:
    return f" of {whole_s:.2f} s"
