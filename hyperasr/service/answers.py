"""A request waits for its job: until it is done, the client leaves, or its time is over."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.model import AdaptedWhisper
from hyperasr.service.config import OPENAI_NAME, Limits
from hyperasr.service.engine import Engine, Job
from hyperasr.service.metrics import Metrics
from hyperasr.service.problems import UnknownModel, body_of, log_failure, status_of
from hyperasr.service.voices import Voices
from hyperasr.transcription.options import AUTO, TranscribeOptions
from hyperasr.transcription.recordings import Recording
from hyperasr.transcription.transcript import Result
from hyperasr.types import Segment
from hyperasr.util.program import one_line

T = TypeVar("T")
_IN_MEMORY = 4_000_000  # bytes of an upload; a larger one becomes a temporary file
_LONGEST_NAME = 120  # characters

SegmentEvent = Callable[[Segment, bool], dict[str, Any]]
"""A segment, and whether it is the first one with text -> the event that tells of it."""


@dataclass(frozen=True)
class Service:
    """What the routes share.

    Attributes:
        engine: that transcribes.
        model_id: name of its model.
        limits: of one client.
        metrics: where all is counted.
        voices: of single people, saved by name; None where none are.
        created: when the server started, in seconds since 1970.
    """

    engine: Engine
    model_id: str
    limits: Limits
    metrics: Metrics
    created: int
    voices: Voices | None = None

    @property
    def model(self) -> AdaptedWhisper:
        """The model."""
        return self.engine.model

    async def model_named(self, name: str) -> AdaptedWhisper:
        """Return the model that a client asks for: the served one, or that of a voice.

        Raises:
            UnknownModel: there is none of this name.
            HyperASRError: a voice cannot be opened.
        """
        if name in (self.model_id, OPENAI_NAME):
            return self.model
        if self.voices is not None and name in self.voices.names():
            return await asyncio.to_thread(self.voices.open, name)
        raise UnknownModel(
            f"this server has no model {name[:100]!r}; it has {self.model_id!r}, which "
            f"{OPENAI_NAME!r} means as well"
        )

    def language(self, asked: str | None) -> str:
        """Return the language of a request: found out where it is not said, and may be several."""
        return asked or (AUTO if len(self.model.backbone.language_ids) > 1 else "en")

    async def submit(
        self,
        recording: Recording,
        options: TranscribeOptions,
        on_segment: Callable[[Segment], None] | None = None,
        model: AdaptedWhisper | None = None,
    ) -> Job:
        """Queue a recording; as `Engine.submit`, without holding up the event loop."""
        return await asyncio.to_thread(self.engine.submit, recording, options, on_segment, model)

    async def result(self, job: Job) -> Result:
        """Wait for a job and count it; who is cancelled here cancels the job.

        Raises:
            HyperASRError: there is no transcript.
        """
        result = await asyncio.wrap_future(job.future)
        assert result.transcript is not None
        self.metrics.audio_s.inc(result.transcript.duration_s)
        return result


async def answer(
    service: Service,
    request: Request,
    upload: UploadFile,
    options: TranscribeOptions,
    model: AdaptedWhisper,
) -> Result:
    """Return the result of an upload.

    Raises:
        HTTPException: the client left, or its time is over; the job is cancelled.
        HyperASRError: there is no transcript.
    """
    async with recording_of(upload) as recording:
        job = await service.submit(recording, options, model=model)
        return await unless_gone(request, service.result(job), service.limits.answer_s)


async def unless_gone(
    request: Request, work: Coroutine[Any, Any, T], within_s: float | None = None
) -> T:
    """Return what comes of some work, which ends when the client leaves or its time is over.

    Args:
        request: whose body has been read.
        work: what is waited for.
        within_s: seconds that it may take; None takes any.
    Raises:
        HTTPException: the client left, or its time is over.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise HTTPException(499, "the client left")  # nginx's; nobody reads it
        raise HTTPException(504, f"no transcript within {within_s:g} s")
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def stream(
    service: Service,
    upload: UploadFile,
    options: TranscribeOptions,
    model: AdaptedWhisper,
    on_segment: SegmentEvent,
    on_result: Callable[[Result], dict[str, Any]],
) -> StreamingResponse:
    """Answer an upload with server-sent events: a segment as soon as it is decoded, and the whole.

    What fails before the first event is an ordinary error; later it is an event ``{"error": ...}``.
    """
    events = _events(service, upload, options, model, on_segment, on_result)
    first = await anext(events)

    async def lines() -> AsyncIterator[str]:
        try:
            yield _line(first)
            async for event in events:
                yield _line(event)
        except (HyperASRError, HTTPException) as error:
            message = error.detail if isinstance(error, HTTPException) else str(error)
            yield _line(body_of(status_of(error), message))
        except Exception as unknown:
            yield _line(body_of(500, str(log_failure(unknown, "streaming an answer"))))
        finally:
            await events.aclose()

    return StreamingResponse(
        lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _events(
    service: Service,
    upload: UploadFile,
    options: TranscribeOptions,
    model: AdaptedWhisper,
    on_segment: SegmentEvent,
    on_result: Callable[[Result], dict[str, Any]],
) -> Any:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Segment | None] = asyncio.Queue()

    def put(segment: Segment | None) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, segment)

    async with recording_of(upload) as recording:
        job = await service.submit(recording, options, put, model)
        result = asyncio.ensure_future(service.result(job))
        result.add_done_callback(lambda _: queue.put_nowait(None))
        ends = loop.time() + service.limits.answer_s
        is_first = True
        try:
            while True:
                try:
                    async with asyncio.timeout_at(ends):
                        segment = await queue.get()
                except TimeoutError:
                    told = f"no transcript within {service.limits.answer_s:g} s"
                    raise HTTPException(504, told) from None
                if segment is None:
                    break
                yield on_segment(segment, is_first)
                is_first = is_first and not segment.text
            yield on_result(result.result())
        finally:
            result.cancel()


def _line(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"


def json_of(text: str | bytes, fault: str) -> Any:
    """Return what a text in JSON holds.

    Raises:
        ConfigError: it is none, or holds half of a surrogate pair, which is no character of a text
            and can be neither written nor sent. `fault` is what it says.
    """
    try:
        values = json.loads(text)
        json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise ConfigError(fault) from None
    return values


def shown_name(name: str | None) -> str:
    """Return the name of an upload without folders; it is shown and never opened."""
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    return one_line(last)[:_LONGEST_NAME] or "upload"


@asynccontextmanager
async def recording_of(upload: UploadFile) -> AsyncIterator[Recording]:
    """Give an upload as a recording, whose temporary file is gone after the block.

    Errors in the block that name the file name the upload instead.
    """
    name = shown_name(upload.filename)
    if (upload.size or 0) <= _IN_MEMORY:
        yield Recording(name, content=await upload.read())
        return
    path = await asyncio.to_thread(_saved, upload.file)
    try:
        yield Recording(name, path)
    except HyperASRError as error:
        error.args = tuple(str(arg).replace(path, name) for arg in error.args)
        raise
    finally:
        with suppress(OSError):
            os.unlink(path)


def _saved(file: BinaryIO) -> str:
    descriptor, path = tempfile.mkstemp(prefix="hyperasr-")  # readable by its owner alone
    try:
        with open(descriptor, "wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
    except BaseException:
        os.unlink(path)
        raise
    return path
