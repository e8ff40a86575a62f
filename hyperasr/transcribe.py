"""Recordings in, transcripts out: read, cut at pauses, decode in batches, in the order given."""

from __future__ import annotations

import dataclasses
import difflib
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from hyperasr.backbone import Backbone
from hyperasr.decode import decode
from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.loudness import is_silent, normalise_loudness
from hyperasr.mel import MIN_SAMPLES, SAMPLE_RATE, STATES_PER_SECOND
from hyperasr.model import HyperASR
from hyperasr.options import TranscribeOptions
from hyperasr.recordings import Reading, Recording, Source, find_recordings
from hyperasr.search import SearchConfig
from hyperasr.segment import cut_at_pauses
from hyperasr.types import Batch, Decoded, Segment, Transcript

__all__ = ["Result", "TranscribeOptions", "transcribe", "transcribe_one", "words_of"]

Progress = Callable[[int, int, float], None]
"""Recordings done, recordings in all, and seconds of audio heard so far."""

_WINDOW_S = 600.0  # of audio held at once: 38 MB
_WINDOW_BATCHES = 4  # batches sorted by length together
_WORD_STARTS = ("\u0120", "\u010a", "\u0109")  # blank, line end, tab in byte-level BPE


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
    model: HyperASR,
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
    run = _Run(model, options)
    recordings = find_recordings(sources)
    return run.results(recordings, progress or (lambda done, total, seconds: None))


def transcribe_one(
    model: HyperASR, source: Any, sample_rate: float | None = None, **options: Any
) -> Transcript:
    """Transcribe one recording; see `HyperASR.transcribe`."""
    names = [f.name for f in dataclasses.fields(TranscribeOptions) if f.name != "compare"]
    for name in options:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise ConfigError(f"transcribe has no option {name!r}; did you mean {close!r}?")
    one = source if sample_rate is None else (source, sample_rate)
    results = list(transcribe(model, [one], TranscribeOptions(**options)))
    if len(results) != 1:
        raise ConfigError(
            f"{source} holds {len(results)} recordings; use hyperasr.transcribe.transcribe"
        )
    if results[0].transcript is None:
        raise results[0].error or HyperASRError(f"{source} has no transcript")
    return results[0].transcript


def words_of(
    backbone: Backbone, tokens: Sequence[int], logprobs: Sequence[float]
) -> tuple[tuple[str, float], ...]:
    """Return the words of decoded tokens, each with its probability (that of all its tokens)."""
    groups: list[list[int]] = []
    names = backbone.tokenizer.convert_ids_to_tokens(list(tokens))
    for index, name in enumerate(names):
        if not groups or name.startswith(_WORD_STARTS):
            groups.append([])
        groups[-1].append(index)
    words: list[tuple[str, float]] = []
    waiting = 0.0  # of tokens that are no word, such as a lone blank
    for group in groups:
        waiting += sum(logprobs[i] for i in group)
        text = _clean(backbone.text([tokens[i] for i in group]))
        if text:
            words += [(word, float(np.exp(waiting))) for word in text.split()]
            waiting = 0.0
    return tuple(words)


@dataclass
class _Job:
    """One recording on its way to a result."""

    recording: Recording
    segments: list[Segment] = field(default_factory=list)
    base: list[Segment] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    duration_s: float = 0.0
    error: HyperASRError | None = None
    read: bool = False
    n_waiting: int = 0

    @property
    def done(self) -> bool:
        return self.read and not self.n_waiting

    def result(self, compare: bool) -> Result:
        if self.error is not None:
            return Result(self.recording, error=self.error)
        base = self._transcript(self.base) if compare else None
        return Result(self.recording, self._transcript(self.segments), base)

    def _transcript(self, segments: list[Segment]) -> Transcript:
        ordered = tuple(sorted(segments, key=lambda s: s.start_s))
        text = " ".join(s.text for s in ordered if s.text)
        return Transcript(
            self.recording.id, text, ordered, self.duration_s, tuple(dict.fromkeys(self.warnings))
        )


@dataclass(frozen=True)
class _Piece:
    """A segment of a recording that waits to be decoded."""

    job: _Job
    start_s: float
    waveform: np.ndarray

    @property
    def end_s(self) -> float:
        return self.start_s + len(self.waveform) / SAMPLE_RATE


