"""Transcripts in other formats over HTTP, and the page's own files."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.transcription.pipeline import Result
from hyperasr.transcription.recordings import Recording
from hyperasr.transcription.transcript import FORMATS, Transcript, from_dict, render, to_dict
from hyperasr.types import Edit, Segment, Unclear, Word

DOCX_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
CLIP = sorted((Path(__file__).parents[2] / "hyperasr/assets/demo").glob("10-*.ogg"))[0]
WORDS = (
    Word("um", 0.9, 0.0, 0.4, 0.1),
    Word("so", 0.25, 0.5, 0.9, 0.75),
    Word("[unclear]", 0.0, 1.0, 2.0),
)
SEGMENT = Segment(
    0.0,
    2.0,
    "um so [unclear]",
    -0.5,
    WORDS,
    (Edit(0, 1, "filler", "um", "", 0.0, 0.4),),
    "so [unclear]",
    (Unclear(1.0, 2.0, "no end of text", "na na", 2),),
)
SAID = Transcript(
    "a.wav", SEGMENT.text, (SEGMENT,), 2.0, ("it is clipped",), SEGMENT.clean, 0.5, "de", True
)
BASE = Transcript("a.wav", "so", (Segment(0.0, 2.0, "so", -1.0, (Word("so", 0.5),)),), 2.0)
RESULT = Result(Recording("a.wav"), SAID, BASE)


@pytest.fixture
def client() -> Any:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from hyperasr.service.problems import on_error
    from hyperasr.service.rendering import format_routes
    from hyperasr.service.server import Page

    app = FastAPI()
    app.add_exception_handler(HyperASRError, on_error)
    app.include_router(format_routes())
    app.router.default = Page()
    return TestClient(app)


def post(client: Any, transcript: Any, recording: bytes | None = None, **fields: str) -> Any:
    files = {"transcript": ("t.json", json.dumps(transcript))}
    if recording is not None:
        files["file"] = ("a.ogg", recording)
    return client.post("/v1/hyperasr/formats", files=files, data=fields)


def test_json_goes_there_and_back() -> None:
    values = json.loads(json.dumps(to_dict(RESULT)))
    assert from_dict(values, RESULT.recording) == RESULT
    assert to_dict(from_dict(values, RESULT.recording)) == values


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_is_what_the_command_line_writes(client: Any, form: str) -> None:
    answer = post(client, to_dict(RESULT), response_format=form, mode="both")
    assert answer.status_code == 200
    assert answer.text == render(RESULT, form, "both")


def test_a_page_has_the_sound_that_comes_along(client: Any) -> None:
    answer = post(client, to_dict(RESULT), CLIP.read_bytes(), response_format="html")
    assert answer.headers["content-type"].startswith("text/html")
    assert "data:audio/ogg;base64,T2dnUw" in answer.text
    assert "<title>a.wav: transcript</title>" in answer.text
    broken = post(client, to_dict(RESULT), b"no sound", response_format="html")
    assert "This page has no sound" in broken.text


def test_a_document_of_word_has_both_texts_and_marks(client: Any) -> None:
    document = opened(post(client, to_dict(RESULT), response_format="docx", mode="both"))
    lines = [(p.style.name, p.text) for p in document.paragraphs]
    assert lines == [
        ("Heading 1", "a.wav"),
        ("Normal", lines[1][1]),
        ("Heading 2", "Unadapted, verbatim"),
        ("Normal", "0:00:00  so"),
        ("Heading 2", "Unadapted, clean"),
        ("Normal", "0:00:00  so"),
        ("Heading 2", "Personalised, verbatim"),
        ("Normal", "0:00:00  um so[?] [unclear]"),
        ("Heading 2", "Personalised, clean"),
        ("Normal", "0:00:00  so[?] [unclear]"),
    ]
    assert "Words with [?] are doubtful" in lines[1][1]
    assert [run.text for run in document.paragraphs[7].runs if run.font.underline] == ["so"]


def test_a_document_of_word_takes_any_text(client: Any) -> None:
    text = "a\x00\x0b\x0c\ufffe\x1b[31m\u202eb <w:t> & مرحبا"
    segment = Segment(3725.9, 3727.0, text, -0.5)
    said = Transcript(text, text, (segment,), 2.0)
    answer = post(client, to_dict(Result(Recording(text), said)), response_format="docx")
    title, _, line = opened(answer).paragraphs
    assert line.text == "1:02:05  a\ufffd\ufffd\ufffd\ufffd\ufffd[31m\ufffdb <w:t> & مرحبا"
    assert title.text


def opened(answer: Any) -> Any:
    from docx import Document

    assert answer.status_code == 200
    assert answer.headers["content-type"] == DOCX_TYPE
    return Document(BytesIO(answer.content))


def of_segment(**changes: Any) -> dict[str, Any]:
    """Return JSON whose segment has other values in some fields."""
    values = to_dict(RESULT)
    (segment,) = values["segments"]
    return values | {"segments": [segment | changes]}


def edited(first: int, last: int) -> dict[str, Any]:
    return of_segment(edits=[{"first": first, "last": last, "kind": "filler", "text": "um"}])


@pytest.mark.parametrize("values", [edited(1, 1), edited(-1, 0), edited(2, 4), edited(2, 1)])
def test_an_edit_of_words_that_are_not_there_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no transcript as hyperasr writes it"):
        from_dict(values, RESULT.recording)


@pytest.mark.parametrize(
    ("transcript", "fields", "told"),
    [
        (of_segment(start_s=float("nan")), {"response_format": "srt"}, "no transcript"),
        (of_segment(end_s=1e306), {"response_format": "srt"}, "no transcript"),
        (to_dict(RESULT) | {"duration_s": float("inf")}, {}, "no transcript"),
        ({}, {}, "no transcript as hyperasr writes it"),
        ([1], {}, "no transcript as hyperasr writes it"),
        (of_segment(text="half of a pair: \ud83d"), {}, "transcript must be JSON"),
        ({"text": "a", "segments": 3}, {}, "no transcript as hyperasr writes it"),
        (None, {"response_format": "doc"}, "response_format must be one of txt"),
        (None, {"mode": "loud"}, "mode must be one of verbatim"),
    ],
)
def test_what_cannot_be_written_is_told(
    client: Any, transcript: Any, fields: dict[str, str], told: str
) -> None:
    answer = post(client, to_dict(RESULT) if transcript is None else transcript, **fields)
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]
    assert client.post("/v1/hyperasr/formats", data={"transcript": "{"}).status_code == 400
    assert client.post("/v1/hyperasr/formats").status_code == 400


def test_the_page_is_its_own_and_in_nobodys_frame(client: Any) -> None:
    for name in ("", "page.js", "page.css", "microphone.js"):
        answer = client.get(f"/{name}")
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "://" not in answer.text.replace("${scheme}://", "")
    assert client.get("/../static.py").status_code == 404
