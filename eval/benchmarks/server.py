"""What it is worth that callers are decoded together, measured over HTTP at a real server.

    python -m eval.benchmarks.server --config eval/configs/server.yaml

Every server is a process of its own with as many threads; callers are threads of this one.

- ``over_one_at_a_time``: in turn, all callers send an utterance each at once, and one caller sends
  the same utterances one after the other. The ratio is that of the medians' throughput, its
  interval a bootstrap over rounds. Every text is held against that of a lone call. Then the callers
  go on until the server has answered `requests`; its memory before and after stands in the file.
- ``live``: utterances are spoken over the WebSocket at their own pace. Seconds from their end to
  the final text, and between partial texts, the first counted from the beginning.
- ``crowd``: callers with a sentence of their own call again and again a server that lets `queue`
  wait. Who is refused comes again after a second, as the server asks. In the end `queue` of them
  call once more, and the server gets SIGTERM as soon as all of these wait or are answered.
- ``over_wyoming_faster_whisper``, ``over_faster_whisper_batched``: ours over HTTP, adapted, against
  the Whisper as published in int8: wyoming-faster-whisper by its protocol (greedy like ours, and
  with the 5 beams that it takes by itself), and faster-whisper's batched pipeline over HTTP
  (`eval.benchmarks.faster_whisper_server`). All hear the recordings of the crowd, `n_callers` at
  once; ``wer`` and ``peer_wer`` are of all these answers. A second row: one caller with the first
  `n_callers` of them, one after the other. The recordings are of speakers by whom our checkpoints
  were chosen, which flatters.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from eval.benchmarks.callers import Answer, Callers, over_http, over_wyoming, serving, speak
from eval.benchmarks.speed import ctranslate2_folder, interleaved, peer_version, ratio_row
from eval.lib import results
from eval.lib.tables import print_rows
from hyperasr import hub
from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.audio.reading import load
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError, MissingExtra
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.metrics.protocols import protocol
from hyperasr.whisper.backbone import Backbone
from train.loop.program import read_config, run_program

_END_S = 120.0  # that a server may take to end
_WYOMING_BEAMS = (1, 5)  # greedy as ours is, and what it takes by itself


@dataclass(frozen=True)
class ServerConfig:
    """What is served, to how many."""

    model: str = "tiny.en"
    """As `hyperasr serve` takes it."""
    dtype: str = "float32"
    """Of our server's weights; on a CPU `hyperasr serve` takes float32 by itself."""
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
    recordings: Path | None = None
    """Manifest of recordings with texts, for the crowd and the peers; null leaves both out."""
    longest_s: float = 4.0
    """Of these recordings; longer ones are left out."""
    crowd: int = 64
    """Callers of the crowd, at least as many as `n_callers` and `queue`."""
    crowd_s: float = 120.0
    """Seconds for which they call."""
    queue: int = 32
    """Recordings that may wait meanwhile."""
    peer_rounds: int = 5
    """Timed rounds against each peer, at least 2."""
    wyoming_faster_whisper: str | None = None
    """Executable of that package, in an environment of its own; it is left out where this is null
    or not there."""
    threads: int = 2
    """Threads of each server."""
    protocol: str = "whisper"
    """Of the error rates."""
    out: Path = Path("results/server.json")
    """Result file."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if min(self.n_callers, self.rounds, self.peer_rounds) < 2:
            raise ConfigError("n_callers, rounds and peer_rounds must be at least 2")
        if self.crowd < max(self.n_callers, self.queue):
            raise ConfigError("crowd must be at least n_callers and queue")


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


def short_recordings(config: ServerConfig) -> tuple[list[np.ndarray], list[str]]:
    """Return a recording of typical speech for each of the crowd, and its text; no two are alike.

    Raises:
        ConfigError: there are too few.
    """
    assert config.recordings is not None
    found: dict[str, np.ndarray] = {}
    for row in read_manifest(config.recordings):
        if row.cohort == TYPICAL and row.text and len(found) < config.crowd:
            wave = load(row.path, start_s=row.start_s, end_s=row.end_s)
            if len(wave) <= config.longest_s * SAMPLE_RATE:
                found.setdefault(row.text, wave)
    if len(found) < config.crowd:
        raise ConfigError(
            f"{config.recordings} has {len(found)} recordings of at most {config.longest_s:g} s, "
            f"too few for a crowd of {config.crowd}"
        )
    return list(found.values()), list(found)


def common_batches(config: ServerConfig) -> tuple[list[results.Row], dict[str, Any]]:
    """Return the row against one caller at a time, and what else that server was seen to do."""
    waves = utterances(config)
    with serving(ours(config), config.threads) as (address, process):
        callers = Callers(over_http(address, len(waves)), waves)
        callers.call_alone()
        times = interleaved([callers.at_once, callers.one_by_one], config.rounds)
        memory = psutil.Process(process.pid).memory_info
        before = memory().rss
        while len(callers.answers) < config.requests:
            callers.at_once()
        after = memory().rss
        finals, gaps = zip(*(speak(address, w) for w in waves[: config.spoken]), strict=True)
    setting = (
        f"{config.model}, {config.dtype}, {config.n_callers} callers, utterances of "
        f"{config.seconds:g} s, {config.threads} threads"
    )
    row = ratio_row("over_one_at_a_time", times, "one caller after the other", setting, config.seed)
    about = {
        "answers": callers.outcomes(),
        "memory_mb": [round(before / 1e6, 1), round(after / 1e6, 1)],
        "live": {"end_to_final_s": _spread(finals), "between_partial_s": _spread([*chain(*gaps)])},
    }
    return [row | {"seconds": np.median(times, axis=0).tolist(), "headline": True}], about


def crowd(config: ServerConfig, waves: list[np.ndarray]) -> dict[str, Any]:
    """Return what a crowd got, and what those got who were under way at SIGTERM."""
    command = [*ours(config), "--queue", str(config.queue)]
    with serving(command, config.threads) as (address, process):
        callers = Callers(over_http(address, len(waves)), waves)
        callers.call_alone()
        callers.go_on(config.crowd_s)
        seen = {"answers": callers.outcomes(), "n_texts": len(set(callers.expected))}
        callers.answers.clear()
        calls = [callers.pool.submit(callers.call, caller) for caller in range(config.queue)]
        waiting = n_done = 0
        # Asked in this order, who is answered in between is missed and not counted twice.
        while n_done + waiting < config.queue:
            n_done = sum(call.done() for call in calls)
            waiting = httpx.get(f"{address}health", timeout=300).json()["waiting"]
        process.terminate()
        for call in calls:
            call.result()
        ended = {"in_flight": waiting, "exit": process.wait(_END_S)}
        return seen | {"sigterm": ended | {"answers": callers.outcomes()}}


def ours(config: ServerConfig) -> list[str]:
    """Return the command of our server."""
    command = [sys.executable, "-m", "hyperasr.cli", "serve", "--port", "0"]
    return [*command, "--model", config.model, "--dtype", config.dtype]


def wyoming_faster_whisper(config: ServerConfig, folder: Path, beam: int, port: int) -> list[str]:
    """Return the command of that server, on a Whisper in CTranslate2's layout."""
    command = [str(config.wyoming_faster_whisper), "--uri", f"tcp://127.0.0.1:{port}"]
    command += ["--model", str(folder), "--data-dir", str(folder.parent), "--local-files-only"]
    command += ["--stt-library", "faster-whisper", "--language", "en", "--compute-type", "int8"]
    return [*command, "--beam-size", str(beam), "--cpu-threads", str(config.threads)]


