"""OpenAI's own client speaks to the server, and gets what it expects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from hyperasr.hub import HyperASR
from hyperasr.service.server import Server
from tests.service.serving import Voice, wav

CLIP = {"model": "whisper-1"}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    # A client of its own: the environment of a test run may name a proxy.
    with (
        httpx.Client(trust_env=False) as http,
        openai.OpenAI(
            base_url=f"{server.address}v1", api_key="any", max_retries=0, http_client=http
        ) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def clip(voice: Voice) -> np.ndarray:
    return voice(14.0)


@pytest.fixture(scope="module")
def expected(model: HyperASR, clip: np.ndarray) -> Any:
    return model.transcribe(clip, 16_000, word_times=True)


def test_a_text(client: openai.OpenAI, clip: np.ndarray, expected: Any) -> None:
    file = ("my.wav", wav(clip))
    assert client.audio.transcriptions.create(file=file, **CLIP).text == expected.text
    named = client.audio.transcriptions.create(
        file=file, model="random", language="en", response_format="text"
    )
    assert named == f"{expected.text}\n"


def test_subtitles(client: openai.OpenAI, clip: np.ndarray, expected: Any, model: HyperASR) -> None:
    plain = model.transcribe(clip, 16_000)
    for form, text in (("srt", plain.to_srt()), ("vtt", plain.to_vtt())):
        got = client.audio.transcriptions.create(
            file=("my.wav", wav(clip)), model="whisper-1", response_format=form
        )
        assert got == text
    assert plain.text == expected.text


def test_segments_and_words(client: openai.OpenAI, clip: np.ndarray, expected: Any) -> None:
    got = client.audio.transcriptions.create(
        file=("my.wav", wav(clip)),
        model="whisper-1",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert (got.text, got.language, float(got.duration)) == (expected.text, "english", 14.0)
    assert got.segments is not None
    assert got.words is not None
    assert [s.text for s in got.segments] == [s.text for s in expected.segments]
    assert len(got.segments) > 1
    spans = [(w.word, w.start, w.end) for w in got.words]
    assert spans == [(w.text, round(w.start, 3), round(w.end, 3)) for w in expected.words]
    alone = client.audio.transcriptions.create(
        file=("my.wav", wav(clip)), model="whisper-1", response_format="verbose_json"
    )
    assert alone.words is None
    assert alone.segments is not None


def test_a_stream_is_the_text_in_parts(
    client: openai.OpenAI, clip: np.ndarray, expected: Any
) -> None:
    events = list(
        client.audio.transcriptions.create(file=("my.wav", wav(clip)), stream=True, **CLIP)
    )
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert len(deltas) == len(expected.segments)
    assert "".join(deltas) == expected.text
    (done,) = [event for event in events if event.type == "transcript.text.done"]
    assert events[-1] is done
    assert done.text == expected.text


def test_prompt_and_temperature_are_followed(
    client: openai.OpenAI, clip: np.ndarray, model: HyperASR, expected: Any
) -> None:
    got = client.audio.transcriptions.create(
        file=("my.wav", wav(clip)), prompt="a hat", temperature=0.8, **CLIP
    )
    own = model.transcribe(clip, 16_000, prompt="a hat", temperatures=(0.8,))
    assert got.text == own.text != expected.text


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["random", "whisper-1"]
    assert client.models.retrieve("random").owned_by == "hyperasr"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-9'"):
        client.models.retrieve("gpt-9")


def test_what_cannot_be_is_an_error_of_its_kind(client: openai.OpenAI, clip: np.ndarray) -> None:
    create, file = client.audio.transcriptions.create, ("my.wav", wav(clip[:8_000]))
    for kind, part, call in (
        (openai.NotFoundError, "no model", {"model": "gpt-9", "file": file}),
        (openai.BadRequestError, "knows English alone", {"language": "de", "file": file, **CLIP}),
        (openai.BadRequestError, "temperature", {"temperature": 7, "file": file, **CLIP}),
        (openai.BadRequestError, "is text", {"file": ("a.wav", b"words " * 99), **CLIP}),
        (openai.BadRequestError, "0 bytes", {"file": ("a.wav", b""), **CLIP}),
        (
            openai.BadRequestError,
            "is text",
            {"stream": True, "file": ("a.wav", b"hm " * 9), **CLIP},
        ),
    ):
        with pytest.raises(kind, match=part) as raised:
            create(**call)  # type: ignore[call-overload]
        assert raised.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="cannot translate"):
        client.audio.translations.create(file=file, model="whisper-1")
