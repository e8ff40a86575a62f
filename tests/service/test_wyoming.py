"""Wyoming's own client speaks to the server, as Home Assistant does."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import numpy as np
import pytest
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from hyperasr.hub import HyperASR
from hyperasr.service.server import Server
from tests.service.serving import RATE, Start, Voice, heard, pcm


def ask(server: Server, *events: Any, n_answers: int = 1) -> list[Event]:
    """Send events and return the answers."""

    async def asked() -> list[Event]:
        async with client(server) as own:
            for event in events:
                await own.write_event(event.event())
            answers = [await asyncio.wait_for(own.read_event(), 60) for _ in range(n_answers)]
        return [answer for answer in answers if answer is not None]

    return asyncio.run(asked())


def client(server: Server) -> AsyncTcpClient:
    assert server.wyoming_address is not None
    made = AsyncTcpClient.from_uri(server.wyoming_address)
    assert isinstance(made, AsyncTcpClient)
    return made


def said(data: bytes, channels: int = 1, language: str | None = None) -> list[Any]:
    how = {"rate": RATE, "width": 2, "channels": channels}
    chunks = [AudioChunk(audio=data[i : i + 4_000], **how) for i in range(0, len(data), 4_000)]
    return [Transcribe(language=language), AudioStart(**how), *chunks, AudioStop()]


def test_what_is_said_is_transcribed(server: Server, model: HyperASR, voice: Voice) -> None:
    data = pcm(voice(2.0))
    (answer,) = ask(server, *said(data, language="en"))
    transcript = Transcript.from_event(answer)
    assert transcript.text == model.transcribe(heard(data), RATE).text
    assert transcript.language == "en"
    stereo = np.repeat(np.frombuffer(data, "<i2"), 2).tobytes()
    (answer,) = ask(server, *said(stereo, channels=2))
    assert Transcript.from_event(answer).text


def test_one_connection_after_another_utterance(server: Server, voice: Voice) -> None:
    one, two = (said(pcm(voice(1.0, pitch))) for pitch in (100.0, 220.0))
    texts = [Transcript.from_event(e).text for e in ask(server, *one, *two, *one, n_answers=3)]
    assert texts[0] == texts[2] != texts[1]


def test_it_says_what_it_is(server: Server) -> None:
    described, answered = ask(server, Describe(), Ping(text="a"), n_answers=2)
    (program,) = Info.from_event(described).asr
    assert [(m.name, m.languages) for m in program.models] == [("random", ["en"])]
    assert Pong.from_event(answered).text == "a"


def test_what_cannot_be_is_an_error(server: Server, voice: Voice) -> None:
    for events, part in (
        ([AudioStop()], "no sound came"),
        (said(pcm(voice(0.5)), language="de"), "knows English alone"),
    ):
        (answer,) = ask(server, *events)
        assert part in Error.from_event(answer).text


@pytest.mark.parametrize(
    "sent",
    [
        b"no json\n",
        b"[1, 2]\n",
        b'{"no": "type"}\n',
        b'{"type": "audio-chunk", "payload_length": 99999999999}\n',
        b'{"type": "audio-chunk", "data": {"rate": -1, "width": 9, "channels": 0}}\n',
        b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 1}, '
        b'"payload_length": 3}\nabc',
        b"x" * 100_000,
    ],
)
def test_garbage_ends_its_own_connection_alone(server: Server, sent: bytes) -> None:
    host, port = str(server.wyoming_address).removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        try:
            raw.sendall(sent)
            assert raw.recv(4_096) == b""
        except ConnectionResetError:
            pass  # it was closed with the rest unread
    (answer,) = ask(server, Describe())
    assert answer.type == "info"


def test_who_falls_silent_is_let_go(start: Start) -> None:
    server = start({"live_idle_s": 0.3}, wyoming=0)
    host, port = str(server.wyoming_address).removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        raw.sendall(json.dumps({"type": "describe"})[:9].encode())
        assert raw.recv(4_096) == b""


def test_its_address_is_this_machine_s_own(server: Server) -> None:
    assert str(server.wyoming_address).startswith("tcp://127.0.0.1:")
