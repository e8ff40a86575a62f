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
from hyperasr.transcription.recordings import Reading, Recording, holds_several, recordings_of
from hyperasr.transcription.transcript import Result, Transcript
from hyperasr.types import Batch, Segment
from hyperasr.util.memory import give_back_freed, out_of_memory, too_large

Progress = Callable[[int, int, float], None]
"""Recordings done, recordings in all (0 where that is not known before), seconds heard so far."""

_WINDOW_S = 300.0  # of audio held at once: 19 MB
_WINDOW_BATCHES = 4  # batches sorted by length together
_BATCH_S = 70.0
"""Seconds of audio decoded at once on a processor. In tiny.en keys and values of the decoder's
attention to them take 0.6 MB a second; batches of more long segments are hardly faster."""
_LONG_S = 30.0  # of audio in a batch, before which freed memory is given back
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
        model: adapted or plain.
        sources: one or many, as `hyperasr.transcription.recordings.recordings_of` takes them; each
            is read when its turn comes.
        options: None is the default.
        progress: called whenever recordings are done.
    Returns:
        One result for each recording, in the order given, as they are ready.
    Raises:
        ConfigError: the model does not know the language, or cannot hear such long segments.
    """
    options = options or TranscribeOptions()
    decoder = BatchDecoder(model, options)
    known = isinstance(sources, list) and not any(map(holds_several, sources))
    n, n_window = len(sources) if known else 0, _WINDOW_BATCHES * options.batch_size
    events = _events(decoder, recordings_of(sources), n_window, n, progress)
    return (event for event in events if isinstance(event, Result))


def iter_transcribe(
    model: AdaptedWhisper,
    source: Any,
    options: TranscribeOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Iterator[Segment | Result]:
    """Transcribe one recording as `transcribe` does, each segment handed on when it is decoded.

    A smaller `batch_size` brings the first segment sooner.

    Returns:
        The segments, in order of time, and last the `Result` of the whole.
    Raises:
        ConfigError: as `transcribe`, and where the source holds several recordings.
    """
    options = options or TranscribeOptions()
    decoder = BatchDecoder(model, options)
    recordings = list(recordings_of(source))
    if len(recordings) != 1:
        raise ConfigError(f"{source} holds {len(recordings)} recordings; give one")
    return _events(decoder, recordings, options.batch_size, 1, progress)


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
class Pending:
    """One recording on its way to a result.

    Attributes:
        reading: what cuts it into segments.
        language: that is spoken; None before it is known.
        n_waiting: segments that were read and not decoded.
        is_read: whether all of it was.
        segments: what was decoded, in the order of decoding.
        base: the same of the unadapted backbone, where a comparison was asked for.
        warnings: one line each.
        notes: the same of single segments, each with its start in seconds.
        error: why there is no transcript.
    """

    reading: Reading
    language: str | None = None
    n_waiting: int = 0
    is_read: bool = False
    segments: list[Segment] = field(default_factory=list)
    base: list[Segment] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[tuple[float, str]] = field(default_factory=list)
    error: HyperASRError | None = None
    _n_shown: int = 0

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to be read or decoded."""
        return self.is_read and not self.n_waiting

    def end(self, error: HyperASRError | None = None) -> None:
        """Note that nothing more is read, or why it broke off."""
        self.error = self.error or error
        self.warnings += self.reading.warnings
        self.is_read = True

    def unshown(self) -> list[Segment]:
        """Return the segments that were not returned before, in order of time.

        None while some wait, or where there is an error: an earlier one could still follow.
        """
        if self.error is not None or self.n_waiting:
            return []
        self.segments.sort(key=lambda s: s.start_s)
        new, self._n_shown = self.segments[self._n_shown :], len(self.segments)
        return new

    def transcript(
        self, segments: Sequence[Segment], mode: str, language: str, calibrated: bool
    ) -> Transcript:
        """Return the transcript that these segments make."""
        segments = sorted(segments, key=lambda s: s.start_s)
        notes = [line for _, line in sorted(self.notes, key=lambda note: note[0])]
        reading = self.reading
        return Transcript(
            reading.recording.id,
            " ".join(s.text for s in segments if s.text),
            tuple(segments),
            reading.n_samples / SAMPLE_RATE,
            tuple(dict.fromkeys([*self.warnings, *notes])),
            None if mode == "verbatim" else " ".join(s.clean for s in segments if s.clean),
            (reading.n_samples - reading.n_kept) / SAMPLE_RATE,
            language,
            calibrated,
        )


