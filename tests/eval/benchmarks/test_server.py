"""Servers of speech side by side: the program from a start of the servers to the result file."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.benchmarks import server, speed
from eval.benchmarks.callers import Callers, over_http, over_wyoming, serving
from eval.benchmarks.server import ServerConfig
from hyperasr.audio.reading import load
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.errors import ConfigError, HyperASRError, MissingExtra
from hyperasr.hub import HyperASR
from tests.service.serving import running

# As wyoming-faster-whisper is called; it hears only how many tenths of a second there are.
PEER = """#!{python}
import argparse, asyncio
from wyoming.asr import Transcript
from wyoming.audio import AudioChunk, AudioStop
from wyoming.server import AsyncEventHandler, AsyncServer

class Handler(AsyncEventHandler):
    n_bytes = 0

    async def handle_event(self, event):
        if AudioChunk.is_type(event.type):
            self.n_bytes += len(AudioChunk.from_event(event).audio)
        if AudioStop.is_type(event.type):
            await self.write_event(Transcript(text=str(self.n_bytes // 3200)).event())
            return False
        return True

parser = argparse.ArgumentParser()
parser.add_argument("--version", action="version", version="1.2.3")
for name in ("uri", "model", "data-dir", "stt-library", "language", "compute-type", "beam-size"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--cpu-threads", required=True, type=int)
parser.add_argument("--local-files-only", action="store_true")
asyncio.run(AsyncServer.from_uri(parser.parse_args().uri).run(Handler))
"""


@pytest.fixture
def waves(voice: Any) -> list[np.ndarray]:
    return [voice(0.7, 130.0), voice(2.0, 220.0)]


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Manifest of the demo clips, as if all were typical speech."""
    rows = read_manifest(ServerConfig().clips)
    write_manifest(
        tmp_path / "clips.jsonl",
        [replace(row, path=str(Path(row.path).resolve()), cohort="typical") for row in rows],
    )
    return tmp_path / "clips.jsonl"


def test_a_text_of_somebody_else_is_counted(
    random_model_folder: Path, waves: list[np.ndarray]
) -> None:
    model = HyperASR.from_pretrained(random_model_folder, offline=True)
    none = {"own": 0, "different": 0, "refused": 0, "failed": 0, "lost": 0}
    with running(model) as served:
        callers = Callers(over_http(served.address, 2), waves)
        callers.call_alone()
        callers.at_once()
        callers.one_by_one()
        assert callers.outcomes() == none | {"own": 4}
        assert len(set(callers.expected)) == 2
        callers.expected.reverse()  # as if both texts had changed places
        callers.answers.clear()
        callers.at_once()
        assert callers.outcomes() == none | {"different": 2}
        callers.contents[0] = b"no sound"
        callers.one_by_one()
        assert callers.outcomes()["failed"] == 1
    callers.answers.clear()
    callers.at_once()
    assert callers.outcomes() == none | {"lost": 2}


def test_who_is_refused_comes_again(random_model_folder: Path, waves: list[np.ndarray]) -> None:
    model = HyperASR.from_pretrained(random_model_folder, offline=True)
    # A recording just answered waits no longer: not even a queue of one refuses a lone caller.
    with running(model, queue=1) as served:
        callers = Callers(over_http(served.address, 12), waves * 6)
        callers.call_alone()
        callers.go_on(2.0)
        outcomes = callers.outcomes()
    assert outcomes["refused"] > 0
    assert outcomes["own"] == len(callers.answers) - outcomes["refused"]


def test_both_protocols_give_the_same_texts(
    random_model_folder: Path, waves: list[np.ndarray]
) -> None:
    model = HyperASR.from_pretrained(random_model_folder, offline=True)
    with running(model, wyoming=0) as served:
        port = int(str(served.wyoming_address).rpartition(":")[2])
        found = []
        for ask in (over_http(served.address, 2), over_wyoming(port)):
            callers = Callers(ask, waves)
            found.append([(answer.status, answer.text) for answer in callers.at_once()])
        assert found[0] == found[1]
        assert [status for status, _ in found[0]] == [200, 200]


def test_utterances_are_as_many_as_callers() -> None:
    waves = server.utterances(ServerConfig(n_callers=4, seconds=2.0))
    assert {len(wave) for wave in waves} == {32_000}
    assert len({wave.tobytes() for wave in waves}) == 4
    with pytest.raises(ConfigError, match="too few for 1000 callers"):
        server.utterances(ServerConfig(n_callers=1_000, crowd=1_000))


def test_recordings_are_short_and_all_different(recordings: Path) -> None:
    config = ServerConfig(n_callers=2, crowd=3, queue=1, recordings=recordings, longest_s=4.5)
    waves, texts = server.short_recordings(config)
    by_text = {row.text: row.path for row in read_manifest(recordings)}
    assert [len(wave) for wave in waves] == [len(load(by_text[text])) for text in texts]
    assert max(map(len, waves)) <= 4.5 * 16_000
    assert len(set(texts)) == 3
    with pytest.raises(ConfigError, match="too few for a crowd of 64"):
        server.short_recordings(replace(config, crowd=64))
    with pytest.raises(ConfigError, match="crowd must be"):
        replace(config, queue=4)


def test_a_server_that_does_not_start_is_an_error() -> None:
    for port in (None, 9):
        with (
            pytest.raises(HyperASRError, match=r"does not start: .* -c pass"),
            serving([sys.executable, "-c", "pass"], 1, port),
        ):
            pass


@pytest.mark.slow
def test_the_batched_peer_gives_everybody_their_own_text(recordings: Path, tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper")
    waves = [load(row.path) for row in read_manifest(recordings)[8:12]]
    command = [sys.executable, "-m", "eval.benchmarks.faster_whisper_server"]
    command += [str(server.published("tiny.en", tmp_path)), "1"]
    with serving(command, 1) as (address, _):
        callers = Callers(over_http(address, 4), waves)
        callers.call_alone()
        callers.at_once()
        assert callers.outcomes()["own"] == 4
        assert len(set(callers.expected)) == 4
        assert all(len(text.split()) > 3 for text in callers.expected)


@pytest.mark.slow
def test_from_a_model_to_a_result_file(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faster_whisper")
    (tmp_path / "peer").write_text(PEER.format(python=sys.executable))
    (tmp_path / "peer").chmod(0o755)
    config = ServerConfig(
        n_callers=2,
        seconds=2.0,
        rounds=2,
        requests=10,
        spoken=1,
        recordings=recordings,
        longest_s=4.5,
        crowd=3,
        crowd_s=1.0,
        queue=2,
        peer_rounds=2,
        wyoming_faster_whisper=str(tmp_path / "peer"),
        threads=1,
        out=tmp_path / "server.json",
    )
    monkeypatch.setattr(sys, "argv", ["program"])
    monkeypatch.setattr(server, "read_config", lambda kind: config)
    monkeypatch.setattr(server, "_WYOMING_BEAMS", (1,))
    monkeypatch.setattr(speed, "WARM_UP", 0)
    server.main()
    content = json.loads(config.out.read_text())
    first, *others = content["rows"]
    assert first["benchmark"] == "over_one_at_a_time"
    for row in content["rows"]:
        assert row["ratio"] == pytest.approx(row["seconds"][1] / row["seconds"][0], abs=1e-4)
        assert row["low"] is None, "two rounds give no interval"
    names = ["over_wyoming_faster_whisper"] * 2 + ["over_faster_whisper_batched"] * 2
    assert [row["benchmark"] for row in others] == names
    assert [row["peer"].partition(" ")[0] for row in others[:2]] == ["wyoming-faster-whisper"] * 2
    for row in others[::2]:
        assert row["wer"] < 0.7
        assert row["normaliser"]["name"] == "whisper"
        assert row["n_failed"] == [0, 0]
    assert others[0]["peer_wer"] == 1.0  # a number, whatever was said
    assert others[2]["peer_wer"] < 0.7
    served = content["served"]
    none = {"different": 0, "refused": 0, "failed": 0, "lost": 0}
    assert served["answers"] == {"own": 10} | none
    assert np.all(np.array(served["memory_mb"]) > 50)
    for seconds in served["live"].values():
        assert 0 < seconds["median"] <= seconds["longest"] < 60
    crowd = served["crowd"]
    assert crowd["n_texts"] == 3
    assert crowd["answers"] == none | {k: crowd["answers"][k] for k in ("own", "refused")}
    assert crowd["answers"]["own"] > 0
    assert crowd["sigterm"]["answers"] == {"own": 2} | none
    assert crowd["sigterm"]["exit"] in (0, -15)
    assert served["skipped"] == {}


def test_who_is_not_there_is_left_out_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = str(tmp_path / "absent")
    config = ServerConfig(wyoming_faster_whisper=absent)
    for name, value in (
        ("serving", lambda *_: nullcontext(("http://x/", None))),
        ("published", lambda *_: tmp_path),
        ("compare", lambda name, *_: [{"benchmark": name}]),
    ):
        monkeypatch.setattr(server, name, value)
    rows, skipped = server.against_peers(config, [np.zeros(1)], [""])
    assert [row["benchmark"] for row in rows] == ["over_faster_whisper_batched"]
    assert skipped == {"over_wyoming_faster_whisper": f"there is no executable {absent}"}

    def not_installed(package: str) -> str:
        raise MissingExtra(f"{package} is not installed")

    monkeypatch.setattr(server, "peer_version", not_installed)
    absent_too = {"peers": "faster-whisper is not installed"}
    assert server.against_peers(config, [], []) == ([], absent_too)
