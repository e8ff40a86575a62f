"""Callers of the servers of `eval.benchmarks.server`: HTTP, WebSocket, the Wyoming protocol."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import time
import wave
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import numpy as np
import soundfile
from websockets.sync.client import connect
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import read_event, write_event

from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.errors import HyperASRError
from hyperasr.service.problems import RETRY_S

_FRAME_S = 0.1  # of sound in one message
_START_S = 120.0  # that a server may take to start


@contextmanager
def serving(
    command: Sequence[str], threads: int, port: int | None = None
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start a server and wait until it listens; gives its address and its process.

    Args:
        command: that starts it.
        threads: that it may use.
        port: where it will listen; None for a server that says its address first.
    Raises:
        HyperASRError: it does not start.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    # Who does not say an address logs what it hears.
    log = None if port is None else subprocess.DEVNULL
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
    ) as process:
        try:
            assert process.stdout is not None
            if port is not None:
                address = _listening(port, process)
            else:
                address = next(iter(process.stdout.readline().split()), "")
            if not address:
                raise HyperASRError(f"this server does not start: {' '.join(command)}")
            yield address, process
        finally:
            process.terminate()


def _listening(port: int, process: subprocess.Popen[str]) -> str:
    ends = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < ends:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return f"tcp://127.0.0.1:{port}"
        except OSError:
            time.sleep(0.1)
    return ""


class Answer(NamedTuple):
    """What a caller got: a status of HTTP (0: nothing came) and the text, "" if there is none."""

    caller: int
    status: int
    text: str


Ask = Callable[[bytes], tuple[int, str]]
"""A WAV file of 16-bit samples -> status and text."""


def over_http(address: str, n_callers: int) -> Ask:
    """Return how a server with OpenAI's API is asked."""
    # Given up sooner than by uvicorn (5 s): no call meets a connection that is just being closed.
    limits = httpx.Limits(max_connections=n_callers, keepalive_expiry=3.0)
    client = httpx.Client(base_url=f"{address}v1/", timeout=300, limits=limits)

    def ask(content: bytes) -> tuple[int, str]:
        answer = client.post("audio/transcriptions", files={"file": ("a.wav", content)})
        status = answer.status_code
        return status, str(answer.json()["text"]) if status == 200 else ""

    return ask


def over_wyoming(port: int) -> Ask:
    """Return how a server of the Wyoming protocol is asked: it closes after each answer."""
    how = {"rate": SAMPLE_RATE, "width": 2, "channels": 1}

    def ask(content: bytes) -> tuple[int, str]:
        with wave.open(io.BytesIO(content)) as file:
            sound = file.readframes(file.getnframes())
        events = (Transcribe(), AudioStart(**how), AudioChunk(audio=sound, **how), AudioStop())
        connection = socket.create_connection(("127.0.0.1", port), 300)
        with connection, connection.makefile("rwb") as stream:
            for event in events:
                write_event(event.event(), stream)
            answer = read_event(stream)
        if answer is None or not Transcript.is_type(answer.type):
            return 500, ""
        return 200, Transcript.from_event(answer).text

    return ask


class Callers:
    """Callers of one server, each with its own utterance.

    Args:
        ask: how the server is asked.
        waves: utterances, (n_samples,) float32, 16 kHz, one for each caller.
        n_at_once: of them; None is all.
    Attributes:
        expected: text of a lone call of each, once `call_alone` was called.
        answers: all others.
    """

    def __init__(self, ask: Ask, waves: Sequence[np.ndarray], n_at_once: int | None = None) -> None:
        self.ask, self.contents = ask, [_wav(waveform) for waveform in waves]
        self.n_at_once = n_at_once or len(waves)
        self.pool = ThreadPoolExecutor(self.n_at_once)
        self.expected: list[str] = []
        self.answers: list[Answer] = []

    def call(self, caller: int) -> Answer:
        """Call once."""
        try:
            answer = Answer(caller, *self.ask(self.contents[caller]))
        except (httpx.HTTPError, OSError):
            answer = Answer(caller, 0, "")
        self.answers.append(answer)
        return answer

    def call_alone(self) -> None:
        """Learn what each gets where nobody else calls."""
        self.expected = [self.call(caller).text for caller in range(len(self.contents))]
        self.answers.clear()

    def at_once(self) -> list[Answer]:
        """All call, `n_at_once` at the same time."""
        return list(self.pool.map(self.call, range(len(self.contents))))

    def one_by_one(self) -> list[Answer]:
        """One calls with the utterances of `n_at_once`, one after the other."""
        return [self.call(caller) for caller in range(self.n_at_once)]

    def go_on(self, seconds: float) -> None:
        """All call again and again; who is refused waits as long as the server asks."""
        ends = time.monotonic() + seconds

        def calls(caller: int) -> None:
            while time.monotonic() < ends:
                if self.call(caller).status == 503:
                    time.sleep(RETRY_S)

        list(self.pool.map(calls, range(len(self.contents))))

    def outcomes(self) -> dict[str, int]:
        """Count the answers: the lone call's text, another text, 503, other errors, none at all."""
        counts: Counter[str] = Counter(own=0, different=0, refused=0, failed=0, lost=0)
        for caller, status, text in self.answers:
            own = "own" if text == self.expected[caller] else "different"
            counts[{200: own, 503: "refused", 0: "lost"}.get(status, "failed")] += 1
        return dict(counts)


def speak(address: str, waveform: np.ndarray) -> tuple[float, list[float]]:
    """Speak an utterance over the WebSocket as it was said.

    Returns:
        Seconds from its end to the final text, and seconds between its partial texts, the first
        counted from its beginning.
    """
    route = f"{address.replace('http', 'ws', 1)}v1/hyperasr/live"
    samples = (np.clip(waveform, -1, 1) * 32_767).astype("<i2")
    n_frame = round(_FRAME_S * SAMPLE_RATE)
    with connect(route, proxy=None) as live, ThreadPoolExecutor(1) as listener:
        live.send('{"pause": "hold"}')
        live.recv()
        came = listener.submit(_times_of_texts, live)
        times = [time.perf_counter()]
        for first in range(0, len(samples), n_frame):
            frame = samples[first : first + n_frame]
            time.sleep(len(frame) / SAMPLE_RATE)
            live.send(frame.tobytes())
        ended = time.perf_counter()
        live.send('{"type": "end"}')
        *partial, final = came.result()
    return final - ended, np.diff([*times, *partial]).tolist()


def _times_of_texts(live: Any) -> list[float]:
    """Return when each partial text came, and last the final one."""
    times = []
    while True:
        kind = json.loads(live.recv())["type"]
        times.append(time.perf_counter())
        if kind == "final":
            return times
        if kind != "partial":
            raise HyperASRError(f"instead of a text the server sent {kind!r}")


def _wav(waveform: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()