Waiting = tuple[Pending, SpeechSegment]
"""A segment that waits to be decoded, and whose it is."""


class BatchDecoder:
    """Decodes segments of any recordings together, each with weights of its own.

    Attributes:
        options: as the model can follow them.
        batch_size: segments decoded together; smaller than the options' where memory did not
            suffice.
        segment_s: no segment is longer, in seconds.
    Raises:
        ConfigError: the model does not know the language, or cannot hear such long segments.
    """

    def __init__(self, model: AdaptedWhisper, options: TranscribeOptions) -> None:
        options = resolved(model, options)
        self.options, self.batch_size = options, options.batch_size
        unadapted = model
        if model.adapts and (options.compare or not options.adapt):
            unadapted = AdaptedWhisper.unadapted(model.backbone.as_published())
        self._recognisers = [Recogniser(model if options.adapt else unadapted, options)]
        if options.compare:
            alone = replace(options, adapt=False, compare=False, samples=0)
            self._recognisers.append(Recogniser(unadapted, alone))
        model = self._recognisers[0].model
        self.segment_s = options.segment_s(str(model.backbone.audio_context))
        hears_s = model.backbone.whisper.config.max_source_positions / STATES_PER_SECOND
        if self.segment_s > hears_s:
            raise ConfigError(
                f"max_segment_s is {self.segment_s:g}, but this model hears {hears_s:g} s at once"
            )
        self._detector = silero() if options.vad == "silero" else None

    def pending(self, recording: Recording) -> Pending:
        """Return a recording of which nothing was read.

        With a voice activity detector recordings are read one after the other: they share it.
        """
        speech = None if self._detector is None else self._detector()
        return Pending(Reading(recording, self.segment_s, self.options, speech))

    def segment(self, one: Pending, start_s: float, waveform: np.ndarray) -> SpeechSegment:
        """Return a segment of a recording to be decoded, which now waits.

        It begins at `start_s`, in seconds of the recording; waveform (n_samples,) float32, 16 kHz.
        What is spoken in the recording is found out from its first segment.

        Raises:
            HyperASRError: the segment cannot be encoded.
        """
        if one.language is None:
            one.language, probability = self._recognisers[0].spoken(waveform)
            if probability < _SURE:
                one.warnings.append(
                    f"the language is not certain ({one.language}, {probability:.0%}); give it "
                    "with the option language"
                )
        one.n_waiting += 1
        return SpeechSegment(one.reading.recording, start_s, waveform, one.language)

    def decode(self, window: Sequence[Waiting]) -> None:
        """Decode segments in batches of similar lengths; those of a recording in order of time."""
        waiting = [(one, segment) for one, segment in window if one.error is None]
        for one, _ in window:
            one.n_waiting -= 1
        waiting.sort(key=lambda pair: len(pair[1].waveform))
        while waiting:  # the batch size may shrink on the way
            n = self._n_together(waiting)
            if sum(len(segment.waveform) for _, segment in waiting[:n]) > _LONG_S * SAMPLE_RATE:
                give_back_freed()  # of loading, of reading and of the batch before
            self._decode_batch(waiting[:n])
            waiting = waiting[n:]

    def _n_together(self, waiting: Sequence[Waiting]) -> int:
        """Return how many of the first segments are decoded at once, at least 1."""
        if self._recognisers[0].model.backbone.device.type != "cpu":
            return self.batch_size
        n_most, n_samples = int(_BATCH_S * SAMPLE_RATE), 0
        for n, (_, segment) in enumerate(waiting[: self.batch_size]):
            n_samples += len(segment.waveform)
            if n and n_samples > n_most:
                return n
        return self.batch_size

    def result(self, one: Pending) -> Result:
        """Return what came of a recording that is done."""
        recording, mode = one.reading.recording, self.options.mode
        if one.error is not None:
            return Result(recording, error=one.error)
        recognise = self._recognisers[0]
        language = recognise.written(one.language or recognise.language)
        base = one.transcript(one.base, mode, language, False) if self.options.compare else None
        calibrated = recognise.calibration is not None
        return Result(recording, one.transcript(one.segments, mode, language, calibrated), base)

    def _decode_batch(self, waiting: Sequence[Waiting], batches: Sequence[Batch] = ()) -> None:
        """Decode segments; `batches` hold what the encoder of each system made, if it is known."""
        segments = [segment for _, segment in waiting]
        try:
            batches = batches or self._batches_of(segments)
            systems = [
                recognise(segments, batch)
                for recognise, batch in zip(self._recognisers, batches, strict=True)
            ]
        except (HyperASRError, RuntimeError, MemoryError) as error:
            parts = self._parts(waiting, error)
        else:
            for (one, _), (segment, warnings), *base in zip(waiting, *systems, strict=True):
                one.segments.append(segment)
                one.notes += [(segment.start_s, line) for line in warnings]
                for segment, warnings in base:
                    one.base.append(segment)
                    one.notes += [(segment.start_s, line) for line in warnings]
            return
        # Not before the error has gone, which holds on to memory.
        for part in parts:
            rest = [batch.select(part) for batch in batches]
            self._decode_batch([waiting[i] for i in part], rest)

    def _batches_of(self, segments: Sequence[SpeechSegment]) -> list[Batch]:
        """Return what each system hears; encoded once where they hear the same."""
        first, *others = self._recognisers
        batches = [first.batch_of(segments)]
        for other in others:
            same = other.model.backbone is first.model.backbone
            batches.append(batches[0] if same else other.batch_of(segments))
        return batches

    def _parts(self, waiting: Sequence[Waiting], error: Exception) -> list[range]:
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


