"""Recordings in, transcripts out: read, cut at pauses, decode in batches, in the order given."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from hyperasr.audio.mel import SAMPLE_RATE, STATES_PER_SECOND
from hyperasr.audio.vad import silero
from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.model import AdaptedWhisper
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.recogniser import Recogniser, SpeechSegment
from hyperasr.transcription.recordings import Reading, Recording
from hyperasr.transcription.sources import holds_several, recordings_of
from hyperasr.transcription.transcript import Result, Transcript
from hyperasr.types import Batch, Segment
from hyperasr.util.memory import out_of_memory, too_large

__all__ = ["Result", "iter_transcribe", "resolved", "transcribe"]

Progress = Callable[[int, int, float], None]
"""Recordings done, recordings in all (0 where that is not known before), seconds heard so far."""

_WINDOW_S = 600.0  # of audio held at once: 38 MB
_WINDOW_BATCHES = 4  # batches sorted by length together
_SURE = 0.5  # probability of a language that was found; under it the reader is told


def transcribe(
    model: AdaptedWhisper,
    sources: Any,
    options: TranscribeOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Iterator[Result]:
    """Transcribe recordings, each segment decoded with weights of its own.

    One that cannot be read gives a result with an error, and the rest goes on. Silence gives an
    empty transcript. Memory is flat however long a recording is.

    Args:
        model: the model.
        sources: one or many, as `hyperasr.transcription.sources.recordings_of` takes them; each is
            read when its turn comes.
        options: how; None is the default.
        progress: called whenever recordings are done.
    Returns:
        One result for each recording, in the order given, as they are ready.
    Raises:
        ConfigError: the model does not know the language, or cannot hear such long segments.
    """
    run = _Run(model, options or TranscribeOptions(), _WINDOW_BATCHES, progress)
    known = isinstance(sources, list) and not any(map(holds_several, sources))
    events = run.events(recordings_of(sources), len(sources) if known else 0)
    return (event for event in events if isinstance(event, Result))


def iter_transcribe(
    model: AdaptedWhisper,
    source: Any,
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
    run = _Run(model, options or TranscribeOptions(), 1, progress)
    recordings = list(recordings_of(source))
    if len(recordings) != 1:
        raise ConfigError(f"{source} holds {len(recordings)} recordings; give one")
    return run.events(recordings, 1)


def resolved(model: AdaptedWhisper, options: TranscribeOptions) -> TranscribeOptions:
    """Return the options as a model can follow them.

    Raises:
        ConfigError: they ask for adapted and unadapted transcripts of a plain Whisper.
    """
    if model.adapts:
        return options
    if options.compare or options.samples:
        raise ConfigError(
            "this is a plain Whisper without an adapter: it has no second transcript and no "
            "posterior samples; give an adapter model"
        )
    return replace(options, adapt=False)


@dataclass
class _Pending:
    """One recording on its way to a result."""

    reading: Reading
    language: str | None = None  # that is spoken; None before it is known
    n_waiting: int = 0  # segments that were read and not decoded
    n_shown: int = 0  # segments that were handed on
    is_read: bool = False
    segments: list[Segment] = field(default_factory=list)
    base: list[Segment] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: HyperASRError | None = None

    def transcript(
        self, segments: Sequence[Segment], mode: str, language: str, calibrated: bool
    ) -> Transcript:
        segments = sorted(segments, key=lambda s: s.start_s)
        reading = self.reading
        return Transcript(
            reading.recording.id,
            " ".join(s.text for s in segments if s.text),
            tuple(segments),
            reading.n_samples / SAMPLE_RATE,
            tuple(dict.fromkeys(self.warnings)),
            None if mode == "verbatim" else " ".join(s.clean for s in segments if s.clean),
            (reading.n_samples - reading.n_kept) / SAMPLE_RATE,
            language,
            calibrated,
        )


_Waiting = tuple[_Pending, SpeechSegment]


class _Run:
    """One call of `transcribe`: read, gather segments of many recordings, decode them in batches.

    Args:
        model: the model.
        options: how.
        n_batches: as many wait and are sorted by length together.
        progress: called whenever recordings are done.
    """

    def __init__(
        self,
        model: AdaptedWhisper,
        options: TranscribeOptions,
        n_batches: int,
        progress: Progress | None,
    ) -> None:
        options = resolved(model, options)
        self.options, self.progress = options, progress
        self.n_window = n_batches * options.batch_size
        self.batch_size = options.batch_size  # smaller where memory did not suffice
        unadapted = model
        if model.adapts and (options.compare or not options.adapt):
            unadapted = AdaptedWhisper.unadapted(model.backbone.as_published())
        self.recognisers = [Recogniser(model if options.adapt else unadapted, options)]
        if options.compare:
            alone = replace(options, adapt=False, compare=False, samples=0)
            self.recognisers.append(Recogniser(unadapted, alone))
        model = self.recognisers[0].model
        self.segment_s = options.segment_s(str(model.backbone.audio_context))
        hears_s = model.backbone.whisper.config.max_source_positions / STATES_PER_SECOND
        if self.segment_s > hears_s:
            raise ConfigError(
                f"max_segment_s is {self.segment_s:g}, but this model hears {hears_s:g} s at once"
            )
        self.detector = silero() if options.vad == "silero" else None
        self.window: list[_Waiting] = []
        self.pending: deque[_Pending] = deque()
        self.n_done, self.seconds = 0, 0.0

    def events(self, recordings: Iterable[Recording], n: int) -> Iterator[Segment | Result]:
        """Yield the segments of each recording as they are ready, then its result, in order.

        Args:
            recordings: the recordings.
            n: how many they are, 0 where that is not known before.
        """
        for recording in recordings:
            speech = None if self.detector is None else self.detector()
            reading = Reading(recording, self.segment_s, self.options, speech)
            one = _Pending(reading)
            self.pending.append(one)
            try:
                for start_s, waveform in reading.segments():
                    if one.language is None:
                        self._hear_language(one, waveform)
                    segment = SpeechSegment(recording, start_s, waveform, str(one.language))
                    self.window.append((one, segment))
                    one.n_waiting += 1
                    if self._is_full():
                        yield from self._decode(n)
            except HyperASRError as error:
                one.error = error
            one.warnings += reading.warnings
            one.is_read = True
        yield from self._decode(n)

    def _hear_language(self, one: _Pending, waveform: np.ndarray) -> None:
        """Find out what is spoken in a recording, from its first segment."""
        one.language, probability = self.recognisers[0].spoken(waveform)
        if probability < _SURE:
            one.warnings.append(
                f"the language is not certain ({one.language}, {probability:.0%}); give it with "
                "the option language"
            )

    def _is_full(self) -> bool:
        n_samples = sum(len(segment.waveform) for _, segment in self.window)
        return len(self.window) >= self.n_window or n_samples >= _WINDOW_S * SAMPLE_RATE

    def _decode(self, n_recordings: int) -> Iterator[Segment | Result]:
        """Decode what waits; yield what is ready, up to the first recording that is not."""
        waiting = [(one, segment) for one, segment in self.window if one.error is None]
        for one, _ in self.window:
            one.n_waiting -= 1
        self.window = []
        self.seconds += sum(len(segment.waveform) for _, segment in waiting) / SAMPLE_RATE
        if not self.options.previous_text:  # which needs the text of the segment before
            waiting.sort(key=lambda pair: len(pair[1].waveform))
        while waiting:  # the batch size may shrink on the way
            n = 1 if self.options.previous_text else self.batch_size
            self._decode_batch(waiting[:n])
            waiting = waiting[n:]
        ready: list[Segment | Result] = []
        while self.pending:
            one = self.pending[0]
            if one.error is None and not one.n_waiting:
                one.segments.sort(key=lambda s: s.start_s)
                ready += one.segments[one.n_shown :]
                one.n_shown = len(one.segments)
            if not one.is_read or one.n_waiting:
                break
            ready.append(self._result(self.pending.popleft()))
            self.n_done += 1
        if self.progress is not None:
            self.progress(self.n_done, n_recordings, self.seconds)
        yield from ready

    def _decode_batch(self, waiting: Sequence[_Waiting], batches: Sequence[Batch] = ()) -> None:
        """Decode segments; `batches` hold what the encoder of each system made, if it is known."""
        history = ""
        if self.options.previous_text and (said := waiting[0][0].segments):
            history = "" if said[-1].unclear else said[-1].text  # a loop would seed the next one
        segments = [segment for _, segment in waiting]
        try:
            batches = batches or self._batches_of(segments)
            systems = [
                recognise(segments, batch, history)
                for recognise, batch in zip(self.recognisers, batches, strict=True)
            ]
        except (HyperASRError, RuntimeError, MemoryError) as error:
            parts = self._parts(waiting, error)
        else:
            for (one, _), (segment, warnings), *base in zip(waiting, *systems, strict=True):
                one.segments.append(segment)
                one.warnings += warnings
                for segment, warnings in base:
                    one.base.append(segment)
                    one.warnings += warnings
            return
        # Not before the error has gone, which holds on to memory.
        for part in parts:
            rest = [batch.select(part) for batch in batches]
            self._decode_batch([waiting[i] for i in part], rest)

    def _batches_of(self, segments: Sequence[SpeechSegment]) -> list[Batch]:
        """Return what each system hears; encoded once where they hear the same."""
        first, *others = self.recognisers
        batches = [first.batch_of(segments)]
        for other in others:
            same = other.model.backbone is first.model.backbone
            batches.append(batches[0] if same else other.batch_of(segments))
        return batches

    def _parts(self, waiting: Sequence[_Waiting], error: Exception) -> list[range]:
        """Return the parts in which to try again; the error of a segment alone is its recording's.

        Of a bad segment every one is tried alone, so that it cannot spoil the others; where memory
        does not suffice, halves are.
        """
        n, short = len(waiting), out_of_memory(error)
        if not (short or isinstance(error, HyperASRError)):
            raise error
        one, segment = waiting[0]
        if n == 1:
            seconds = segment.end_s - segment.start_s
            what = f"a segment of {seconds:.1f} s with {self.options.beam_size} beams"
            one.error = too_large(error, what) if short else cast(HyperASRError, error)
            return []
        if not short:
            return [range(i, i + 1) for i in range(n)]
        half = (n + 1) // 2
        self.batch_size = min(self.batch_size, half)
        one.warnings.append(
            f"{n} segments at once do not fit into memory: {self.batch_size} from here on "
            f"(batch_size {self.batch_size} begins with that)"
        )
        return [range(half), range(half, n)]

    def _result(self, one: _Pending) -> Result:
        recording, mode = one.reading.recording, self.options.mode
        if one.error is not None:
            return Result(recording, error=one.error)
        recognise = self.recognisers[0]
        language = recognise.written(one.language or recognise.language)
        base = one.transcript(one.base, mode, language, False) if self.options.compare else None
        calibrated = recognise.calibration is not None
        return Result(recording, one.transcript(one.segments, mode, language, calibrated), base)
