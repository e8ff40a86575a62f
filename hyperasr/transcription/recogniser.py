"""Segments of recordings in, decoded segments out: times, probabilities, guard, clean text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from hyperasr.audio.loudness import content_hash
from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.decode import decode
from hyperasr.errors import ConfigError
from hyperasr.metrics.uncertainty import disagreement
from hyperasr.model import AdaptedWhisper
from hyperasr.transcription.disfluency import UNCLEAR, apply_edits, clean_edits
from hyperasr.transcription.options import AUTO, TranscribeOptions
from hyperasr.transcription.recordings import Recording
from hyperasr.transcription.repetition_loop import RepetitionLoop, find_loops
from hyperasr.transcription.words import (
    NO_BLANKS,
    Attention,
    Word,
    attend,
    fit_to_sound,
    printable,
    word_times,
    words_of,
)
from hyperasr.types import Batch, Segment, Unclear
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.languages import language_code
from hyperasr.whisper.search import SearchConfig, text_only

__all__ = ["Recognised", "Recogniser", "SpeechSegment", "previous_ids"]

_UNSURE = -1.0  # average log-probability under which tokens are drawn again; Whisper's own


@dataclass(frozen=True)
class SpeechSegment:
    """A segment of a recording that waits to be decoded.

    Attributes:
        recording: where it is from.
        start_s: of the segment, in seconds of the recording.
        waveform: (n_samples,) float32, 16 kHz.
        language: code of what is spoken.
    """

    recording: Recording
    start_s: float
    waveform: np.ndarray
    language: str = "en"

    @property
    def end_s(self) -> float:
        """End of the segment, in seconds of the recording."""
        return self.start_s + len(self.waveform) / SAMPLE_RATE


@dataclass(frozen=True)
class Recognised:
    """A decoded segment, and what its reader should know."""

    segment: Segment
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Row:
    """What was decoded for one segment, and what is known of it."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool
    score: float
    attention: Attention | None = None
    runaway: RepetitionLoop | None = None

    @property
    def trusted(self) -> tuple[bool, float]:
        """What tells the better of two rows."""
        return self.runaway is None, self.score


@dataclass(frozen=True)
class _Job:
    """Segments to decode together, with one system."""

    heard: tuple[SpeechSegment, ...]
    batch: Batch
    adapt: bool
    prefix: tuple[int, ...]

    @property
    def languages(self) -> list[str]:
        return [heard.language for heard in self.heard]

    def only(self, rows: Sequence[int]) -> _Job:
        """Return the job of some of its rows."""
        return replace(
            self, heard=tuple(self.heard[i] for i in rows), batch=self.batch.select(rows)
        )