class _Run:
    """One call of `transcribe`: its settings, and the window of segments that wait."""

    def __init__(self, model: HyperASR, options: TranscribeOptions) -> None:
        self.model, self.options = model, options
        self.segment_s = options.segment_s(str(model.backbone.audio_context))
        hears_s = model.backbone.whisper.config.max_source_positions / STATES_PER_SECOND
        if self.segment_s > hears_s:
            raise ConfigError(
                f"max_segment_s is {self.segment_s:g}, but this model hears {hears_s:g} s at once"
            )
        model.backbone.prompt_ids(options.language)  # raises where it does not know the language
        self.search = _search(model.backbone, options.beam_size)
        self.window: list[_Piece] = []
        self.jobs: deque[_Job] = deque()

    def results(self, recordings: Sequence[Recording], progress: Progress) -> Iterator[Result]:
        n_done, seconds = 0, 0.0
        for recording in recordings:
            job = _Job(recording)
            self.jobs.append(job)
            for piece in self._read(job):
                self.window.append(piece)
                job.n_waiting += 1
                if self._full():
                    seconds += self._decode_window()
                    ready = list(self._ready())
                    n_done += len(ready)
                    progress(n_done, len(recordings), seconds)
                    yield from ready
        seconds += self._decode_window()
        progress(len(recordings), len(recordings), seconds)
        yield from self._ready()

    def _read(self, job: _Job) -> Iterator[_Piece]:
        """Yield the segments of a recording in which someone may speak."""
        reading = Reading(job.recording)
        n_spoken = 0
        try:
            for start, waveform in cut_at_pauses(reading.pieces(), self.segment_s):
                if len(waveform) >= MIN_SAMPLES and not is_silent(waveform):
                    n_spoken += 1
                    if self.options.normalise_loudness:
                        waveform = normalise_loudness(waveform)
                    yield _Piece(job, start / SAMPLE_RATE, waveform)
        except HyperASRError as error:
            job.error = error
        job.warnings += reading.warnings
        job.duration_s = reading.n_samples / SAMPLE_RATE
        if not n_spoken:
            short = reading.n_samples < MIN_SAMPLES
            job.warnings.append(
                f"it lasts {1000 * job.duration_s:.0f} ms, too short for speech: empty transcript"
                if short
                else "nobody speaks in it: empty transcript"
            )
        job.read = True

    def _full(self) -> bool:
        n_samples = sum(len(piece.waveform) for piece in self.window)
        n_most = _WINDOW_BATCHES * self.options.batch_size
        return len(self.window) >= n_most or n_samples >= _WINDOW_S * SAMPLE_RATE

    def _ready(self) -> Iterator[Result]:
        """Yield what is done, up to the first recording that is not."""
        while self.jobs and self.jobs[0].done:
            yield self.jobs.popleft().result(self.options.compare)

    def _decode_window(self) -> float:
        """Decode what waits, and return how many seconds that was."""
        pieces = sorted(self.window, key=lambda piece: len(piece.waveform))
        self.window = []
        for piece in pieces:
            piece.job.n_waiting -= 1
        pieces = [piece for piece in pieces if piece.job.error is None]
        size = self.options.batch_size
        for start in range(0, len(pieces), size):
            self._decode_batch(pieces[start : start + size])
        return sum(len(piece.waveform) for piece in pieces) / SAMPLE_RATE

    def _decode_batch(self, pieces: Sequence[_Piece]) -> None:
        try:
            systems = self._decoded(pieces)
        except HyperASRError as error:
            if len(pieces) == 1:
                pieces[0].job.error = error
                return
            for piece in pieces:  # alone, so that one cannot spoil the others
                self._decode_batch([piece])
            return
        for index, piece in enumerate(pieces):
            piece.job.segments.append(self._segment(piece, systems[0], index))
            if self.options.compare:
                piece.job.base.append(self._segment(piece, systems[1], index))

    @torch.inference_mode()
    def _decoded(self, pieces: Sequence[_Piece]) -> list[Decoded]:
        """Decode adapted, unadapted, or both from one run of the encoder."""
        waveforms = tuple(piece.waveform for piece in pieces)
        mel, n_frames = self.model.backbone.features(waveforms)
        cohorts = tuple(piece.job.recording.cohort for piece in pieces)
        batch = Batch(n_frames=n_frames, mel=mel, waveforms=waveforms, cohorts=cohorts)
        if self.options.adapt:
            emb, encoded = self.model.embed(batch)
            batch = replace(batch, encoded=encoded, speaker_emb=emb)
        systems = [self.options.adapt, False] if self.options.compare else [self.options.adapt]
        return [
            decode(self.model, batch, self.search, adapt=adapt, language=self.options.language)
            for adapt in systems
        ]

    def _segment(self, piece: _Piece, decoded: Decoded, index: int) -> Segment:
        tokens, logprobs = decoded.tokens[index], decoded.logprobs[index]
        if not decoded.finished[index]:
            piece.job.warnings.append(
                f"from {piece.start_s:.1f} s to {piece.end_s:.1f} s the decoder found no end; "
                "check the text there"
            )
        backbone = self.model.backbone
        return Segment(
            start_s=piece.start_s,
            end_s=piece.end_s,
            text=_clean(backbone.text(tokens)),
            logprob=decoded.score[index],
            words=words_of(backbone, tokens, logprobs),
        )


def _search(backbone: Backbone, beam_size: int) -> SearchConfig:
    """Search for text alone, without timestamps and markers."""
    # In every Whisper the ids above end of text are markers and timestamps.
    markers = range(backbone.eos + 1, backbone.whisper.config.vocab_size)
    return SearchConfig(beam_size=beam_size, suppress=tuple(markers))


def _clean(text: str) -> str:
    """Return one line without control characters, which a model may spell byte by byte."""
    visible = (" " if unicodedata.category(char) == "Cc" else char for char in text)
    return " ".join("".join(visible).split())
