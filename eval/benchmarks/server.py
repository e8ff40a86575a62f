"""What it is worth that callers are decoded together, measured over HTTP at a real server.

    python -m eval.benchmarks.server --config eval/configs/server.yaml

The server is a process of its own, its clients are threads of this one. In turn, all callers send
an utterance each at once, and one caller sends the same utterances one after the other; the ratio
is that of the medians' throughput, its interval a bootstrap over rounds. Every text is held against
that of a lone call. Then the callers go on until the server has answered `requests`, and its memory
before and after stands in the file. Last, utterances are spoken over the WebSocket at their own
pace, and the time from their end to the final text is measured.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import soundfile
from websockets.sync.client import connect

from eval.benchmarks.speed import interleaved, ratio_row
from eval.lib import results
from eval.lib.tables import print_rows
from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.audio.reading import load
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.errors import ConfigError, HyperASRError
from train.loop.program import read_config, run_program

_FRAME_S = 0.1  # of sound in one message


@dataclass(frozen=True)
class ServerConfig:
    """What is served, to how many."""

    model: str = "tiny.en"
    """As `hyperasr serve` takes it."""
    clips: Path = Path("hyperasr/assets/demo/manifest.jsonl")
    """Manifest whose recordings are cut into utterances."""
    n_callers: int = 16
    """Callers at once, at least 2, each with an utterance of its own."""
    seconds: float = 3.0
    """Length of each utterance."""
    rounds: int = 20
    """Timed rounds, at least 2."""
    requests: int = 2_000
    """Requests after which memory is looked at again; none are made more than rounds need where
    this is 0."""
    spoken: int = 10
    """Utterances spoken over the WebSocket."""
    threads: int = 2
    """Threads of the server."""
    out: Path = Path("results/server.json")
    """Result file."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if self.n_callers < 2 or self.rounds < 2:
            raise ConfigError("n_callers and rounds must be at least 2")


@contextmanager
def serving(model: str, threads: int) -> Iterator[tuple[str, psutil.Process]]:
    """Start `hyperasr serve` on a free port; gives its address and its process.

    Raises:
        HyperASRError: it does not start.
    """
    command = [sys.executable, "-m", "hyperasr.cli", "serve", "--port", "0", "--model", model]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline().split()
            if not said:
                raise HyperASRError("the server does not start; its own message stands above")
            yield said[0], psutil.Process(process.pid)
        finally:
            process.terminate()


class Callers:
    """Callers of one server, each with its own utterance.

    Args:
        address: of the server.
        waves: utterances, (n_samples,) float32, 16 kHz, one for each caller.
    Attributes:
        expected: text of a lone call of each.
        n_answered, n_different: answers, and those whose text is not that of the lone call.
        failed: statuses of answers that are none.
    """

    def __init__(self, address: str, waves: list[np.ndarray]) -> None:
        self.client = httpx.Client(
            base_url=f"{address}v1/", timeout=300, limits=httpx.Limits(max_connections=len(waves))
        )
        self.pool = ThreadPoolExecutor(len(waves))
        self.contents = [_wav(wave) for wave in waves]
        self.expected: list[str] = []
        self.n_answered = self.n_different = 0
        self.failed: list[int] = []
        self.expected = [self._text(content) or "" for content in self.contents]

    def at_once(self) -> None:
        """All call at the same moment."""
        self._count(list(self.pool.map(self._text, self.contents)))

    def one_by_one(self) -> None:
        """One calls with the utterance of each, one after the other."""
        self._count([self._text(content) for content in self.contents])

    def _text(self, content: bytes) -> str | None:
        answer = self.client.post("audio/transcriptions", files={"file": ("a.wav", content)})
        if answer.status_code != 200:
            self.failed.append(answer.status_code)
            return None
        return str(answer.json()["text"])

    def _count(self, texts: list[str | None]) -> None:
        self.n_answered += len(texts)
        pairs = zip(texts, self.expected, strict=True)
        self.n_different += sum(text is not None and text != own for text, own in pairs)


def end_to_final_s(address: str, wave: np.ndarray) -> float:
    """Speak an utterance over the WebSocket as it was said; returns seconds from end to text."""
    live = f"{address.replace('http', 'ws', 1)}v1/hyperasr/live"
    samples = (np.clip(wave, -1, 1) * 32_767).astype("<i2")
    n_frame = round(_FRAME_S * SAMPLE_RATE)
    with connect(live, proxy=None) as socket:
        socket.send('{"pause": "hold"}')
        socket.recv()
        for first in range(0, len(samples), n_frame):
            frame = samples[first : first + n_frame]
            time.sleep(len(frame) / SAMPLE_RATE)
            socket.send(frame.tobytes())
        ended = time.perf_counter()
        socket.send('{"type": "end"}')
        while json.loads(socket.recv())["type"] != "final":
            pass
        return time.perf_counter() - ended


def utterances(config: ServerConfig) -> list[np.ndarray]:
    """Return one utterance for each caller, cut from the recordings in turn.

    Raises:
        ConfigError: the recordings are too few or too short.
    """
    n = round(config.seconds * SAMPLE_RATE)
    waves = [load(row.path) for row in read_manifest(config.clips)]
    cut = [wave[i : i + n] for wave in waves for i in range(0, len(wave) - n + 1, n)]
    if len(cut) < config.n_callers:
        raise ConfigError(
            f"{config.clips} has {len(cut)} stretches of {config.seconds:g} s, too few for "
            f"{config.n_callers} callers"
        )
    return cut[: config.n_callers]


def measure(config: ServerConfig) -> tuple[list[results.Row], dict[str, Any]]:
    """Return the rows, and what the file says beside them."""
    waves = utterances(config)
    with serving(config.model, config.threads) as (address, process):
        callers = Callers(address, waves)
        times = interleaved([callers.at_once, callers.one_by_one], config.rounds)
        before = process.memory_info().rss
        while callers.n_answered < config.requests:
            callers.at_once()
        after = process.memory_info().rss
        spoken = [end_to_final_s(address, wave) for wave in waves[: config.spoken]]
    setting = (
        f"{config.model}, {config.n_callers} callers, utterances of {config.seconds:g} s, "
        f"{config.threads} threads"
    )
    row = ratio_row("over_one_at_a_time", times, "one caller after the other", setting, config.seed)
    row |= {"seconds": np.median(times, axis=0).tolist(), "headline": True}
    about = {
        "n_answered": callers.n_answered,
        "n_different": callers.n_different,
        "failed": callers.failed,
        "memory_mb": [round(before / 1e6, 1), round(after / 1e6, 1)],
        "end_to_final_s": {"median": float(np.median(spoken)), "longest": max(spoken)},
    }
    return [row], about


def _wav(wave: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def main() -> None:
    """Measure, write the JSON, print the table."""
    config = read_config(ServerConfig)
    rows, about = measure(config)
    results.save(
        "eval.benchmarks.server", config, rows, seed=config.seed, protocol="speed", served=about
    )
    print_rows(rows, title="server")
    print(json.dumps(about, indent=2))


if __name__ == "__main__":
    run_program(main)