class Recogniser:
    """Decode segments as the options say.

    Args:
        model: the model.
        options: how.
    Raises:
        ConfigError: the model does not know the language or the task, or takes no prompt.
    """

    def __init__(self, model: AdaptedWhisper, options: TranscribeOptions) -> None:
        self.model, self.options = model, options
        self.language = options.language
        if options.language == AUTO:
            self.language = next(iter(model.backbone.language_ids), "en")
        # Raises where the model does not know the language or the task.
        self.n_prompt = len(model.backbone.prompt_ids(self.language, options.task))
        self.language = language_code(self.language)
        if options.samples and not model.is_gaussian:
            raise ConfigError(
                "samples need a model with a distribution over its weights, such as one with a "
                "Bayesian head; this one gives points"
            )
        self.search = _search(model.backbone, options)
        self.previous = previous_ids(model.backbone, options.prompt)

    @torch.inference_mode()
    def __call__(
        self, heard: Sequence[SpeechSegment], history: str = "", batch: Batch | None = None
    ) -> list[list[Recognised]]:
        """Decode segments: adapted, unadapted, or both from one run of the encoder.

        Args:
            heard: the segments.
            history: text before them, which they are given as a prompt.
            batch: of the same segments, from `batch_of`; None makes it.
        Returns:
            By system (adapted first), one for each segment.
        """
        prefix = self.previous
        if history:
            text = " ".join([self.options.prompt, history]).strip()
            prefix = previous_ids(self.model.backbone, text)
        batch = self.batch_of(heard) if batch is None else batch
        jobs = [_Job(tuple(heard), batch, adapt, prefix) for adapt in self._systems]
        systems = [
            [self._recognised(*pair) for pair in zip(job.heard, self._rows(job), strict=True)]
            for job in jobs
        ]
        if self.options.samples:
            systems[0] = self._doubted(jobs[0], systems[0])
        return systems

    def _doubted(self, job: _Job, found: Sequence[Recognised]) -> list[Recognised]:
        """Add to each word how many posterior samples say something else there."""
        k, backbone = self.options.samples, self.model.backbone
        search = self._limited(replace(self.search, beam_size=1), job)
        drawn = decode(
            self.model,
            job.batch,
            search,
            language=job.languages,
            task=self.options.task,
            n_samples=k,
            generator=torch.Generator().manual_seed(self.options.seed),
        )
        written = [self.written(heard.language) for heard in job.heard for _ in range(k)]
        texts = [
            comparable([w.text for w in words_of(backbone, *row)])
            for row in zip(drawn.tokens, drawn.logprobs, written, strict=True)
        ]
        doubted = []
        for index, one in enumerate(found):
            said = comparable([word for word, _ in one.segment.words])
            doubt, _ = disagreement(said, texts[index * k : (index + 1) * k])
            doubted.append(replace(one, segment=replace(one.segment, uncertainty=doubt)))
        return doubted

    @torch.inference_mode()
    def spoken(self, waveform: np.ndarray) -> tuple[str, float]:
        """Return the code of the language of a segment, and how probable it is.

        Known and certain unless the options ask to find out, which costs a pass of the encoder.
        The unadapted backbone is asked, before it is known whose voice it is.

        Raises:
            HyperASRError: the segment cannot be encoded.
        """
        if self.options.language != AUTO:
            return self.language, 1.0
        backbone = self.model.backbone
        return backbone.detect_language(backbone.encode(*backbone.features([waveform])))[0]

    def written(self, spoken: str) -> str:
        """Return the language of the text of what is spoken."""
        return "en" if self.options.task == "translate" else spoken

    @property
    def _systems(self) -> list[bool]:
        return [self.options.adapt, False] if self.options.compare else [self.options.adapt]

    @torch.inference_mode()
    def batch_of(self, heard: Sequence[SpeechSegment]) -> Batch:
        """Return segments as a batch: encoded, and embedded where they are to be adapted.

        Raises:
            HyperASRError: a segment cannot be encoded.
        """
        waveforms = tuple(h.waveform for h in heard)
        mel, n_frames = self.model.backbone.features(waveforms)
        cohorts = tuple(h.recording.cohort for h in heard)
        # Samples follow from the id: the sound's own, so that they depend on nothing else.
        ids = tuple(map(content_hash, waveforms)) if self.options.samples else ()
        batch = Batch(n_frames=n_frames, mel=mel, waveforms=waveforms, cohorts=cohorts, ids=ids)
        if not self.options.adapt:
            return replace(batch, encoded=self.model.encode(batch))
        emb, encoded = self.model.embed(batch)
        return replace(batch, encoded=encoded, speaker_emb=emb)

    def _rows(self, job: _Job) -> list[_Row]:
        rows = self._decoded(job, self.search)
        for temperature in self.options.temperatures:
            weak = [i for i, row in enumerate(rows) if row.runaway or row.score < _UNSURE]
            if not weak:
                break
            seeds = tuple(self._seed(job.heard[i], temperature) for i in weak)
            search = replace(self.search, beam_size=1, temperature=temperature, seeds=seeds)
            for i, row in zip(weak, self._decoded(job.only(weak), search), strict=True):
                rows[i] = max(rows[i], row, key=lambda r: r.trusted)
        if self.options.word_times:
            rows = self._attended(job, rows, [i for i, row in enumerate(rows) if row.tokens])
        return rows

    def _seed(self, heard: SpeechSegment, temperature: float) -> int:
        """Return a seed of this sound alone, whatever is decoded beside it."""
        text = f"{self.options.seed} {temperature} {content_hash(heard.waveform)}"
        return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)

    def _limited(self, search: SearchConfig, job: _Job) -> SearchConfig:
        """Return the search with earlier text, and no more tokens than the decoder has room for."""
        backbone = self.model.backbone
        n_most = int(backbone.whisper.config.max_target_positions) + 1
        n_given = len(job.prefix) + self.n_prompt
        limit = min(search.max_tokens, n_most - n_given)
        return replace(search, prefix=job.prefix, max_tokens=limit)

    def _decoded(self, job: _Job, search: SearchConfig) -> list[_Row]:
        """Decode, and look closer at what may have run away."""
        language, task = job.languages, self.options.task
        search = self._limited(search, job)
        found = decode(self.model, job.batch, search, adapt=job.adapt, language=language, task=task)
        columns = (found.tokens, found.logprobs, found.finished, found.score)
        rows = [_Row(*values) for values in zip(*columns, strict=True)]
        if not self.options.loop_guard:
            return rows
        verdicts = find_loops(
            self.model,
            job.batch,
            [heard.waveform for heard in job.heard],
            found.tokens,
            found.finished,
            adapt=job.adapt,
            language=language,
            task=task,
            prefix=job.prefix,
        )
        return [
            replace(row, runaway=runaway, attention=attention)
            for row, (runaway, attention) in zip(rows, verdicts, strict=True)
        ]

    def _attended(self, job: _Job, rows: list[_Row], wanted: Sequence[int]) -> list[_Row]:
        """Return the rows, with attention where it is wanted."""
        wanted = [i for i in wanted if rows[i].attention is None]
        if not wanted:
            return rows
        part = job if len(wanted) == len(rows) else job.only(wanted)
        seen = attend(
            self.model,
            part.batch,
            [rows[i].tokens for i in wanted],
            adapt=job.adapt,
            language=part.languages,
            task=self.options.task,
            prefix=job.prefix,
        )
        by_row = dict(zip(wanted, seen, strict=True))
        return [replace(row, attention=by_row.get(i, row.attention)) for i, row in enumerate(rows)]

    def _recognised(self, heard: SpeechSegment, row: _Row) -> Recognised:
        options, backbone = self.options, self.model.backbone
        language = self.written(heard.language)
        words = list(words_of(backbone, row.tokens, row.logprobs, language))
        text = printable(backbone.text(row.tokens))
        times: list[tuple[float, float]] = []
        unclear: tuple[Unclear, ...] = ()
        if row.attention is not None:
            lead_s = backbone.lead_s(len(heard.waveform))
            found = [(a - lead_s, b - lead_s) for a, b in word_times(words, row.attention)]
            last_s = heard.end_s - heard.start_s
            found = [(min(max(0.0, a), last_s), min(max(0.0, b), last_s)) for a, b in found]
            times = fit_to_sound(found, heard.waveform)
            times = [(heard.start_s + a, heard.start_s + b) for a, b in times]
        warnings = []
        if times and options.task == "translate":
            warnings.append(
                "word times of a translation are rough: its words may come in another order"
            )
        if row.runaway is not None:
            words, times, unclear = _marked(heard, words, times, row)
            blank = "" if language in NO_BLANKS else " "
            text = blank.join(word.text for word in words)
            warnings += [
                f"from {u.start_s:.1f} s to {u.end_s:.1f} s it is unclear: {u.reason}"
                for u in unclear
            ]
        if not row.finished and not unclear:
            warnings.append(
                f"from {heard.start_s:.1f} s to {heard.end_s:.1f} s the decoder found no end; "
                "check the text there"
            )
        segment = Segment(
            start_s=heard.start_s,
            end_s=heard.end_s,
            text=text,
            logprob=row.score,
            words=tuple((word.text, word.probability) for word in words),
            times=tuple(times) if options.word_times else (),
            unclear=unclear,
        )
        if options.mode != "verbatim":
            segment = _cleaned(segment, language)
        return Recognised(segment, tuple(warnings))


