"""Recordings of many callers, their segments decoded in common batches, each with own weights.

One thread decodes. While it is busy, callers queue up; at its next turn it takes segments of all
who asked for the same model and options, in turn, up to a batch. A long recording therefore never
keeps the others waiting for longer than one batch, and a transcript does not depend on who else
called. Each recording is read in a thread of its own, no further ahead than decoding needs.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from hyperasr.audio.container import open_recording
from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.audio.reading import UNKNOWN_LENGTH
from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.model import AdaptedWhisper
from hyperasr.service.problems import Busy, TooLong, log_failure
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.pipeline import BatchDecoder, Pending, Waiting
from hyperasr.transcription.recordings import Recording
from hyperasr.transcription.transcript import Result
from hyperasr.types import Segment

_MOST_DECODERS = 8  # of different options, kept for callers to come
_GATHER_S = 0.005  # without a newcomer, after which a batch with room left is decoded
_LONGEST_GATHER_S = 0.2  # however many keep coming, and however slowly they are read
_BATCHES_AHEAD = 2  # read of all recordings together, beside one segment of each


@dataclass(eq=False)
class Job:
    """A recording that waits for its transcript.

    Attributes:
        pending: what is known of it so far.
        options: how it is transcribed.
        model: by which.
        on_segment: called in the engine's thread with each segment, in order of time.
        future: of the result, which holds a transcript; a `HyperASRError` where there is none.
            Who cancels it gives up: what was not decoded yet never is.
    """

    pending: Pending
    options: TranscribeOptions
    model: AdaptedWhisper
    on_segment: Callable[[Segment], None] | None = None
    future: Future[Result] = field(default_factory=Future)
    ready: deque[tuple[float, np.ndarray]] = field(default_factory=deque)
    ended: bool = False
    error: HyperASRError | None = None


class Engine:
    """Transcribes for many callers at once.

    Args:
        model: the model; nothing else may move or change it meanwhile.
        batch_size: segments decoded together, at least 1.
        most_waiting: recordings that wait or are worked on, at least 1; more are refused.
        longest_s: of a recording, in seconds.
    Attributes:
        n_segments, n_batches: decoded so far.
    """

    def __init__(
        self,
        model: AdaptedWhisper,
        *,
        batch_size: int = 16,
        most_waiting: int = 32,
        longest_s: float = 4 * 3600.0,
    ) -> None:
        self.model, self.batch_size, self.most_waiting = model, batch_size, most_waiting
        self.longest_s = longest_s
        self.n_segments = self.n_batches = 0
        self._jobs: list[Job] = []
        self._n_come = 0  # recordings and segments
        self._decoders: dict[tuple[AdaptedWhisper, TranscribeOptions], BatchDecoder] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="hyperasr-engine", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        """Recordings that wait or are worked on."""
        return len(self._jobs)

    def submit(
        self,
        recording: Recording,
        options: TranscribeOptions,
        on_segment: Callable[[Segment], None] | None = None,
        model: AdaptedWhisper | None = None,
    ) -> Job:
        """Queue a recording.

        Args:
            recording: what is to be transcribed; a file must stay until the job is done.
            options: how; its batch size is the engine's.
            on_segment: see `Job`.
            model: of the same Whisper; None is the engine's own.
        Raises:
            Busy: too many wait, or the engine is closing.
            ConfigError: options that the model cannot follow.
        """
        options = replace(options, batch_size=self.batch_size)
        model = model or self.model
        with self._changed:
            decoder = self._decoder(model, options)
            # One that was just answered waits no longer; one that was given up may still be read.
            jobs = [j for j in self._jobs if not j.future.done() or j.future.cancelled()]
            if self._closing or len(jobs) >= self.most_waiting:
                raise Busy(f"{len(jobs)} recordings wait already; try again in a moment")
            # A second more than is taken, which tells that it is longer.
            ends_s = self.longest_s + 1 if recording.waveform is None else None
            job = Job(decoder.pending(replace(recording, end_s=ends_s)), options, model, on_segment)
            self._jobs.append(job)
            self._n_come += 1
            self._changed.notify_all()
        job.future.add_done_callback(lambda _: self._wake())
        threading.Thread(target=self._read, args=(job,), daemon=True).start()
        return job

    def check(self, options: TranscribeOptions) -> None:
        """Raise `ConfigError` for options that the model cannot follow."""
        with self._changed:
            self._decoder(self.model, replace(options, batch_size=self.batch_size))

    def warm_up(self, options: TranscribeOptions) -> None:
        """Decode a second of noise, so that nothing is loaded while the first caller waits.

        Args:
            options: that callers are expected to ask for.
        Raises:
            HyperASRError: the model cannot decode.
        """
        # It swells: steady noise is taken for silence, which is not decoded.
        swelling = np.linspace(0.001, 0.05, SAMPLE_RATE)
        noise = swelling * np.random.default_rng(0).standard_normal(SAMPLE_RATE)
        recording = Recording("noise", waveform=noise.astype(np.float32))
        self.submit(recording, options).future.result()

    def close(self, timeout_s: float | None = None) -> None:
        """Take nothing more, finish what waits, and stop.

        Args:
            timeout_s: to wait, in seconds; None waits for all.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _decoder(self, model: AdaptedWhisper, options: TranscribeOptions) -> BatchDecoder:
        if options.vad == "silero":
            raise ConfigError("recordings that are read side by side cannot share vad silero")
        if (model, options) not in self._decoders:
            made = BatchDecoder(model, options)
            if len(self._decoders) >= _MOST_DECODERS:
                self._decoders.pop(next(iter(self._decoders)))
            self._decoders[model, options] = made
        return self._decoders[model, options]

    def _read(self, job: Job) -> None:
        """Read a recording, in a thread of its own."""
        error: HyperASRError | None = None
        reading = job.pending.reading
        try:
            self._check_length(reading.recording)
            for segment in reading.segments():
                with self._changed:
                    job.ready.append(segment)
                    self._n_come += 1
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: job.future.done() or not self._is_ahead(job))
                if job.future.done():
                    return
            if reading.n_samples > self.longest_s * SAMPLE_RATE:
                error = self._too_long()
        except HyperASRError as known:
            error = known
        except Exception as unknown:
            error = log_failure(unknown, "reading a recording")
        with self._changed:
            job.ended, job.error = True, error
            self._changed.notify_all()

    def _is_ahead(self, job: Job) -> bool:
        n_fair = _BATCHES_AHEAD * self.batch_size // max(1, len(self._jobs))
        return len(job.ready) >= max(1, n_fair)

    def _check_length(self, recording: Recording) -> None:
        """Refuse what says that it is too long, before any work."""
        if recording.error is not None or recording.waveform is not None:
            return
        name = recording.path or recording.id
        with open_recording(name, lambda _: None, content=recording.content) as file:
            n_frames, rate = file.frames, file.samplerate
        if n_frames < UNKNOWN_LENGTH and n_frames > self.longest_s * rate:
            raise self._too_long()

    def _too_long(self) -> TooLong:
        return TooLong(f"the recording is longer than {self.longest_s / 60:g} minutes; cut it")

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next_jobs() or self._is_over())
                if not self._jobs:
                    return
                self._gather()
                jobs = self._next_jobs()
                taken = self._taken(jobs)
            try:
                self._turn(jobs, taken)
            except Exception as unknown:  # ours to mend; who comes after is served all the same
                _fail([job for job, *_ in taken] or jobs, log_failure(unknown, "a batch"))
            with self._changed:
                # Those of other options have their turn next.
                self._jobs = [
                    job
                    for job in [*(j for j in self._jobs if j not in jobs), *jobs]
                    if not job.future.done()
                ]
                self._changed.notify_all()

    def _gather(self) -> None:
        """Wait for a full batch, as long as callers and segments keep coming.

        Recordings that came at once are read side by side. Whoever is ready first waits for the
        others: a batch of one and another of the rest take longer than one of all.
        """
        ends = time.monotonic() + _LONGEST_GATHER_S
        while not self._is_full() and (left := ends - time.monotonic()) > 0:
            n_read = self._n_being_read()
            comes = partial(self._has_changed, self._n_come, n_read)
            if not self._changed.wait_for(comes, left if n_read else _GATHER_S):
                return

    def _n_being_read(self) -> int:
        """Return how many recordings have nothing to decode yet."""
        return sum(not (job.ready or job.ended or job.future.done()) for job in self._jobs)

    def _has_changed(self, n_come: int, n_read: int) -> bool:
        return self._n_come > n_come or self._n_being_read() != n_read

    def _is_over(self) -> bool:
        return self._closing and not self._jobs

    def _next_jobs(self) -> list[Job]:
        """Return the jobs of the first in the queue with something to do, and of its kind."""
        able = [job for job in self._jobs if job.ready or job.ended or job.future.done()]
        return [job for job in able if (job.model, job.options) == (able[0].model, able[0].options)]

    def _is_full(self) -> bool:
        return sum(len(job.ready) for job in self._next_jobs()) >= self.batch_size

    def _taken(self, jobs: list[Job]) -> list[tuple[Job, float, np.ndarray]]:
        """Take segments of the jobs, one of each in turn, up to a batch."""
        taken: list[tuple[Job, float, np.ndarray]] = []
        while len(taken) < self.batch_size:
            ready = [job for job in jobs if job.ready and not job.future.done()]
            if not ready:
                break
            for job in ready[: self.batch_size - len(taken)]:
                taken.append((job, *job.ready.popleft()))
        self._changed.notify_all()
        return taken

    def _turn(self, jobs: list[Job], taken: list[tuple[Job, float, np.ndarray]]) -> None:
        """Decode one batch of the segments of some jobs, and answer those that are complete."""
        if not jobs:
            return
        with self._changed:
            decoder = self._decoder(jobs[0].model, jobs[0].options)
        waiting: list[Waiting] = []
        for job, start_s, waveform in taken:
            try:
                waiting.append((job.pending, decoder.segment(job.pending, start_s, waveform)))
            except HyperASRError as error:
                job.pending.error = job.pending.error or error
        if waiting:
            decoder.decode(waiting)
            self.n_batches += 1
            self.n_segments += len(waiting)
        for job in jobs:
            try:
                self._answer(decoder, job)
            except Exception as unknown:
                _fail([job], log_failure(unknown, "an answer"))

    def _answer(self, decoder: BatchDecoder, job: Job) -> None:
        """Hand on what is known of a job."""
        if job.future.done():
            return
        pending = job.pending
        if job.on_segment is not None:
            for segment in pending.unshown():
                job.on_segment(segment)
        with self._changed:  # its reader may be at work
            is_over = job.ended and not job.ready
        if pending.error is None and not is_over:
            return
        pending.end(job.error)
        result = decoder.result(pending)
        if not job.future.set_running_or_notify_cancel():
            return
        if result.transcript is None:
            job.future.set_exception(result.error or HyperASRError("there is no transcript"))
        else:
            job.future.set_result(result)


def _fail(jobs: list[Job], error: HyperASRError) -> None:
    """Answer jobs that are not done with an error."""
    for job in jobs:
        if not job.future.done() and (
            job.future.running() or job.future.set_running_or_notify_cancel()
        ):
            job.future.set_exception(error)
