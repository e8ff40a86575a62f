"""Sound goes in over a WebSocket while somebody speaks, and text comes out."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import hyperasr
from hyperasr.audio.reading import load
from hyperasr.hub import HyperASR
from hyperasr.service.live import Session
from hyperasr.service.server import Server
from tests.service.serving import RATE, TOKEN, Start, Voice, heard, pcm, post, until, wav
from tests.service.test_media import opus

DEMO = Path(hyperasr.__file__).parent / "assets" / "demo"
HOLD = {"pause": "hold"}


@contextmanager
def opened(server: Server, first: Any = None, **headers: str) -> Iterator[ClientConnection]:
    """Connect, and send the first message; ``None`` sends none."""
    address = f"{server.address.replace('http', 'ws', 1)}v1/hyperasr/live"
    with connect(address, additional_headers=headers, proxy=None, open_timeout=60) as socket:
        if first is not None:
            socket.send(first if isinstance(first, str | bytes) else json.dumps(first))
        yield socket


def event(socket: ClientConnection) -> dict[str, Any]:
    return dict(json.loads(socket.recv(timeout=120)))


def events(socket: ClientConnection, last: str = "final") -> list[dict[str, Any]]:
    """Return the events up to one of a type."""
    found = [event(socket)]
    while found[-1]["type"] != last:
        assert found[-1]["type"] != "error", found[-1]
        found.append(event(socket))
    return found


def ends_with_an_error(socket: ClientConnection, part: str, code: int = 1008) -> None:
    found = event(socket)
    while found["type"] != "error":
        found = event(socket)
    assert part in found["error"]["message"]
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=60)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == code


def test_the_final_text_is_that_of_the_recording(
    server: Server, model: HyperASR, voice: Voice
) -> None:
    data = pcm(voice(13.0))
    expected = model.transcribe(heard(data), RATE, mode="both")
    with opened(server, HOLD) as socket:
        assert event(socket) == {"type": "ready"}
        for first in range(0, len(data), 16_001):  # half a second, and samples cut in two
            socket.send(data[first : first + 16_001])
            if first < 40_000:
                time.sleep(0.3)
        socket.send('{"type": "end"}')
        *partials, final = events(socket)
        assert partials
        assert all(e["type"] == "partial" and e["utterance"] == 1 for e in partials)
        assert (final["utterance"], final["start_s"]) == (1, 0.0)
        assert final["text"] == final["transcript"]["text"] == expected.text
        assert final["transcript"]["clean"] == expected.clean
        assert final["transcript"]["duration_s"] == pytest.approx(13.0)
        # The next one is its own, and so is nothing at all.
        socket.send(pcm(voice(1.0, 200.0)))
        socket.send('{"type": "end"}')
        *_, final = events(socket)
        assert (final["utterance"], final["start_s"]) == (2, pytest.approx(13.0, abs=0.1))
        assert final["text"] == model.transcribe(heard(pcm(voice(1.0, 200.0))), RATE).text
        socket.send('{"type": "end"}')
        types = [e["type"] for e in events(socket, "nothing")]
        assert types == ["answered", "nothing"]
        assert event(socket) == {"type": "answered"}


def test_an_end_is_answered_after_the_texts_of_what_was_said_before(server: Server) -> None:
    clip, gap = load(DEMO / "02-stuttering.ogg"), np.zeros(2 * RATE, np.float32)
    with opened(server, {"pause": "typical"}) as socket:
        data = pcm(np.concatenate([clip, gap]))
        for first in range(0, len(data), 32_000):
            socket.send(data[first : first + 32_000])
        socket.send('{"type": "end"}')
        types = [e["type"] for e in events(socket, "answered")]
    assert types.count("final") >= 1
    assert types[-3:] == ["final", "nothing", "answered"]


def test_a_pause_ends_an_utterance_and_a_longer_one_is_allowed_to_those_who_block(
    server: Server,
) -> None:
    clip, gap = load(DEMO / "02-stuttering.ogg"), np.zeros(round(1.5 * RATE), np.float32)
    data = pcm(np.concatenate([clip, gap, clip, gap]))
    found = {}
    for pause in ("typical", "stuttering"):
        with opened(server, {"pause": pause}) as socket:
            for first in range(0, len(data), 32_000):
                socket.send(data[first : first + 32_000])
            if pause == "stuttering":
                socket.send('{"type": "end"}')
            all_events = events(socket)
            if pause == "typical":
                all_events += events(socket)
            found[pause] = [e for e in all_events if e["type"] == "final"]
    assert len(found["stuttering"]) == 1
    assert len(found["typical"]) >= 2
    assert [e["utterance"] for e in found["typical"]][:2] == [1, 2]
    whole = found["stuttering"][0]["transcript"]["duration_s"]
    assert whole > 2 * len(clip) / RATE - 1
    assert all(e["transcript"]["duration_s"] < len(clip) / RATE + 1 for e in found["typical"])


@pytest.mark.parametrize("form", ["webm", "ogg"])
def test_what_a_browser_records(server: Server, voice: Voice, form: str) -> None:
    with opened(server, HOLD | {"format": form}) as socket:
        for pitch in (110.0, 180.0):  # after an end another container begins
            data = opus(voice(1.5, pitch), form)
            for first in range(0, len(data), 1_000):
                socket.send(data[first : first + 1_000])
            socket.send('{"type": "end"}')
            *_, final = events(socket)
            assert final["transcript"]["duration_s"] == pytest.approx(1.5, abs=0.05)
            assert final["text"]


def test_two_microphones_at_once(server: Server, model: HyperASR, voice: Voice) -> None:
    data = [pcm(voice(2.0, 100.0 + 60 * i)) for i in range(3)]

    def speak(own: bytes) -> str:
        with opened(server, HOLD) as socket:
            for first in range(0, len(own), 8_000):
                socket.send(own[first : first + 8_000])
                time.sleep(0.05)
            socket.send('{"type": "end"}')
            return str(events(socket)[-1]["text"])

    with ThreadPoolExecutor(3) as pool:
        texts = list(pool.map(speak, data))
    assert texts == [model.transcribe(heard(one), RATE).text for one in data]
    assert len(set(texts)) == 3


@pytest.mark.parametrize(
    ("first", "part"),
    [
        (b"\x00\x01" * 50, "the first message must be JSON"),
        ("no json", "must be JSON"),
        ("[" * 50_000, "must be JSON"),
        ("[1]", "the first message must be JSON"),
        ('{"language": "\\ud83d"}', "must be JSON"),
        ({"pause": "long"}, "pause must be one of typical, stuttering"),
        ({"pause": {}}, "pause must be one of"),
        ({"format": "mp3"}, "format must be one of pcm"),
        ({"pauze": "typical"}, "no field 'pauze'"),
        ({"language": "de"}, "knows English alone"),
        ({"model": "gpt-9"}, "no model 'gpt-9'"),
        ({"beam_size": "x"}, "beam_size is not valid"),
    ],
)
def test_garbage_at_first_ends_its_own_connection_alone(
    server: Server, first: Any, part: str
) -> None:
    with opened(server, HOLD) as other:
        assert event(other) == {"type": "ready"}
        with opened(server, first) as socket:
            ends_with_an_error(socket, part)
        other.send('{"type": "end"}')
        assert event(other) == {"type": "nothing"}


def test_garbage_later_ends_its_own_connection_alone(server: Server) -> None:
    with opened(server, HOLD) as other:
        for garbage in ("no json", '{"type": "begin"}', "7"):
            with opened(server, HOLD) as socket:
                socket.send(garbage)
                ends_with_an_error(socket, "JSON" if garbage == "no json" else "one message")
        with opened(server, HOLD | {"format": "webm"}) as socket:
            socket.send(b"no container " * 900)
            socket.send('{"type": "end"}')
            ends_with_an_error(socket, "no sound in webm")
        with opened(server, HOLD) as socket:
            assert event(socket) == {"type": "ready"}
            socket.send(bytes(300_000))
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(timeout=60)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        assert event(other) == {"type": "ready"}
        other.send('{"type": "end"}')
        assert event(other) == {"type": "nothing"}


def test_who_falls_silent_is_let_go(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperasr.service.live._FIRST_S", 0.3)
    server = start({"live_idle_s": 0.5})
    with opened(server) as socket:
        ends_with_an_error(socket, "no message for 0.3 s")
    with opened(server, HOLD) as socket:
        ends_with_an_error(socket, "no message for 0.5 s")
    assert "hyperasr_live_sessions 0.0" in httpx.get(f"{server.address}metrics").text


def test_who_waits_for_an_answer_is_not_let_go(
    start: Start, voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = Session._submitted

    async def late(self: Session, recording: Any) -> Any:
        await asyncio.sleep(1.5)
        return await submitted(self, recording)

    monkeypatch.setattr(Session, "_submitted", late)
    with opened(start({"live_idle_s": 0.5}), HOLD) as socket:
        socket.send(pcm(voice(1.0)))
        socket.send('{"type": "end"}')
        assert events(socket, "answered")[-2]["type"] == "final"
        ends_with_an_error(socket, "no message for 0.5 s")


def test_the_token_comes_in_the_first_message_alone(start: Start, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    server = start(token_file=str(tmp_path / "token"))
    for given in ({}, {"token": "wrong"}, {"token": [TOKEN]}):
        with opened(server, HOLD | given, Authorization=f"Bearer {TOKEN}") as socket:
            ends_with_an_error(socket, "the token is missing or wrong")
    with opened(server, HOLD | {"token": TOKEN}) as socket:
        assert event(socket) == {"type": "ready"}


def test_pages_from_elsewhere_are_refused(server: Server) -> None:
    with pytest.raises(InvalidStatus) as refused, opened(server, Origin="https://evil.example"):
        pass
    assert refused.value.response.status_code == 403
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade |= {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    for host, status in (("evil.example", 403), ("localhost", 101)):
        with httpx.stream(
            "GET", f"{server.address}v1/hyperasr/live", headers=upgrade | {"Host": host}
        ) as answer:
            assert answer.status_code == status
    own = server.address.rstrip("/")
    with opened(server, HOLD, Origin=own) as socket:
        assert event(socket) == {"type": "ready"}


def test_more_than_may_be_open_come_later(start: Start) -> None:
    server = start({"live_sessions": 1})
    with opened(server, HOLD) as first:
        assert event(first) == {"type": "ready"}
        with opened(server, HOLD) as second:
            ends_with_an_error(second, "try again later", 1013)


def test_an_utterance_waits_where_the_queue_is_full(start: Start, voice: Voice) -> None:
    server = start(queue=1)
    with ThreadPoolExecutor(4) as pool, opened(server, HOLD) as socket:
        long = pool.submit(post, server, "audio/transcriptions", wav(voice(15.0)))
        until(lambda: server.engine.n_waiting)
        socket.send(pcm(voice(1.0)))
        socket.send('{"type": "end"}')
        assert events(socket)[-1]["text"]
        assert long.result().status_code == 200


def test_an_utterance_has_an_end(start: Start, voice: Voice) -> None:
    server = start({"utterance_s": 2.0})
    with opened(server, HOLD) as socket:
        data = pcm(voice(5.0))
        for first in range(0, len(data), 16_000):
            socket.send(data[first : first + 16_000])
        lengths = [events(socket)[-1]["transcript"]["duration_s"] for _ in range(2)]
        assert lengths == pytest.approx([2.0, 2.0], abs=0.05)


def test_who_leaves_is_not_decoded_for(start: Start, voice: Voice) -> None:
    server = start()
    with opened(server, HOLD) as socket:
        assert event(socket) == {"type": "ready"}
        data = pcm(voice(60.0))
        for first in range(0, len(data), 100_000):
            socket.send(data[first : first + 100_000])
        socket.send('{"type": "end"}')
    until(lambda: not server.engine.n_waiting)
    assert "hyperasr_live_sessions 0.0" in httpx.get(f"{server.address}metrics").text
