"""Recordings in, transcripts out: read, cut at pauses, decode in batches, in the order given."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from hyperasr.audio.loudness import is_silent, normalise_loudness
from hyperasr.audio.mel import MIN_SAMPLES, SAMPLE_RATE, STATES_PER_SECOND
from hyperasr.audio.segments import PAUSES, cut_at_pauses
from hyperasr.audio.vad import Silencer, silero
from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.model import AdaptedWhisper
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.recogniser import Recognised, Recogniser, SpeechSegment
from hyperasr.transcription.recordings import Reading, Recording, Source, find_recordings
from hyperasr.types import Batch, Segment, Transcript
from hyperasr.util.closest import closest
from hyperasr.util.memory import out_of_memory, too_large

__all__ = ["Result", "TranscribeOptions", "iter_transcribe", "transcribe", "transcribe_one"]

Progress = Callable[[int, int, float], None]
"""Recordings done, recordings in all, and seconds of audio heard so far."""

_WINDOW_S = 600.0  # of audio held at once: 38 MB
_WINDOW_BATCHES = 4  # batches sorted by length together
_SURE = 0.5  # probability of a language that was found; under it the reader is told


@dataclass(frozen=True)
class Result:
    """What came of one recording.

    Attributes:
        recording: what was asked for.
        transcript: None where there is an error.
        base: the unadapted backbone's, where a comparison was asked for.
        error: why there is no transcript.
    """

    recording: Recording
    transcript: Transcript | None = None
    base: Transcript | None = None
    error: HyperASRError | None = None

    @property
    def id(self) -> str:
        """Name of the recording as the caller gave it."""
        return self.recording.id

    @property
    def reference(self) -> str | None:
        """What was said, where a manifest tells."""
        return self.recording.reference


def transcribe(
    model: AdaptedWhisper,
    sources: Source | Iterable[Source],
    options: TranscribeOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Iterator[Result]:
    """Transcribe recordings, each segment decoded with weights of its own.

    One that cannot be read gives a result with an error, and the rest goes on. Silence gives an
    empty transcript. Memory is flat however long a recording is.

    Args:
        model: the model.
        sources: paths of recordings, folders (searched recursively) and manifests (``.jsonl``),
            `Utterance` rows, or tuples of an array and its sample rate in hertz.
        options: how; None is the default.
        progress: called whenever recordings are done.
    Returns:
        One result for each recording, in the order given, as they are ready.
    Raises:
        ConfigError: the model does not know the language, or cannot hear such long segments.
    """
    options = options or TranscribeOptions()
    run = _Run(model, options, _WINDOW_BATCHES * options.batch_size)
    events = run.events(find_recordings(sources), progress or _no_progress)
    return (event for event in events if isinstance(event, Result))


def iter_transcribe(
    model: AdaptedWhisper,
    source: Source,
    options: TranscribeOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Iterator[Segment | Result]:
    """Transcribe one recording, handing on each segment as soon as it is decoded.

    Args:
        model: the model.
        source: as in `transcribe`, but one recording.
        options: how; a smaller `batch_size` brings the first segment sooner.
        progress: as in `transcribe`.
    Returns:
        The segments, in order of time, and last the `Result` of the whole.
    Raises:
        ConfigError: as `transcribe`, and where the source holds several recordings.
    """
    options = options or TranscribeOptions()
    run = _Run(model, options, options.batch_size)
    recordings = find_recordings(source)
    if len(recordings) != 1:
        raise ConfigError(f"{source} holds {len(recordings)} recordings; give one")
    return run.events(recordings, progress or _no_progress)


def transcribe_one(
    model: AdaptedWhisper, source: Any, sample_rate: float | None = None, **options: Any
) -> Transcript:
    """Transcribe one recording; see `HyperASR.transcribe`."""
    names = [f.name for f in dataclasses.fields(TranscribeOptions) if f.name != "compare"]
    for name in options:
        if name not in names:
            close = closest(name, names)
            raise ConfigError(f"transcribe has no option {name!r}; did you mean {close!r}?")
    one = source if sample_rate is None else (source, sample_rate)
    results = list(transcribe(model, [one], TranscribeOptions(**options)))
    if len(results) != 1:
        raise ConfigError(
            f"{source} holds {len(results)} recordings; use "
            "hyperasr.transcription.pipeline.transcribe"
        )
    if results[0].transcript is None:
        raise results[0].error or HyperASRError(f"{source} has no transcript")
    return results[0].transcript


def _no_progress(done: int, total: int, seconds: float) -> None:
    """Show nothing."""


@dataclass
class _Job:
    """One recording on its way to a result."""

    recording: Recording
    segments: list[Segment] = field(default_factory=list)
    n_news: int = 0
    history: str = ""
    base: list[Segment] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    duration_s: float = 0.0
    discarded_s: float = 0.0
    language: str | None = None  # that is spoken; None before it is known
    error: HyperASRError | None = None
    read: bool = False
    n_waiting: int = 0

    @property
    def done(self) -> bool:
        return self.read and not self.n_waiting

    def news(self) -> Iterator[Segment]:
        """Yield the segments that were not handed on yet; all before them are decoded."""
        if not self.n_waiting:
            self.segments.sort(key=lambda s: s.start_s)
            yield from self.segments[self.n_news :]
            self.n_news = len(self.segments)

    def result(self, options: TranscribeOptions, recognise: Recogniser) -> Result:
        if self.error is not None:
            return Result(self.recording, error=self.error)
        language = recognise.written(self.language or recognise.language)
        base = self._transcript(self.base, options, language) if options.compare else None
        return Result(self.recording, self._transcript(self.segments, options, language), base)

    def _transcript(
        self, segments: list[Segment], options: TranscribeOptions, language: str
    ) -> Transcript:
        ordered = tuple(sorted(segments, key=lambda s: s.start_s))
        clean = None
        if options.mode != "verbatim":
            clean = " ".join(s.clean for s in ordered if s.clean)
        return Transcript(
            self.recording.id,
            " ".join(s.text for s in ordered if s.text),
            ordered,
            self.duration_s,
            tuple(dict.fromkeys(self.warnings)),
            clean,
            self.discarded_s,
            language,
        )


_Pairs = Sequence[tuple[_Job, SpeechSegment]]


class _Run:
    """One call of `transcribe`: its settings, and the window of segments that wait."""

    def __init__(self, model: AdaptedWhisper, options: TranscribeOptions, n_window: int) -> None:
        self.options, self.n_window = options, n_window
        self.batch_size = options.batch_size  # smaller where memory did not suffice
        self.segment_s = options.segment_s(str(model.backbone.audio_context))
        hears_s = model.backbone.whisper.config.max_source_positions / STATES_PER_SECOND
        if self.segment_s > hears_s:
            raise ConfigError(
                f"max_segment_s is {self.segment_s:g}, but this model hears {hears_s:g} s at once"
            )
        self.recognise = Recogniser(model, options)
        self.detector = silero() if options.vad == "silero" else None
        self.window: list[tuple[_Job, SpeechSegment]] = []
        self.jobs: deque[_Job] = deque()

    def events(
        self, recordings: Sequence[Recording], progress: Progress
    ) -> Iterator[Segment | Result]:
        """Yield the segments of each recording as they are ready, then its result, in order."""
        n_done, seconds = 0, 0.0
        for recording in recordings:
            job = _Job(recording)
            self.jobs.append(job)
            for heard in self._read(job):
                self.window.append((job, heard))
                job.n_waiting += 1
                if self._full():
                    seconds += self._decode_window()
                    ready = list(self._ready())
                    n_done += sum(isinstance(event, Result) for event in ready)
                    progress(n_done, len(recordings), seconds)
                    yield from ready
        seconds += self._decode_window()
        progress(len(recordings), len(recordings), seconds)
        yield from self._ready()

    def _read(self, job: _Job) -> Iterator[SpeechSegment]:
        """Yield the segments of a recording in which someone may speak."""
        reading = Reading(job.recording)
        pauses = PAUSES[self.options.pauses]
        silencer = Silencer(self.detector(), pauses) if self.detector is not None else None
        pieces = reading.pieces() if silencer is None else silencer(reading.pieces())
        n_heard = n_spoken = 0
        try:
            for start, waveform in cut_at_pauses(pieces, self.segment_s, pauses):
                if len(waveform) >= MIN_SAMPLES and not is_silent(waveform):
                    n_spoken += 1
                    n_heard += len(waveform)
                    if silencer is not None:
                        n_heard -= silencer.n_silenced(start, start + len(waveform))
                    if self.options.normalise_loudness:
                        waveform = normalise_loudness(waveform)
                    language = job.language or self._listen(job, waveform)
                    yield SpeechSegment(job.recording, start / SAMPLE_RATE, waveform, language)
        except HyperASRError as error:
            job.error = error
        job.warnings += reading.warnings
        job.duration_s = reading.n_samples / SAMPLE_RATE
        job.discarded_s = (reading.n_samples - n_heard) / SAMPLE_RATE
        if not n_spoken:
            short = reading.n_samples < MIN_SAMPLES
            job.warnings.append(
                f"it lasts {1000 * job.duration_s:.0f} ms, too short for speech: empty transcript"
                if short
                else "nobody speaks in it: empty transcript"
            )
        job.read = True

    def _listen(self, job: _Job, waveform: np.ndarray) -> str:
        """Find out what is spoken in a recording, from its first segment."""
        job.language, probability = self.recognise.spoken(waveform)
        if probability < _SURE:
            job.warnings.append(
                f"the language is not certain ({job.language}, {probability:.0%}); give it with "
                "the option language"
            )
        return job.language

    def _full(self) -> bool:
        n_samples = sum(len(heard.waveform) for _, heard in self.window)
        return len(self.window) >= self.n_window or n_samples >= _WINDOW_S * SAMPLE_RATE

    def _ready(self) -> Iterator[Segment | Result]:
        """Yield what is done, up to the first recording that is not."""
        while self.jobs:
            job = self.jobs[0]
            if job.error is None:
                yield from job.news()
            if not job.done:
                return
            yield self.jobs.popleft().result(self.options, self.recognise)

    def _decode_window(self) -> float:
        """Decode what waits, and return how many seconds that was."""
        window, self.window = self.window, []
        batches: Iterator[_Pairs]
        for job, _ in window:
            job.n_waiting -= 1
        waiting = [pair for pair in window if pair[0].error is None]
        if self.options.previous_text:
            batches = ([pair] for pair in waiting)  # each needs the text of the one before
        else:
            batches = self._batches(sorted(waiting, key=lambda pair: len(pair[1].waveform)))
        for pairs in batches:
            self._decode_batch(pairs)
        return sum(len(heard.waveform) for _, heard in waiting) / SAMPLE_RATE

    def _batches(self, pairs: list[tuple[_Job, SpeechSegment]]) -> Iterator[_Pairs]:
        while pairs:  # the size may shrink on the way
            n = self.batch_size
            yield pairs[:n]
            pairs = pairs[n:]

    def _parts(self, pairs: _Pairs, error: Exception) -> list[range]:
        """Return the parts in which to try again; the error of a segment alone is its recording's.

        Of a bad segment every one is tried alone, so that it cannot spoil the others; where memory
        does not suffice, halves are.
        """
        n, short = len(pairs), out_of_memory(error)
        if not (short or isinstance(error, HyperASRError)):
            raise error
        job, heard = pairs[0]
        if n == 1:
            seconds = heard.end_s - heard.start_s
            what = f"a segment of {seconds:.1f} s with {self.options.beam_size} beams"
            job.error = too_large(error, what) if short else cast(HyperASRError, error)
            return []
        if not short:
            return [range(i, i + 1) for i in range(n)]
        half = (n + 1) // 2
        self.batch_size = min(self.batch_size, half)
        job.warnings.append(
            f"{n} segments at once do not fit into memory: {self.batch_size} from here on "
            f"(batch_size {self.batch_size} begins with that)"
        )
        return [range(half), range(half, n)]

    def _decode_batch(self, pairs: _Pairs, batch: Batch | None = None) -> None:
        """Decode segments, of which `batch` holds what the encoder made, if it is known."""
        history = pairs[0][0].history if self.options.previous_text else ""
        segments = [heard for _, heard in pairs]
        try:
            batch = self.recognise.batch_of(segments) if batch is None else batch
            systems = self.recognise(segments, history, batch)
        except (HyperASRError, RuntimeError, MemoryError) as error:
            parts = self._parts(pairs, error)
        else:
            self._put(pairs, systems)
            return
        # Not before the error has gone, which holds on to memory.
        for part in parts:
            known = None if batch is None else batch.select(part)
            self._decode_batch([pairs[i] for i in part], known)

    def _put(self, pairs: _Pairs, systems: Sequence[Sequence[Recognised]]) -> None:
        """Give each recording what was recognised of it."""
        for (job, _), *found in zip(pairs, *systems, strict=True):
            job.segments.append(found[0].segment)
            job.warnings += found[0].warnings
            # A loop would seed the next one.
            job.history = "" if found[0].segment.unclear else found[0].segment.text
            if self.options.compare:
                job.base.append(found[1].segment)
                job.warnings += found[1].warnings
