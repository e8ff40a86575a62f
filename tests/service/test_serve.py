"""`hyperasr serve` as it is called: how it starts, how it stops, and the embedded model in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

import hyperasr
from hyperasr.audio.reading import load as samples_of
from hyperasr.cli.parser import main
from hyperasr.hub import load
from tests.service.serving import TOKEN, Start, Voice, pcm, post, running, wav

ROOT = Path(__file__).parents[2]
DEMO = Path(hyperasr.__file__).parent / "assets" / "demo"


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--host", "0.0.0.0"], ["--token-file", "--certfile", "--keyfile"]),
        (["--host", "0.0.0.0", "--token-file", "x"], ["--certfile, --keyfile"]),
        (["--token-file", "absent", "--model", "unknown"], ["--token-file absent"]),
        (["--port", "99999"], ["port is 99999"]),
        (["--port", "http"], ["port is 'http'"]),
        (["--prot", "80"], ["--port"]),
        (["--port", "7000", "--wyoming", "7000"], ["both 7000"]),
    ],
)
def test_a_call_that_cannot_be_is_one_line(
    argv: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *argv]) == 2
    seen = capsys.readouterr()
    (line,) = seen.err.splitlines()
    assert line.startswith("hyperasr: error: ")
    assert all(part in line for part in parts), line
    assert seen.out == ""


@pytest.fixture
def process(random_model_folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "hyperasr.cli", "serve", "--port", "0", "--offline"]
    started = subprocess.Popen(
        [*command, "--model", str(random_model_folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield started
    started.kill()
    started.communicate()


@pytest.mark.slow
def test_sigterm_lets_those_in_flight_finish(process: subprocess.Popen[str], voice: Voice) -> None:
    assert process.stdout is not None
    address = process.stdout.readline().split()[0]
    counted = httpx.get(f"{address}metrics").text.splitlines()
    assert "hyperasr_batches 1.0" in counted, "a batch was decoded before the address is said"
    assert "hyperasr_waiting 0.0" in counted
    content = wav(voice(20.0))
    with ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(
                httpx.post,
                f"{address}v1/audio/transcriptions",
                files={"file": ("a.wav", content)},
                timeout=120,
            )
            for _ in range(3)
        ]
        while httpx.get(f"{address}health").json()["waiting"] < 3:
            assert not any(call.done() for call in calls), "they are through before the signal"
        process.send_signal(signal.SIGTERM)
        answers = [call.result() for call in calls]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["text"] for answer in answers}) == 1
    assert process.wait(60) in (0, -signal.SIGTERM)
    assert process.stderr is not None
    assert process.stderr.read() == ""
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}health")


@pytest.mark.slow
def test_the_embedded_model_for_four_people_at_once() -> None:
    rows = [json.loads(line) for line in (DEMO / "manifest.jsonl").read_text().splitlines()][:4]
    model = load("tiny.en", offline=True, device="cpu")
    alone = [model.transcribe(DEMO / row["path"]).text for row in rows]
    with running(model) as server, ThreadPoolExecutor(4) as pool:
        contents = [(DEMO / row["path"]).read_bytes() for row in rows]
        answers = pool.map(lambda c: post(server, "audio/transcriptions", c), contents)
        assert [answer.json()["text"] for answer in answers] == alone
        assert server.engine.n_batches < 4
        live = f"{server.address.replace('http', 'ws', 1)}v1/hyperasr/live"
        with connect(live, proxy=None) as ws:
            ws.send('{"pause": "hold"}')
            data = pcm(samples_of(DEMO / rows[0]["path"]))
            for first in range(0, len(data), 32_000):
                ws.send(data[first : first + 32_000])
            ws.send('{"type": "end"}')
            event = {"type": ""}
            while event["type"] != "final":
                event = json.loads(ws.recv(timeout=60))
    assert len(set(event["text"].split()) & set(alone[0].split())) > 0.8 * len(alone[0].split())


def test_others_come_with_a_token_and_over_tls(start: Start, tmp_path: Path) -> None:
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("needs openssl to make a certificate")
    cert, key, token = (tmp_path / name for name in ("cert.pem", "key.pem", "token"))
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"]
    command += ["/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command, *files], check=True, capture_output=True)
    token.write_text(TOKEN)
    server = start(host="0.0.0.0", certfile=str(cert), keyfile=str(key), token_file=str(token))
    address = server.address.replace("0.0.0.0", "127.0.0.1")
    trusted = ssl.create_default_context(cafile=str(cert))
    with httpx.Client(base_url=address, verify=trusted) as client:
        assert client.get("v1/models").status_code == 401
        allowed = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get("v1/models", headers=allowed).status_code == 200
        assert client.get("v1/models", headers=allowed | {"Host": "my.example"}).status_code == 200
        foreign = allowed | {"Origin": "https://evil.example"}
        assert client.get("v1/models", headers=foreign).status_code == 403
    live = f"{address.replace('https', 'wss')}v1/hyperasr/live"
    with connect(live, ssl=trusted, proxy=None) as ws:
        ws.send(json.dumps({"pause": "hold", "token": TOKEN}))
        assert json.loads(ws.recv(timeout=60)) == {"type": "ready"}
