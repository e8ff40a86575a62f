"""What only we have: the JSON of the command line, its formats, and segments as they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest

import hyperasr
from hyperasr.hub import HyperASR
from hyperasr.service.server import Server
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.pipeline import transcribe
from hyperasr.transcription.recordings import Recording
from hyperasr.transcription.transcript import Result, render, to_dict
from tests.service.serving import Voice, error_of, post, wav

ROUTE = "hyperasr/transcriptions"


@pytest.fixture(scope="module")
def clip(voice: Voice) -> np.ndarray:
    return voice(12.0)


def own(model: HyperASR, clip: np.ndarray, **options: Any) -> Result:
    asked = TranscribeOptions(**{"mode": "both", "word_times": True} | options)
    (result,) = transcribe(model, [Recording("a.wav", content=wav(clip))], asked)
    return result


def test_the_json_is_that_of_the_command_line(
    server: Server, model: HyperASR, clip: np.ndarray
) -> None:
    got = post(server, ROUTE, wav(clip), compare="true", pauses="stuttering").json()
    assert got == to_dict(own(model, clip, compare=True, pauses="stuttering"))
    assert got["base"]["text"] != got["text"]
    assert "clean" in got
    assert {"probability", "doubtful", "start_s"} <= set(got["segments"][0]["words"][0])
    schema = Path(hyperasr.__file__).parent / "assets" / "transcript.schema.json"
    jsonschema.validate(got, json.loads(schema.read_text()))


@pytest.mark.parametrize("form", ["srt", "html"])
def test_other_formats(server: Server, model: HyperASR, clip: np.ndarray, form: str) -> None:
    got = post(server, ROUTE, wav(clip[:32_000]), response_format=form)
    assert got.status_code == 200
    assert got.text == render(own(model, clip[:32_000]), form, "both")


def test_segments_come_before_the_whole(server: Server, model: HyperASR, clip: np.ndarray) -> None:
    got = post(server, ROUTE, wav(clip), stream="true")
    events = [json.loads(line[6:]) for line in got.text.splitlines() if line]
    expected = to_dict(own(model, clip))
    *segments, done = events
    assert [e["segment"] for e in segments] == expected["segments"]
    assert len(segments) > 1
    assert done == {"type": "done", "transcript": expected}


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"beamsize": "2"}, "did you mean 'beam_size'"),
        ({"batch_size": "2"}, "no field 'batch_size'"),
        ({"beam_size": "many"}, "beam_size is not valid"),
        ({"beam_size": "0"}, "beam_size is 0"),
        ({"beam_size": "1000"}, "takes 10 at most"),
        ({"mode": "loud"}, "mode"),
        ({"response_format": "doc"}, "response_format"),
        ({"temperatures": "0.2,x"}, "temperatures is not valid"),
        ({"samples": "3"}, "distribution over its weights"),
        ({"task": "translate"}, "cannot translate"),
        ({"compare": "true", "adapt": "false"}, "compare"),
    ],
)
def test_a_field_that_cannot_be_is_named(server: Server, fields: Any, part: str) -> None:
    got = post(server, ROUTE, b"", **fields)
    assert got.status_code == 400
    assert part in error_of(got)["message"]


def test_no_file_or_no_form(server: Server) -> None:
    for how in (
        {"data": {"file": "words"}},
        {"files": {"other": ("a.wav", b"x")}},
        {"json": {"file": "a.wav"}},
        {"content": b"--x\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=y"}},
        {"files": [("file", ("a.wav", b"x")), ("file", ("b.wav", b"x"))]},
    ):
        for route in (ROUTE, "audio/transcriptions"):
            got = httpx.post(f"{server.address}v1/{route}", **how)  # type: ignore[arg-type]
            assert got.status_code == 400, (route, how)
            assert error_of(got)["message"]
