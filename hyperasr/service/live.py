"""Live transcription over a WebSocket: sound in, partial and final text out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.audio.vad import Speech, silero
from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.model import AdaptedWhisper
from hyperasr.service.answers import Service, json_of
from hyperasr.service.engine import Job
from hyperasr.service.guard import right_token
from hyperasr.service.media import FORMATS, Container, Pcm
from hyperasr.service.own_api import options_of_texts
from hyperasr.service.problems import Busy, body_of, status_of
from hyperasr.service.utterances import PAUSES_S, Spoken, Utterances
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.recordings import Recording
from hyperasr.transcription.transcript import to_dict

MOST_MESSAGE_BYTES = 1 << 18
"""Of a message: 8 s of PCM."""

_FIRST_S = 10.0  # for the first message
_PARTIAL_S = 0.5  # of sound between two partial texts
_RETRY_S = 0.05  # where the queue is full
_AHEAD = 64  # messages of a client that were not heard yet; then it has to wait
_VIOLATION, _LATER = 1008, 1013  # codes of RFC 6455 and its registry


def live_routes(service: Service, token: str | None) -> APIRouter:
    """Return ``/v1/hyperasr/live``.

    Args:
        service: what the routes share.
        token: that the first message must bring; None lets everybody in.
    """
    router = APIRouter(prefix="/v1/hyperasr")

    @router.websocket("/live")
    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        with suppress(WebSocketDisconnect):  # the client left
            try:
                await _serve(websocket, service, token)
            except HyperASRError as error:
                await websocket.send_text(json.dumps(_error(error), ensure_ascii=False))
                await websocket.close(_LATER if isinstance(error, Busy) else _VIOLATION)

    return router


async def _serve(websocket: WebSocket, service: Service, token: str | None) -> None:
    message = await _message(websocket, _FIRST_S)
    if not isinstance(message, dict):
        raise ConfigError("the first message must be JSON that says how; the sound follows")
    if not right_token(str(message.pop("token", "")), token):
        raise ConfigError("the token is missing or wrong; send it in the first message")
    if service.metrics.n_live >= service.limits.live_sessions:
        raise Busy(f"{service.metrics.n_live} live connections are open; try again later")
    with service.metrics.live_session():
        pause = _choice("pause", message.pop("pause", "typical"), tuple(PAUSES_S))
        form = _choice("format", message.pop("format", "pcm"), FORMATS)
        model_name = str(message.pop("model", service.model_id))
        message["language"] = service.language(message.get("language"))
        if pause != "hold":
            message.setdefault("pauses", pause)
        message.setdefault("word_times", False)  # they cost a pass of the decoder
        options = options_of_texts(message)
        model = await service.model_named(model_name)

        def detector() -> Speech | None:
            service.engine.check(options)
            return None if PAUSES_S[pause] is None else silero()()

        speech = await asyncio.to_thread(detector)  # loads it
        utterances = Utterances(pause, speech, service.limits.utterance_s)
        await Session(websocket, service, model, options, form, utterances).run()


class Session:
    """One live connection.

    Args:
        websocket: accepted.
        service: what the routes share.
        model: by which it is transcribed.
        options: how.
        form: of the sound, one of `FORMATS`.
        utterances: cuts it.
    """

    def __init__(
        self,
        websocket: WebSocket,
        service: Service,
        model: AdaptedWhisper,
        options: TranscribeOptions,
        form: str,
        utterances: Utterances,
    ) -> None:
        self.websocket, self.service, self.model = websocket, service, model
        self.form, self.options, self.utterances = form, options, utterances
        self.partial_options = TranscribeOptions(
            language=self.options.language, task=self.options.task, pauses=self.options.pauses
        )
        self.loop = asyncio.get_running_loop()
        self.stream: Pcm | Container | None = None
        self.sound: asyncio.Queue[np.ndarray | HyperASRError | None] = asyncio.Queue()
        # Utterances, and events that wait for the texts of those before them.
        self.spoken: asyncio.Queue[tuple[int, Spoken] | dict[str, Any]] = asyncio.Queue()
        self.n_utterances = self.n_unanswered = 0
        self.partial = Partial(self)
        self.sending = asyncio.Lock()

    async def run(self) -> None:
        """Serve until the client leaves.

        Raises:
            WebSocketDisconnect: it left.
            HyperASRError: it fell silent, or sent what cannot be understood.
        """
        parts = (self.receive(), self.hear(), self.answer())
        tasks = [asyncio.ensure_future(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self.partial.stop()
            if self.stream is not None:
                self.stream.end()  # or its thread would wait for ever
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def receive(self) -> None:
        """Take messages until the client leaves or falls silent."""
        await self.send({"type": "ready"})
        while True:
            message = await _message(
                self.websocket, self.service.limits.live_idle_s, lambda: self.n_unanswered > 0
            )
            while self.sound.qsize() > _AHEAD:
                await asyncio.sleep(_RETRY_S)
            if isinstance(message, bytes):
                if self.stream is None:
                    is_pcm = self.form == "pcm"
                    self.stream = Pcm(self._put) if is_pcm else Container(self.form, self._put)
                self.stream.write(message)
            elif message == {"type": "end"}:
                self.stream = self.stream or Pcm(self._put)
                self.stream.end()
                self.stream = None  # a container is over; the next bytes begin another one
            else:
                raise ConfigError('there is one message beside sound: {"type": "end"}')

    async def hear(self) -> None:
        """Cut the sound into utterances, and show what is said so far."""
        while True:
            sound = await self.sound.get()
            if isinstance(sound, HyperASRError):
                raise sound
            if sound is None:
                ended = self.utterances.end()
                over = [] if ended is None else [ended]
            else:
                over = await asyncio.to_thread(self.utterances.feed, sound)
                self.partial.n_since += len(sound)
            for spoken in over:
                self.partial.stop()
                self.n_utterances += 1
                self.n_unanswered += 1
                self.spoken.put_nowait((self.n_utterances, spoken))
            if sound is None:
                if not over:
                    self.spoken.put_nowait({"type": "nothing"})
                self.spoken.put_nowait({"type": "answered"})
            self.partial.go_on()

    async def answer(self) -> None:
        """Send the final text of each utterance, in order, and what waits for them."""
        while True:
            spoken = await self.spoken.get()
            if isinstance(spoken, dict):
                await self.send(spoken)
            else:
                await self.send(await self._final(*spoken))
                self.n_unanswered -= 1

    async def _final(self, number: int, spoken: Spoken) -> dict[str, Any]:
        start_s, waveform = spoken
        try:
            job = await self._submitted(Recording(f"utterance {number}", waveform=waveform))
            values = to_dict(await self.service.result(job))
        except HyperASRError as error:
            return _error(error) | {"utterance": number}
        about = {"type": "final", "utterance": number, "start_s": round(start_s, 3)}
        return about | {"text": values["text"], "transcript": values}

    async def send(self, event: dict[str, Any]) -> None:
        """Send an event as JSON."""
        async with self.sending:
            await self.websocket.send_text(json.dumps(event, ensure_ascii=False))

    def _put(self, sound: np.ndarray | HyperASRError | None) -> None:
        self.loop.call_soon_threadsafe(self.sound.put_nowait, sound)

    async def _submitted(self, recording: Recording) -> Job:
        """Queue an utterance; where all is full, wait for a place: it cannot be said again."""
        ends = self.loop.time() + self.service.limits.answer_s
        while True:
            try:
                return await self.service.submit(recording, self.options, model=self.model)
            except Busy:
                if self.loop.time() > ends:
                    raise
                await asyncio.sleep(_RETRY_S)


class Partial:
    """What is said so far: decoded again and again, of a long utterance only the last part.

    Args:
        session: whose utterance it is.
    Attributes:
        n_since: samples heard since the last partial text was asked for.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.n_since = session, 0
        self._task: asyncio.Task[None] | None = None
        self._first, self._before = 0, ""  # samples that are decoded for good, and their text

    def stop(self) -> None:
        """Forget an utterance that is over."""
        if self._task is not None:
            self._task.cancel()
        self._task, self.n_since, self._first, self._before = None, 0, 0, ""

    def go_on(self) -> None:
        """Ask for the text so far, where it is time and the last one is there."""
        if self._task is not None and not self._task.done():
            return
        if self.n_since < _PARTIAL_S * SAMPLE_RATE:
            return
        waveform = self.session.utterances.current
        if waveform is not None:
            self.n_since = 0
            self._task = asyncio.create_task(self._show(waveform))

    async def _show(self, waveform: np.ndarray) -> None:
        session = self.session
        number = session.n_utterances + 1
        recording = Recording(f"utterance {number}", waveform=waveform[self._first :])
        try:
            job = await session.service.submit(
                recording, session.partial_options, model=session.model
            )
            transcript = (await asyncio.wrap_future(job.future)).transcript
        except HyperASRError:
            return  # the next one may fare better, and the final text tells what is wrong
        assert transcript is not None
        text = f"{self._before} {transcript.text}".strip()
        with suppress(WebSocketDisconnect, RuntimeError):  # who left is noticed elsewhere
            await session.send({"type": "partial", "utterance": number, "text": text})
        if len(transcript.segments) > 1:
            *done, last = transcript.segments
            self._before = " ".join([self._before, *(s.text for s in done if s.text)]).strip()
            self._first += round(last.start_s * SAMPLE_RATE)


async def _message(
    websocket: WebSocket, within_s: float, owes: Callable[[], bool] = lambda: False
) -> Any:
    """Return the bytes or the JSON of the next message.

    Args:
        websocket: of the client.
        within_s: seconds that it has; while `owes` says that it waits for a text, that time begins
            anew.
        owes: whether the server owes it one.
    Raises:
        WebSocketDisconnect: the client left.
        ConfigError: it sends nothing, or text that is no JSON.
    """
    message = None
    while message is None:
        try:
            message = await asyncio.wait_for(websocket.receive(), within_s)
        except TimeoutError:
            if not owes():
                said = f"no message for {within_s:g} s; connect again to go on"
                raise ConfigError(said) from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    if message.get("bytes") is not None:
        return message["bytes"]
    return json_of(message.get("text") or "", "a text message must be JSON")


def _choice(name: str, value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}")
    return str(value)


def _error(error: BaseException) -> dict[str, Any]:
    return {"type": "error"} | body_of(status_of(error), str(error))
