"""A transcript in another format, without hearing the recording again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from io import BytesIO

from docx import Document
from docx.enum.text import WD_UNDERLINE
from docx.text.paragraph import Paragraph
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.datastructures import UploadFile

from hyperasr import __version__
from hyperasr.errors import ConfigError
from hyperasr.service.answers import json_of, recording_of, shown_name
from hyperasr.transcription.disfluency import pieces
from hyperasr.transcription.html_page import bare_name, printable
from hyperasr.transcription.recordings import Recording
from hyperasr.transcription.transcript import FORMATS, Result, from_dict, labelled, render
from hyperasr.types import Segment, Transcript

_MODES = ("verbatim", "clean", "both")
_DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
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
            fault = "transcript must be JSON, as /v1/hyperasr answers it"
            values = json_of(text or "", fault)
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
        form: one of `hyperasr.transcription.transcript.FORMATS`, or ``docx``.
        mode: ``verbatim``, ``clean`` or ``both``.
    """
    if form == "docx":
        document = await asyncio.to_thread(word_document, result, mode)
        return Response(document, media_type=_DOCX)
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


def word_document(result: Result, mode: str) -> bytes:
    """Return a document with one paragraph a segment, which begins with its time.

    Doubtful words are underlined and end in ``[?]``.

    Args:
        result: of a recording that could be transcribed.
        mode: ``verbatim``, ``clean`` or ``both``, which are two chapters.
    """
    assert result.transcript is not None
    document = Document()
    name = printable(bare_name(result.recording))
    document.core_properties.title, document.core_properties.author = name, ""
    document.core_properties.comments = ""
    document.add_heading(name, level=1)
    about = f"Written by hyperasr {__version__}; no person has checked it."
    if any(word.doubtful for word in result.transcript.words):
        about += " Words with [?] are doubtful."
    document.add_paragraph(about)
    for label, shown, own in labelled(result, mode):
        if label:
            document.add_heading(label.strip().rstrip(":").capitalize(), level=2)
        if isinstance(shown, Transcript):
            for segment in shown.segments:
                _add_segment(document.add_paragraph(), segment, own)
        else:
            document.add_paragraph(printable(shown))
    file = BytesIO()
    document.save(file)
    return file.getvalue()


def _add_segment(paragraph: Paragraph, segment: Segment, mode: str) -> None:
    seconds = int(segment.start_s)
    time = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    paragraph.add_run(f"{time}  ").italic = True
    for text, word in pieces(segment, mode):
        run = paragraph.add_run(printable(text))
        if word is not None and word.doubtful:
            run.font.underline = WD_UNDERLINE.DOTTED
            paragraph.add_run("[?]")
