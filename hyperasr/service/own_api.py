"""What only we have: verbatim and clean, sure and doubtful words, unadapted beside adapted."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from typing import Any, get_type_hints

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile

from hyperasr.errors import AudioError, ConfigError
from hyperasr.service.answers import Service, answer, stream, unless_gone
from hyperasr.service.rendering import check_format, rendered
from hyperasr.service.voices import Voices
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.transcript import segment_to_dict, to_dict
from hyperasr.util.closest import closest

# What is the server's to say, or cannot be shared.
_NOT_OFFERED = {"batch_size", "vad"}
_NAMES = [f.name for f in fields(TranscribeOptions) if f.name not in _NOT_OFFERED]
_HINTS = get_type_hints(TranscribeOptions)
_MOST = {"beam_size": 10, "samples": 32}
_OTHERS = ("model", "response_format", "stream")
_MOST_CLIPS = 200  # of a voice
_DEFAULTS: dict[str, Any] = {"mode": "both", "word_times": True}


def own_routes(service: Service) -> APIRouter:
    """Return ``/v1/hyperasr/transcriptions``."""
    router = APIRouter(prefix="/v1/hyperasr")

    @router.post("/transcriptions")
    async def transcriptions(request: Request) -> Response:
        async with request.form(max_files=1, max_fields=40) as form:
            upload = form.get("file")
            if not isinstance(upload, UploadFile):
                raise AudioError("file is missing: send a recording as multipart/form-data")
            texts = _texts(form)
            model = await service.model_named(texts.pop("model", service.model_id))
            response_format = texts.pop("response_format", "json")
            check_format(response_format)
            is_stream = _value("stream", bool, texts.pop("stream", "false"))
            texts["language"] = service.language(texts.get("language"))
            options = options_of_texts(texts)
            if is_stream:
                return await stream(
                    service,
                    upload,
                    options,
                    model,
                    lambda segment, _: {"type": "segment", "segment": segment_to_dict(segment)},
                    lambda result: {"type": "done", "transcript": to_dict(result)},
                )
            result = await answer(service, request, upload, options, model)
            if response_format == "json":
                return JSONResponse(to_dict(result))
            return await rendered(result, upload, response_format, options.mode)

    return router


def voice_routes(voices: Voices) -> APIRouter:
    """Return ``/v1/hyperasr/voices``: list, train, delete."""
    router = APIRouter(prefix="/v1/hyperasr/voices")

    @router.get("")
    async def names() -> dict[str, Any]:
        return {"voices": voices.names()}

    @router.post("/{name}")
    async def train(name: str, request: Request) -> dict[str, Any]:
        async with request.form(max_files=_MOST_CLIPS, max_fields=_MOST_CLIPS) as form:
            files, texts = form.getlist("clips"), form.getlist("texts")
            if not files or len(texts) not in (0, len(files)):
                raise AudioError("send clips, and with each a field of texts, or none at all")
            texts = texts or [""] * len(files)
            clips = [
                (await file.read(), str(text))
                for file, text in zip(files, texts, strict=True)
                if isinstance(file, UploadFile)
            ]
        return await unless_gone(request, voices.train(name, clips))

    @router.delete("/{name}")
    async def remove(name: str) -> dict[str, Any]:
        await asyncio.to_thread(voices.remove, name)
        return {"voices": voices.names()}

    return router


def options_of_texts(texts: dict[str, Any]) -> TranscribeOptions:
    """Return the options of a form's fields, or of JSON values.

    Args:
        texts: fields of `TranscribeOptions` by name; mode is both and word_times true where they
            are not given.
    Raises:
        ConfigError: an unknown name, or a value out of range.
    """
    values = dict(_DEFAULTS)
    for name, text in texts.items():
        if name not in _NAMES:
            close = closest(name, [*_NAMES, *_OTHERS])
            raise ConfigError(f"there is no field {name[:50]!r}; did you mean {close!r}?")
        values[name] = _value(name, _HINTS[name], text)
        if name in _MOST and values[name] > _MOST[name]:
            raise ConfigError(f"{name} is {values[name]}; this server takes {_MOST[name]} at most")
    return TranscribeOptions(**values)


def _texts(form: FormData) -> dict[str, Any]:
    """Return the fields but the file; one that is there several times as a list."""
    texts: dict[str, Any] = {}
    for name in form:
        if name != "file":
            several = form.getlist(name)
            texts[name.removesuffix("[]")] = several if len(several) > 1 else several[0]
    return texts


def _value(name: str, hint: Any, text: Any) -> Any:
    if str(hint).startswith("tuple") and isinstance(text, str):
        text = [part for part in text.split(",") if part.strip()]
    try:
        return TypeAdapter(hint).validate_python(text)
    except ValidationError as error:
        raise ConfigError(f"{name} is not valid: {error.errors()[0]['msg']}") from error
