"""A real server in a thread of the test, and what speaks to it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import soundfile

from hyperasr.service.config import Limits, ServeConfig
from hyperasr.service.server import Server

RATE = 16_000
TOKEN = "a-token-of-some-length"
Voice = Callable[..., np.ndarray]
Start = Callable[..., Server]


@contextmanager
def running(
    model: Any, limits: Limits | None = None, name: str = "random", **config: Any
) -> Iterator[Server]:
    """Serve on free ports for the length of the block."""
    server = Server(model, name, ServeConfig(port=0, **config), limits)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(60)
        assert not thread.is_alive(), "the server does not stop"


def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition is true."""
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends, "it never happens"
        time.sleep(0.01)


def wav(waveform: np.ndarray) -> bytes:
    """Return a file whose samples are the waveform, to the bit."""
    file = io.BytesIO()
    soundfile.write(file, waveform, RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


def pcm(waveform: np.ndarray) -> bytes:
    """Return 16-bit samples."""
    return (np.clip(waveform, -1, 1) * 32_767).astype("<i2").tobytes()


def heard(data: bytes) -> np.ndarray:
    """Return the waveform of 16-bit samples, as the server hears it."""
    return np.frombuffer(data, "<i2").astype(np.float32) / 32_768


def post(server: Server, route: str, content: bytes, name: str = "a.wav", **fields: Any) -> Any:
    """Send a recording."""
    return httpx.post(
        f"{server.address}v1/{route}", files={"file": (name, content)}, data=fields, timeout=120
    )


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return dict(error)