def _events(
    decoder: BatchDecoder,
    recordings: Iterable[Recording],
    n_window: int,
    n: int,
    progress: Progress | None,
) -> Iterator[Segment | Result]:
    """Yield the segments of each recording as they are ready, then its result, in order.

    `n_window` segments, of several recordings, are sorted by length together; `n` is how many
    recordings there are, 0 where that is not known before.
    """
    window: list[Waiting] = []
    pending: deque[Pending] = deque()
    n_done, seconds = 0, 0.0

    def decoded() -> Iterator[Segment | Result]:
        """Decode what waits; yield what is ready, up to the first recording that is not."""
        nonlocal n_done, seconds
        seconds += sum(len(s.waveform) for one, s in window if one.error is None) / SAMPLE_RATE
        decoder.decode(window)
        window.clear()
        ready: list[Segment | Result] = []
        while pending:
            ready += pending[0].unshown()
            if not pending[0].is_done:
                break
            ready.append(decoder.result(pending.popleft()))
            n_done += 1
        if progress is not None:
            progress(n_done, n, seconds)
        yield from ready

    for recording in recordings:
        one = decoder.pending(recording)
        pending.append(one)
        try:
            for start_s, waveform in one.reading.segments():
                window.append((one, decoder.segment(one, start_s, waveform)))
                n_samples = sum(len(segment.waveform) for _, segment in window)
                if len(window) >= n_window or n_samples >= _WINDOW_S * SAMPLE_RATE:
                    yield from decoded()
        except HyperASRError as error:
            one.error = error
        one.end()
    yield from decoded()