def previous_ids(backbone: Backbone, text: str) -> tuple[int, ...]:
    """Return the tokens that give the decoder earlier text; none for no text.

    As in transformers the last half of the decoder's positions is the most they take.

    Raises:
        ConfigError: the model's tokenizer knows no start of previous text.
    """
    if not text.strip():
        return ()
    start = backbone.vocabulary.get("<|startofprev|>")
    if start is None:
        raise ConfigError("this model takes no prompt: its tokenizer has no <|startofprev|>")
    n_most = int(backbone.whisper.config.max_target_positions) // 2 - 1
    return (start, *backbone.text_ids(text)[-n_most:])


def comparable(words: Sequence[str]) -> str:
    """Return the words without case and punctuation, as many as they were."""
    return " ".join(re.sub(r"^\W+|\W+$", "", word).casefold() or word for word in words)


def _search(backbone: Backbone, options: TranscribeOptions) -> SearchConfig:
    """Search for text alone, without timestamps and markers."""
    config = SearchConfig(beam_size=options.beam_size, suppress=options.suppress)
    return text_only(config, backbone.eos, int(backbone.whisper.config.vocab_size))


def _marked(
    heard: SpeechSegment, words: list[Word], times: list[tuple[float, float]], row: _Row
) -> tuple[list[Word], list[tuple[float, float]], tuple[Unclear, ...]]:
    """Put one ``[unclear]`` in place of the words of a runaway decoder."""
    assert row.runaway is not None
    first, last, reason = row.runaway.first, row.runaway.last, row.runaway.reason
    # A word that was begun before is kept: it may be the last one that was said.
    lost = [i for i, w in enumerate(words) if first <= w.first < last]
    lost = lost or [i for i, w in enumerate(words) if w.first < last and first < w.last]
    if not lost:
        return words, times, ()
    a, b = lost[0], lost[-1] + 1
    start_s = times[a][0]
    end_s = heard.end_s if b == len(words) else max(start_s, times[b - 1][1])
    text = " ".join(word.text for word in words[a:b])
    mark = Word(UNCLEAR, 0.0, words[a].first, words[b - 1].last)
    unclear = Unclear(start_s, end_s, reason, text, word=a)
    return (
        [*words[:a], mark, *words[b:]],
        [*times[:a], (start_s, end_s), *times[b:]],
        (unclear,),
    )


def _cleaned(segment: Segment, language: str) -> Segment:
    if language in NO_BLANKS:
        return replace(segment, clean=segment.text)  # doubled characters are words there
    words = [word for word, _ in segment.words]
    edits = clean_edits(words, segment.times, language)
    return replace(segment, edits=edits, clean=" ".join(apply_edits(words, edits)))