def against_peers(
    config: ServerConfig, waves: list[np.ndarray], texts: list[str]
) -> tuple[list[results.Row], dict[str, str]]:
    """Return the rows against other servers, and which were left out, with the reason."""
    try:
        version = peer_version("faster-whisper")
    except MissingExtra as error:
        return [], {"peers": str(error)}
    rows: list[results.Row] = []
    skipped: dict[str, str] = {}
    n, threads = config.n_callers, config.threads
    with tempfile.TemporaryDirectory() as scratch, serving(ours(config), threads) as (address, _):
        folder = published(config.model, Path(scratch))
        own = Callers(over_http(address, n), waves, n)
        executable = config.wyoming_faster_whisper
        if executable is None or shutil.which(executable) is None:
            skipped["over_wyoming_faster_whisper"] = f"there is no executable {executable}"
        else:
            called = [executable, "--version"]
            name = subprocess.run(called, capture_output=True, text=True, check=True).stdout.strip()
            for beam in _WYOMING_BEAMS:
                with socket.create_server(("127.0.0.1", 0)) as free:
                    port = free.getsockname()[1]
                command = wyoming_faster_whisper(config, folder, beam, port)
                with serving(command, threads, port):
                    peer = Callers(over_wyoming(port), waves, n)
                    what = f"wyoming-faster-whisper {name}, int8, beam {beam}"
                    rows += compare("over_wyoming_faster_whisper", own, peer, what, texts, config)
        module = "eval.benchmarks.faster_whisper_server"
        command = [sys.executable, "-m", module, str(folder), str(threads)]
        with serving(command, threads) as (peer_address, _):
            peer = Callers(over_http(peer_address, n), waves, n)
            what = f"{version}, batched, int8, beam 1"
            rows += compare("over_faster_whisper_batched", own, peer, what, texts, config)
    return rows, skipped


