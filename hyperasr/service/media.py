"""Sound as a client sends it, while it comes, to samples: PCM, or a container such as WebM."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import numpy as np

from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.errors import AudioError

FORMATS = ("pcm", "webm", "ogg")
"""What a live client may send: 16-bit little-endian samples, mono, 16 kHz; or Opus in WebM or Ogg,
as browsers record it."""

Sink = Callable[[np.ndarray | AudioError | None], None]
"""Takes samples (n,) float32, 16 kHz; an error, after which nothing follows; None at the end."""


class Pcm:
    """16-bit samples as they are; one that is cut in two waits for its other half."""

    def __init__(self, sink: Sink) -> None:
        self._sink, self._half = sink, b""

    def write(self, data: bytes) -> None:
        """Take more bytes."""
        data = self._half + data
        n_whole = len(data) // 2 * 2
        self._half = data[n_whole:]
        self._sink(np.frombuffer(data[:n_whole], "<i2").astype(np.float32) / 32_768)

    def end(self) -> None:
        """Hand on all that was written, then None."""
        self._half = b""
        self._sink(None)


class Container:
    """A container that FFmpeg decodes in a thread, as its bytes come.

    Args:
        form: ``webm`` or ``ogg``.
        sink: called in that thread.
    """

    def __init__(self, form: str, sink: Sink) -> None:
        self._form, self._sink = form, sink
        self._bytes: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._rest = b""
        threading.Thread(target=self._decode, daemon=True).start()

    def write(self, data: bytes) -> None:
        """Take more bytes."""
        if data:
            self._bytes.put(data)

    def end(self) -> None:
        """Hand on all that was written, then None."""
        self._bytes.put(b"")

    def read(self, n: int) -> bytes:
        """Return up to `n` bytes, at least one unless all is over; FFmpeg calls this."""
        data = self._rest or self._bytes.get()
        if not data:
            self._bytes.put(b"")  # it may ask once more
        self._rest = data[n:]
        return data[:n]

    def _decode(self) -> None:
        import av
        from av.error import FFmpegError

        last: AudioError | None = None
        try:
            with av.open(self, "r", format=self._form) as container:
                convert = av.AudioResampler("flt", "mono", SAMPLE_RATE)
                for frame in container.decode(audio=0):
                    for part in convert.resample(frame):
                        self._sink(part.to_ndarray().reshape(-1))
                for part in convert.resample(None):
                    self._sink(part.to_ndarray().reshape(-1))
        except (FFmpegError, IndexError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            last = AudioError(f"what was sent is no sound in {self._form}: {reason}")
        self._sink(last)
