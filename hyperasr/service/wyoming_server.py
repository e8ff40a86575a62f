"""The Wyoming protocol, by which Home Assistant asks for transcripts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioChunkConverter, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, async_read_event, async_write_event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info
from wyoming.ping import Ping, Pong

from hyperasr import __version__
from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.errors import AudioError, HyperASRError
from hyperasr.service.answers import Service
from hyperasr.service.problems import TooLong, log_failure
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.recordings import Recording

_LONGEST_S = 600.0  # of what is held in memory: 19 MB
_MOST_BYTES = 1 << 20  # of an event
_GARBAGE = (AttributeError, EOFError, KeyError, TypeError, ValueError)


@asynccontextmanager
async def serving_wyoming(service: Service, listening: socket.socket) -> AsyncIterator[None]:
    """Speak Wyoming for the length of the block; what was asked before its end is answered.

    Args:
        service: what all routes share.
        listening: bound to this machine's own address.
    """
    speakers: set[_Speaker] = set()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        speaker = _Speaker(service, reader, writer)
        speakers.add(speaker)
        try:
            await speaker.run()
        finally:
            speakers.discard(speaker)

    server = await asyncio.start_server(on_connection, sock=listening)
    try:
        yield
    finally:
        server.close()
        for speaker in list(speakers):
            await speaker.close()


class _Reader:
    """A reader that takes no event of any size."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def readline(self) -> bytes:
        return await self._reader.readline()

    async def readexactly(self, n: int) -> bytes:
        if n > _MOST_BYTES:
            raise ValueError(f"an event of {n} bytes; {_MOST_BYTES} is the most")
        return await self._reader.readexactly(n)


class _Speaker:
    """One connection."""

    def __init__(
        self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.service, self.reader, self.writer = service, _Reader(reader), writer
        self.language: str | None = None
        self.chunks: list[np.ndarray] = []
        self.n_samples = 0
        self.convert = AudioChunkConverter(rate=SAMPLE_RATE, width=2, channels=1)
        self.answering = asyncio.Lock()

    async def run(self) -> None:
        """Answer events until the client leaves, falls silent or sends what is none."""
        try:
            if self.service.metrics.n_live >= self.service.limits.live_sessions:
                await self.write(Error("too many connections are open; try again later", "busy"))
                return
            with self.service.metrics.live_session():
                while (event := await self._next()) is not None:
                    await self._handle(event)
        except (OSError, TimeoutError, *_GARBAGE):
            pass  # its own connection ends, and no other
        except Exception as unknown:
            log_failure(unknown, "a Wyoming connection")
        finally:
            self.writer.close()

    async def close(self) -> None:
        """End the connection, after the answer that is under way."""
        async with self.answering:
            self.writer.close()

    async def write(self, event: Any) -> None:
        """Send an event."""
        await async_write_event(event.event(), self.writer)

    async def _next(self) -> Event | None:
        idle_s = self.service.limits.live_idle_s
        return await asyncio.wait_for(async_read_event(self.reader), idle_s)  # type: ignore[arg-type]

    async def _handle(self, event: Event) -> None:
        if Describe.is_type(event.type):
            await self.write(_info(self.service))
        elif Ping.is_type(event.type):
            await self.write(Pong(Ping.from_event(event).text))
        elif Transcribe.is_type(event.type):
            self.language = Transcribe.from_event(event).language
        elif AudioStart.is_type(event.type):
            self._forget()
        elif AudioChunk.is_type(event.type):
            sound = self.convert.convert(AudioChunk.from_event(event)).audio
            self.n_samples += len(sound) // 2
            if self.n_samples <= _LONGEST_S * SAMPLE_RATE:
                self.chunks.append(np.frombuffer(sound, "<i2").astype(np.float32) / 32_768)
        elif AudioStop.is_type(event.type):
            async with self.answering:
                await self._answer()

    async def _answer(self) -> None:
        try:
            result = await self.service.result(await self.service.submit(*self._recorded()))
        except HyperASRError as error:
            await self.write(Error(str(error), type(error).__name__))
        else:
            assert result.transcript is not None
            transcript = result.transcript
            await self.write(Transcript(transcript.text, language=transcript.language))
        finally:
            self._forget()

    def _recorded(self) -> tuple[Recording, TranscribeOptions]:
        if self.n_samples > _LONGEST_S * SAMPLE_RATE:
            raise TooLong(f"the recording is longer than {_LONGEST_S / 60:g} minutes; cut it")
        if not self.chunks:
            raise AudioError("no sound came before its end")
        options = TranscribeOptions(language=self.service.language(self.language))
        return Recording("wyoming", waveform=np.concatenate(self.chunks)), options

    def _forget(self) -> None:
        self.chunks, self.n_samples = [], 0
        self.convert = AudioChunkConverter(rate=SAMPLE_RATE, width=2, channels=1)


def _info(service: Service) -> Info:
    maker = Attribution("hyperasr", "")
    about: dict[str, Any] = {"attribution": maker, "installed": True, "version": __version__}
    languages = list(service.model.backbone.language_ids) or ["en"]
    model = AsrModel(service.model_id, description=service.model_id, languages=languages, **about)
    what = "Whisper, adapted to every utterance, for atypical speech"
    return Info(asr=[AsrProgram("hyperasr", description=what, models=[model], **about)])