def published(model: str, scratch: Path) -> Path:
    """Write the Whisper of a model, unadapted, on 30 s, for CTranslate2; returns its folder."""
    known = hub.load(model, device="cpu", dtype="float32").backbone
    Backbone(known.whisper, known.tokenizer, "full").save_pretrained(scratch / "whisper")
    return ctranslate2_folder(scratch / "whisper", "int8")


def compare(
    name: str, own: Callers, peer: Callers, what: str, texts: list[str], config: ServerConfig
) -> list[results.Row]:
    """Return a row for callers at once, with error rates, and one for them one by one."""
    heard: tuple[list[Answer], list[Answer]] = ([], [])
    jobs = [lambda: heard[0].extend(own.at_once()), lambda: heard[1].extend(peer.at_once())]
    times = interleaved([*jobs, own.one_by_one, peer.one_by_one], config.peer_rounds)
    rules = protocol(config.protocol)
    # A call without an answer counts as one without a word.
    of_words = [
        sum(rules.score([a.text for a in said], [texts[a.caller] for a in said]), EditCounts())
        for said in heard
    ]
    rows = []
    hear = f"ours {config.dtype}, {len(texts)} recordings of at most {config.longest_s:g} s"
    hears = f"{hear}, {own.n_at_once} callers at once", f"{hear}, {own.n_at_once} of them in turn"
    for pair, how in zip((times[:, :2], times[:, 2:]), hears, strict=True):
        setting = f"{config.model}, {how}, {config.threads} threads"
        row = ratio_row(name, pair, what, setting, config.seed)
        rows.append(row | {"seconds": np.median(pair, axis=0).tolist()})
    rows[0] |= {"wer": of_words[0].rate, "peer_wer": of_words[1].rate} | rules.fields()
    print(f"{name}, {what}: {rows[0]['ratio']:.2f}")
    rows[0] |= {"n_failed": [sum(a.status != 200 for a in said) for said in heard]}
    return rows


def measure(config: ServerConfig) -> tuple[list[results.Row], dict[str, Any]]:
    """Return the rows, and what the file says beside them."""
    rows, about = common_batches(config)
    if config.recordings is None:
        return rows, about | {"skipped": {"crowd and peers": "recordings names no manifest"}}
    waves, texts = short_recordings(config)
    about["crowd"] = crowd(config, waves)
    print(json.dumps(about))
    more, about["skipped"] = against_peers(config, waves, texts)
    return rows + more, about


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(seconds)), "longest": max(seconds)}


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
