"""Open a recording by what is in the file, whatever its name and its header say."""

from __future__ import annotations

import io
import logging
import os
import re
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import soundfile

from hyperasr.errors import AudioError

__all__ = ["Warn", "breaks_off", "check_rate", "open_recording"]

logger = logging.getLogger(__name__)

Warn = Callable[[str], object]
"""Takes a line about a recording that its reader should know."""

_WAVE = (b"RIFF", b"RIFX", b"RF64")
_READABLE = (
    *_WAVE,
    b"fLaC",
    b"OggS",
    b"NIST_1A",
    b"ID3",
    b"FORM",
    b".snd",
    b"caff",
    b"riff\x2e\x91\xcf\x11",  # Wave64
)
_FOREIGN = (
    (4, b"ftyp", "MPEG-4 (m4a, mp4)"),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "Windows Media"),
    (0, b"#!AMR", "AMR"),
    (0, b"wvpk", "WavPack"),
    (0, b"ajkg", "Shorten"),
    (0, b"\xff\xf1", "raw AAC"),
    (0, b"\xff\xf9", "raw AAC"),
)
_SPHERE_PACKED = (b"embedded-shorten", b"embedded-wavpack", b"embedded-shortpack")
_LENGTH_TAGS = (b"Xing", b"Info")  # in the first frame of MPEG audio
_HEAD_BYTES = 4096  # of a file, to see what it is
_TAIL_BYTES = 1 << 16
_RATES_HZ = (1_000, 768_000)
# What libsndfile notes down of a WAV, AIFF, AU or Wave64 that is shorter than its header says.
_SHORT_OF_BYTES = re.compile(r"^ *(?:data|SSND|Data Size|riff) *: (\d+) \(should be (\d+)\)", re.M)
_RF64_FRAMES = re.compile(r"^ *Frames *: (\d+)", re.M)
_SPHERE_FRAMES = re.compile(rb"^sample_count -i (\d+)", re.M)
_SLACK_BYTES = 64  # padding that some writers count and others do not
_STREAM_BYTES = 2**31 - 2**16  # from here on sizes stand for "not known" in headers of streams


def open_recording(path: str | os.PathLike[str], warn: Warn | None = None) -> soundfile.SoundFile:
    """Open a recording for reading.

    `frames` of the result is 2**63 - 1 where only reading to the end can tell the length; where
    it is not `seekable()`, it can only be read from its start.

    Args:
        path: of the recording.
        warn: called with a line about what is wrong with its header; None logs it.
    Raises:
        AudioError: no such file, not a file, not audio, or a header damaged beyond use.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            head = raw.read(_HEAD_BYTES)
    except FileNotFoundError:
        raise AudioError(f"there is no file {path}; check the name") from None
    except IsADirectoryError:
        raise AudioError(f"{path} is a folder; give a recording in it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"cannot read {path}: {reason}") from error
    _refuse_what_is_no_audio(path, head)
    try:
        file = soundfile.SoundFile(_source(path, head, warn or logger.warning))
    except (soundfile.LibsndfileError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(getattr(error, "error_string", error)).split()).rstrip(".")
        raise AudioError(
            f"cannot read {path}: its header is damaged or cut short, or its coding is unknown "
            f"({reason or 'no reason given'}); convert it to WAV"
        ) from error
    check_rate(file.samplerate, str(path))
    return file


def breaks_off(file: soundfile.SoundFile, path: str | os.PathLike[str]) -> bool:
    """Whether a recording ends before its header says, or as OGG without the mark of its end.

    Args:
        file: what `open_recording` gave for `path`; FLAC and MP3 can only be told by reading them.
        path: of the recording.
    """
    notes = file.extra_info
    if file.format == "OGG":
        return "lacks an end-of-stream" in notes
    if file.format == "NIST":
        with Path(path).open("rb") as raw:
            counted = _SPHERE_FRAMES.search(raw.read(_HEAD_BYTES))
        return counted is not None and int(counted[1]) > file.frames
    if sizes := _SHORT_OF_BYTES.search(notes):
        said, there = int(sizes[1]), int(sizes[2])
        return there + _SLACK_BYTES < said < _STREAM_BYTES
    noted = _RF64_FRAMES.search(notes) if file.format == "RF64" else None
    return noted is not None and int(noted[1]) > file.frames


def check_rate(sample_rate: float, what: str) -> None:
    """Raise `AudioError` where `what` has a sample rate (in hertz) that no recording has."""
    if not _RATES_HZ[0] <= sample_rate <= _RATES_HZ[1]:
        raise AudioError(
            f"{what} has a sample rate of {sample_rate:g} Hz; "
            f"expected {_RATES_HZ[0]} to {_RATES_HZ[1]} (hertz, not kilohertz)"
        )


def _refuse_what_is_no_audio(path: Path, head: bytes) -> None:
    if not head:
        raise AudioError(f"{path} is empty (0 bytes); record or copy it again")
    if head.startswith(b"NIST_1A") and any(coding in head for coding in _SPHERE_PACKED):
        raise AudioError(
            f"{path} is a compressed SPHERE file; unpack it: sph2pipe -f wav IN.sph OUT.wav"
        )
    for offset, magic, name in _FOREIGN:
        if head[offset:].startswith(magic):
            raise AudioError(
                f"{path} is {name}, which is not read; convert it: ffmpeg -i IN OUT.wav"
            )
    if head.startswith(_WAVE) and len(head) >= 12 and head[8:12] != b"WAVE":
        raise AudioError(f"{path} is a RIFF file without sound ({head[8:12]!r}, not WAVE)")
    if not (head.startswith(_READABLE) or _is_mpeg_frame(head)):
        kind = "text" if _is_text(head) else "no audio that is known"
        raise AudioError(
            f"{path} is {kind}, whatever its name says; give WAV, FLAC, OGG, MP3 or SPHERE"
        )


def _is_mpeg_frame(head: bytes) -> bool:
    """Whether MPEG audio of layer II or III begins here (layer I also fits UTF-16 text)."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    layer, bit_rate, sample_rate = head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    return layer in (1, 2) and bit_rate != 15 and sample_rate != 3


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


