"""A transcript in another format, without hearing the recording again."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.datastructures import UploadFile

from hyperasr.errors import ConfigError
from hyperasr.service.uploads import recording_of, shown_name
from hyperasr.service.word_document import DOCX_TYPE, word_document
from hyperasr.transcription.formats import FORMATS, render
from hyperasr.transcription.recordings import Recording
from hyperasr.transcription.transcript import Result, from_dict

_MODES = ("verbatim", "clean", "both")
_TYPES = {"html": "text/html", "json": "application/json", "csv": "text/csv", "vtt": "text/vtt"}


def format_routes() -> APIRouter:
    """Return ``/v1/hyperasr/formats``."""
    router = APIRouter(prefix="/v1/hyperasr")

    @router.post("/formats")
    async def formats(request: Request) -> Response:
        async with request.form(max_files=2, max_fields=4) as form:
            transcript, upload = form.get("transcript"), form.get("file")
            form_name = check_format(str(form.get("response_format", "txt")))
            mode = str(form.get("mode", "verbatim"))
            if mode not in _MODES:
                raise ConfigError(f"mode must be one of {', '.join(_MODES)}")
            text = await transcript.read() if isinstance(transcript, UploadFile) else transcript
            try:
                values = json.loads(text or "")
            except (ValueError, RecursionError):
                raise ConfigError("transcript must be JSON, as /v1/hyperasr answers it") from None
            file = upload if isinstance(upload, UploadFile) else None
            name = shown_name(values.get("id") if isinstance(values, dict) else None)
            return await rendered(from_dict(values, Recording(name)), file, form_name, mode)

    return router


def check_format(name: str) -> str:
    """Return the name of a format.

    Raises:
        ConfigError: there is none of this name.
    """
    known = (*FORMATS, "docx")
    if name not in known:
        raise ConfigError(f"response_format must be one of {', '.join(known)}")
    return name


async def rendered(result: Result, upload: UploadFile | None, form: str, mode: str) -> Response:
    """Answer with a result in a format.

    Args:
        result: what is written.
        upload: its recording, which goes into a page of HTML; None makes one without sound.
        form: one of `hyperasr.transcription.formats.FORMATS`, or ``docx``.
        mode: ``verbatim``, ``clean`` or ``both``.
    """
    if form == "docx":
        document = await asyncio.to_thread(word_document, result, mode)
        return Response(document, media_type=DOCX_TYPE)
    kind = _TYPES.get(form, "text/plain")
    if form != "html" or upload is None:
        return PlainTextResponse(
            await asyncio.to_thread(render, result, form, mode), media_type=kind
        )
    await upload.seek(0)
    async with recording_of(upload) as recording:
        # Encoding an hour of sound takes a minute, in which others are answered.
        heard = replace(result, recording=replace(recording, id=result.id))
        text = await asyncio.to_thread(render, heard, form, mode)
    return PlainTextResponse(text, media_type=kind)
