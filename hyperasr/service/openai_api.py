"""OpenAI's audio API, as far as one local model can follow it."""

from __future__ import annotations

import zlib
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from hyperasr.model import AdaptedWhisper
from hyperasr.service.answers import Service, answer, stream
from hyperasr.service.config import OPENAI_NAME
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.transcript import Result, Transcript
from hyperasr.types import Segment
from hyperasr.whisper.languages import language_name

Form_ = Literal["json", "text", "srt", "vtt", "verbose_json"]
Granularity = Literal["word", "segment"]


def openai_routes(service: Service) -> APIRouter:
    """Return ``/v1/models`` and ``/v1/audio/...``."""
    router = APIRouter(prefix="/v1")

    def card(name: str) -> dict[str, Any]:
        about = {"object": "model", "created": service.created, "owned_by": "hyperasr"}
        return {"id": name} | about

    @router.get("/models")
    async def models() -> dict[str, Any]:
        voices = service.voices.names() if service.voices is not None else []
        names = dict.fromkeys((service.model_id, OPENAI_NAME, *voices))
        return {"object": "list", "data": [card(name) for name in names]}

    @router.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        await service.model_named(name)
        return card(name)

    @router.post("/audio/transcriptions")
    async def transcriptions(
        request: Request,
        file: Annotated[UploadFile, File()],
        model: Annotated[str, Form()] = OPENAI_NAME,
        language: Annotated[str | None, Form()] = None,
        prompt: Annotated[str, Form()] = "",
        response_format: Annotated[Form_, Form()] = "json",
        temperature: Annotated[float, Form(ge=0, le=1)] = 0.0,
        stream: Annotated[bool, Form()] = False,
        granularities: Annotated[
            list[Granularity] | None, Form(alias="timestamp_granularities[]")
        ] = None,
    ) -> Response:
        asked = await service.model_named(model)
        options = TranscribeOptions(
            language=service.language(language),
            prompt=prompt,
            temperatures=(temperature,) if temperature else (),
            word_times="word" in (granularities or ()),
        )
        if stream:
            return await _streamed(service, file, options, asked)
        result = await answer(service, request, file, options, asked)
        return _response(result, response_format, options.task, granularities or ["segment"])

    @router.post("/audio/translations")
    async def translations(
        request: Request,
        file: Annotated[UploadFile, File()],
        model: Annotated[str, Form()] = OPENAI_NAME,
        prompt: Annotated[str, Form()] = "",
        response_format: Annotated[Form_, Form()] = "json",
        temperature: Annotated[float, Form(ge=0, le=1)] = 0.0,
    ) -> Response:
        asked = await service.model_named(model)
        options = TranscribeOptions(
            language=service.language(None),
            task="translate",
            prompt=prompt,
            temperatures=(temperature,) if temperature else (),
        )
        result = await answer(service, request, file, options, asked)
        return _response(result, response_format, options.task, ["segment"])

    return router


async def _streamed(
    service: Service, file: UploadFile, options: TranscribeOptions, model: AdaptedWhisper
) -> Response:
    return await stream(
        service,
        file,
        options,
        model,
        lambda segment, is_first: {
            "type": "transcript.text.delta",
            "delta": segment.text if is_first or not segment.text else f" {segment.text}",
        },
        lambda result: {"type": "transcript.text.done", "text": _of(result).text},
    )


def _of(result: Result) -> Transcript:
    assert result.transcript is not None
    return result.transcript


def _response(result: Result, form: Form_, task: str, granularities: list[Granularity]) -> Response:
    transcript = _of(result)
    if form == "json":
        return JSONResponse({"text": transcript.text})
    if form == "verbose_json":
        return JSONResponse(_verbose(transcript, task, granularities))
    if form == "vtt":
        return PlainTextResponse(transcript.to_vtt(), media_type="text/vtt")
    text = transcript.to_srt() if form == "srt" else f"{transcript.text}\n"
    return PlainTextResponse(text)


def _verbose(transcript: Transcript, task: str, granularities: list[Granularity]) -> dict[str, Any]:
    values = {
        "task": task,
        "language": language_name(transcript.language),
        "duration": round(transcript.duration_s, 3),
        "text": transcript.text,
    }
    if "segment" in granularities:
        values["segments"] = [_segment(i, s) for i, s in enumerate(transcript.segments)]
    if "word" in granularities:
        values["words"] = [
            {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)}
            for word in transcript.words
            if word.start is not None and word.end is not None
        ]
    return values


def _segment(index: int, segment: Segment) -> dict[str, Any]:
    """Return a segment with the fields that clients insist on.

    Silence is not decoded, so nothing is known of `no_speech_prob`; tokens are not kept.
    """
    text = segment.text.encode()
    return {
        "id": index,
        "seek": round(100 * segment.start_s),
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(segment.logprob, 4),
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 3),
        "no_speech_prob": 0.0,
    }