def _source(path: Path, head: bytes, warn: Warn) -> str | int | io.BytesIO:
    """Return what to give to soundfile: mostly the name, else something that reads better."""
    if head.startswith(b"RIFF"):
        return _unclosed_wav(path, head, warn) or os.fspath(path)
    if _is_mpeg_frame(head) or head.startswith(b"ID3"):
        return os.fspath(path) if _mpeg_length_is_known(path, head) else _pipe(path)
    return os.fspath(path)


def _unclosed_wav(path: Path, head: bytes, warn: Warn) -> io.BytesIO | None:
    """Return a WAV whose sound is longer than its header says, with the size put right.

    Writers that were interrupted leave a size of 0 or of what they had written by then. Sizes
    that are too large need no help.
    """
    at, size = 12, 0
    while at + 8 <= len(head):
        name, size = struct.unpack_from("<4sI", head, at)
        if name == b"data":
            break
        at += 8 + size + size % 2
    else:
        return None
    end = at + 8 + size
    n_bytes = path.stat().st_size
    if end + 9 > n_bytes:
        return None
    with path.open("rb") as raw:
        raw.seek(end)
        tail = raw.read(5)
        # A further chunk follows, after a byte of padding that some writers forget.
        if any(all(0x20 <= byte < 0x7F for byte in tail[i : i + 4]) for i in (0, 1)):
            return None
        raw.seek(0)
        content = bytearray(raw.read())
    struct.pack_into("<I", content, at + 4, min(n_bytes - at - 8, 2**32 - 1))
    warn(f"a WAV header gives {size} bytes of sound, but there are more: reading all")
    return io.BytesIO(content)


def _mpeg_length_is_known(path: Path, head: bytes) -> bool:
    """Whether the first frame of MPEG audio says how long it is, and not too little.

    Without it the decoder estimates the length from the first bit rate and stops there, which
    cuts recordings of variable bit rate.
    """
    with path.open("rb") as raw:
        start = 0
        if head.startswith(b"ID3") and len(head) >= 10:
            size = 0
            for byte in head[6:10]:
                size = size << 7 | byte & 0x7F
            start = 10 + size
        raw.seek(start)
        frame = raw.read(256)
    at = max(frame.find(tag) for tag in _LENGTH_TAGS)
    if at < 0 or at + 16 > len(frame):
        return False
    flags, _, n_bytes = struct.unpack_from(">III", frame, at + 4)
    surplus = path.stat().st_size - start - n_bytes
    # Tags at the end, such as titles and pictures, are no sound; a file that breaks off needs no
    # help, because the decoder then stops by itself.
    return flags & 3 == 3 and surplus <= max(_TAIL_BYTES, n_bytes // 100)


def _pipe(path: Path) -> int:
    """Feed MPEG audio through a pipe: without seeking and its tag, no length cuts it short."""
    reading, writing = os.pipe()

    def feed() -> None:
        try:
            with os.fdopen(writing, "wb") as sink, path.open("rb") as raw:
                block = raw.read(1 << 20)  # enough to hold the tag behind a cover picture
                for tag in _LENGTH_TAGS:
                    block = block.replace(tag, bytes(len(tag)), 1)
                while block:
                    sink.write(block)
                    block = raw.read(1 << 16)
        except BrokenPipeError:  # the reader has what it wants
            pass

    threading.Thread(target=feed, daemon=True).start()
    return reading
