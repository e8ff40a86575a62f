"""Bad clients and bad input: each gets an error in OpenAI's shape, and the server goes on."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from hyperasr.errors import ConfigError
from hyperasr.service import guard
from hyperasr.service.answers import shown_name
from hyperasr.service.config import ServeConfig
from hyperasr.service.server import Server, model_id_of
from tests.service.serving import RATE, TOKEN, Start, Voice, error_of, post, until, wav

ROUTE = "audio/transcriptions"


def port_of(server: Server) -> int:
    port = httpx.URL(server.address).port
    assert port is not None
    return port


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:{port}"}, 200),
        ({"Host": "[::1]:{port}"}, 200),
        ({"Host": "localhost.evil.example:{port}"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.nip.io:{port}"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_pages_from_elsewhere_are_refused(
    server: Server, headers: dict[str, str], status: int
) -> None:
    sent = {name: value.format(port=port_of(server)) for name, value in headers.items()}
    got = httpx.get(f"{server.address}v1/models", headers=sent)
    assert got.status_code == status
    if status != 200:
        assert error_of(got)["code"] == "forbidden"


def test_a_token_opens_what_is_not_open_to_all(start: Start, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    server = start(token_file=str(tmp_path / "token"))
    for given, status in (
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": TOKEN}, 401),
        ({"Authorization": b"Bearer \xff"}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": f"Bearer {TOKEN}"}, 200),
    ):
        for route in ("v1/models", "metrics"):
            got = httpx.get(f"{server.address}{route}", headers=given)  # type: ignore[arg-type]
            assert got.status_code == status, (route, given)
        if status == 401:
            assert (
                error_of(httpx.get(f"{server.address}v1/models", headers=given))[  # type: ignore[arg-type]
                    "code"
                ]
                == "invalid_api_key"
            )
    assert post(server, ROUTE, b"").status_code == 401
    assert httpx.get(f"{server.address}health").json()["status"] == "ok"


def test_an_address_for_others_needs_a_token_and_tls(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--token-file, --certfile, --keyfile"):
        ServeConfig(host="0.0.0.0")
    with pytest.raises(ConfigError, match=r"needs --token-file"):
        ServeConfig(host="192.0.2.1", certfile="a", keyfile="b")
    with pytest.raises(ConfigError, match="belong together"):
        ServeConfig(certfile="a")
    for text in ("", "short", "two words of some length", "ä" * 20):
        (tmp_path / "token").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match="at least 16 ASCII"):
            ServeConfig(token_file=str(tmp_path / "token")).token()
    with pytest.raises(ConfigError, match="No such file"):
        ServeConfig(token_file=str(tmp_path / "absent")).token()
    for values in ({"port": 70_000}, {"wyoming": -1}, {"queue": 0}, {"port": "80"}):
        with pytest.raises(ConfigError):
            ServeConfig(**values)


def test_a_port_that_is_taken_and_a_certificate_that_is_none(
    server: Server, model: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="in use; give another"):
        Server(model, "random", ServeConfig(port=port_of(server)))
    (tmp_path / "pem").write_text("no certificate")
    path = str(tmp_path / "pem")
    with pytest.raises(ConfigError, match="--certfile"):
        Server(model, "random", ServeConfig(port=0, certfile=path, keyfile=path))


def test_too_large_a_body_is_refused_before_it_is_sent(start: Start) -> None:
    server = start({"upload_bytes": 50_000})
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=20) as raw:
        raw.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 2000000000\r\n\r\n"
        )
        assert b"413" in raw.recv(4_096).split(b"\r\n")[0]
    got = post(server, ROUTE, bytes(60_000))
    assert got.status_code == 413
    assert error_of(got)["code"] == "too_large"

    def chunks() -> Any:  # no length is stated
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(100):
            yield bytes(1_000)

    for route in (ROUTE, "hyperasr/transcriptions"):
        got = httpx.post(
            f"{server.address}v1/{route}",
            content=chunks(),
            headers={"Content-Type": "multipart/form-data; boundary=x"},
        )
        assert got.status_code == 413, got.text
    assert httpx.get(f"{server.address}health").status_code == 200


def test_slow_clients_are_let_go(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "HEAD_S", 0.3)
    server = start({"upload_idle_s": 0.3, "upload_s": 2.0})
    head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n"
    form = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 999\r\n\r\n--x\r\n"
    for sent, answer in ((b"", b""), (head, b""), (head + form, b"408")):
        with socket.create_connection(("127.0.0.1", port_of(server)), timeout=30) as raw:
            raw.sendall(sent)
            got = b""
            while data := raw.recv(4_096):
                got += data
            assert answer in got.split(b"\r\n")[0], (sent, got)
            assert bool(answer) == bool(got)
            assert bool(answer) == (b"connection: close" in got.lower())
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=30) as raw:
        raw.sendall(head + form)
        with suppress(OSError):  # a byte now and then is no way round
            for _ in range(100):
                raw.sendall(b"a")
                time.sleep(0.1)
            pytest.fail("it may go on for ever")
    assert httpx.get(f"{server.address}health").status_code == 200


def test_a_full_queue_sends_callers_away_for_a_while(start: Start, voice: Voice) -> None:
    server = start(queue=1)
    long, answers = wav(voice(20.0)), []
    first = threading.Thread(target=lambda: answers.append(post(server, ROUTE, long)))
    first.start()
    until(lambda: server.engine.n_waiting)
    refused = post(server, ROUTE, wav(voice(0.5)))
    assert refused.status_code == 503
    assert error_of(refused)["code"] == "busy"
    assert int(refused.headers["retry-after"]) >= 1
    first.join()
    assert answers[0].status_code == 200
    assert post(server, ROUTE, wav(voice(0.5))).status_code == 200


@pytest.mark.parametrize("stream", ["false", "true"])
def test_who_leaves_is_not_decoded_for(start: Start, voice: Voice, stream: str) -> None:
    server = start()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.address}v1/{ROUTE}",
            files={"file": ("a.wav", wav(np.tile(voice(5.0), 36)))},
            data={"stream": stream},
            timeout=httpx.Timeout(60, read=0.5),
        )
    until(lambda: not server.engine.n_waiting)
    assert server.engine.n_segments < 24  # of 35


def test_an_answer_that_takes_too_long(start: Start, voice: Voice) -> None:
    server = start({"answer_s": 0.2})
    long = wav(np.tile(voice(5.0), 12))
    got = post(server, ROUTE, long)
    assert got.status_code == 504
    assert error_of(got)["code"] == "timeout"
    until(lambda: not server.engine.n_waiting)


def test_too_long_a_recording(start: Start) -> None:
    server = start({"recording_s": 60.0})
    file = io.BytesIO()
    soundfile.write(file, np.zeros(120 * RATE, np.int16), RATE, format="OGG")  # small all the same
    got = post(server, ROUTE, file.getvalue())
    assert got.status_code == 413
    assert "longer than 1 minutes" in error_of(got)["message"]


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "C:\\Users\\a.wav", "", "..", "x" * 500],
)
def test_a_name_is_shown_and_never_a_path(server: Server, voice: Voice, name: str) -> None:
    got = post(server, "hyperasr/transcriptions", wav(voice(0.5)), name=name or "/")
    assert got.status_code == 200
    assert got.json()["id"] == shown_name(name)
    assert not set("/\\") & set(got.json()["id"])
    assert shown_name("a/b\nc.wav") == "b\\nc.wav"
    assert len(got.json()["id"]) <= 120
    refused = error_of(post(server, ROUTE, b"words " * 9, name=name or "/"))["message"]
    assert refused.startswith(shown_name(name))


def test_a_file_too_large_for_memory_is_read_from_the_disk_and_gone(
    server: Server, voice: Voice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    content = wav(np.concatenate([voice(1.0), np.zeros(80 * RATE, np.float32)]))
    assert len(content) > 5_000_000
    seen = []
    watching = threading.Event()

    def watch() -> None:
        while not watching.is_set():
            seen.extend(path.name for path in tmp_path.iterdir())
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    got = post(server, "hyperasr/transcriptions", content)
    broken = post(server, ROUTE, b"RIFF" + bytes(5_000_000), name="broken.wav")
    watching.set()
    thread.join()
    assert got.json()["duration_s"] == pytest.approx(81.0)
    assert any(name.startswith("hyperasr-") for name in seen)
    assert list(tmp_path.iterdir()) == []
    assert broken.status_code == 400
    assert "hyperasr-" not in broken.text
    assert "broken.wav" in broken.text


def test_routes_that_are_none(server: Server) -> None:
    for method, path, status in (
        ("GET", "v1/nothing", 404),
        ("GET", "docs", 404),
        ("GET", "v1/audio/transcriptions", 405),
        ("DELETE", "v1/models", 405),
    ):
        got = httpx.request(method, f"{server.address}{path}")
        assert got.status_code == status, path
        if path.startswith("v1"):
            error_of(got)


def test_logs_and_metrics_tell_nothing_of_people(
    server: Server, voice: Voice, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        text = post(server, ROUTE, wav(voice(1.3)), name="mrs-example.wav").json()["text"]
        post(server, ROUTE, b"no sound", name="mrs-example.wav", model="mrs-example")
        metrics = httpx.get(f"{server.address}metrics").text
    own = [record for record in caplog.records if not record.name.startswith("http")]
    logged = "\n".join(record.getMessage() for record in own) + metrics
    assert text
    assert text not in logged
    assert "example" not in logged
    counted = re.findall(
        r'hyperasr_requests_total\{route="/v1/audio/transcriptions",status="(\d+)"\}', metrics
    )
    assert {"200", "404"} <= set(counted)
    for name in ("audio_seconds_total", "waiting", "segments", "batches", "live_sessions"):
        assert f"\nhyperasr_{name} " in metrics


def test_a_failure_of_ours_is_told_without_a_word_of_it(
    start: Start, voice: Voice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("somebody said this in /some/place")

    server = start()
    monkeypatch.setattr("hyperasr.service.own_api.to_dict", fails)
    got = post(server, "hyperasr/transcriptions", wav(voice(0.5)))
    assert got.status_code == 500
    assert error_of(got)["type"] == "server_error"
    assert "RuntimeError in fails" in caplog.text
    assert "somebody" not in caplog.text + got.text
    assert "/some" not in caplog.text + got.text


def test_a_model_is_called_by_its_name(tmp_path: Path) -> None:
    assert model_id_of("tiny.en") == "tiny.en"
    assert model_id_of("owner/name") == "owner/name"
    folder = tmp_path / "mine"
    folder.mkdir()
    assert model_id_of(str(folder)) == "mine"
    assert json.dumps(model_id_of(f"{folder}/.")) == '"mine"'
