"""Segments of recordings in, decoded segments out: times, probabilities, guard, clean text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from hyperasr.audio.loudness import content_hash
from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.errors import ConfigError
from hyperasr.metrics.uncertainty import disagreement
from hyperasr.model import AdaptedWhisper, decode
from hyperasr.transcription.disfluency import apply_edits, clean_edits
from hyperasr.transcription.options import AUTO, TranscribeOptions
from hyperasr.transcription.recordings import Recording
from hyperasr.transcription.repetition_loop import RepetitionLoop, find_loops
from hyperasr.transcription.words import (
    NO_BLANKS,
    Attention,
    attend,
    fit_to_sound,
    printable,
    with_length,
    word_times,
    words_of,
)
from hyperasr.transcription.words import Word as TokenWord
from hyperasr.types import UNCLEAR, Batch, Segment, Unclear, Word
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.languages import language_code
from hyperasr.whisper.search import SearchConfig, text_only

_BEAMS_TO_EXPECT = 5
EXPECTED_BONUS = 2.0  # nats for a token of an expected word; see docs/results.md
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
class _Row:
    """What was decoded for one segment, and what is known of it."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool
    score: float
    attention: Attention | None = None
    loop: RepetitionLoop | None = None

    @property
    def trusted(self) -> tuple[bool, float]:
        """What tells the better of two rows."""
        return self.loop is None, self.score


@dataclass(frozen=True)
class _Part:
    """Segments that are decoded together."""

    segments: Sequence[SpeechSegment]
    batch: Batch

    @property
    def languages(self) -> list[str]:
        return [segment.language for segment in self.segments]

    def only(self, rows: Sequence[int]) -> _Part:
        if len(rows) == len(self.segments):
            return self
        return _Part([self.segments[i] for i in rows], self.batch.select(rows))


Recognised = tuple[Segment, list[str]]
"""A decoded segment, and lines of what its reader should know."""


class Recogniser:
    """Decode segments as the options say.

    Raises:
        ConfigError: the model does not know the language or the task, or takes no prompt.
    """

    def __init__(self, model: AdaptedWhisper, options: TranscribeOptions) -> None:
        self.model, self.options = model, options
        self.calibration = model.calibration if options.adapt else None
        language = options.language
        if language == AUTO:
            language = next(iter(model.backbone.language_ids), "en")
        # Raises where the model does not know the language or the task.
        self.n_prompt = len(model.backbone.prompt_ids(language, options.task))
        self.language = language_code(language)
        if options.samples and not model.is_gaussian:
            raise ConfigError(
                "samples need a model with a distribution over its weights, such as one with a "
                "Bayesian head; this one gives points"
            )
        self.search = _search(model.backbone, options)
        self.prefix = previous_ids(model.backbone, options.prompt)

    @torch.inference_mode()
    def __call__(self, segments: Sequence[SpeechSegment], batch: Batch) -> list[Recognised]:
        """Decode segments, adapted or not; `batch` is what `batch_of` made of them."""
        part = _Part(segments, batch)
        rows = zip(segments, self._rows(part), strict=True)
        decoded = [self._recognised(segment, row) for segment, row in rows]
        return self._with_uncertainty(part, decoded) if self.options.samples else decoded

    @torch.inference_mode()
    def spoken(self, waveform: np.ndarray) -> tuple[str, float]:
        """Return the code of the language of a segment, and how probable it is.

        Known and certain unless the options ask to find out, which costs a pass of the encoder.
        The unadapted backbone is asked, before it is known whose voice it is.

        Args:
            waveform: (n_samples,) float32, 16 kHz.
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

    @torch.inference_mode()
    def batch_of(self, segments: Sequence[SpeechSegment]) -> Batch:
        """Return segments as a batch: encoded, and embedded where they are to be adapted.

        Raises:
            HyperASRError: a segment cannot be encoded.
        """
        waveforms = tuple(s.waveform for s in segments)
        mel, n_frames = self.model.backbone.features(waveforms)
        cohorts = tuple(s.recording.cohort for s in segments)
        # Samples follow from the id: the sound's own, so that they depend on nothing else.
        ids = tuple(map(content_hash, waveforms)) if self.options.samples else ()
        batch = Batch(n_frames=n_frames, mel=mel, waveforms=waveforms, cohorts=cohorts, ids=ids)
        if not self.options.adapt:
            return replace(batch, encoded=self.model.encode(batch))
        emb, encoded = self.model.embed(batch)
        batch = replace(batch, encoded=encoded, speaker_emb=emb)
        if self.model.adapts_encoder:  # once, however often it is decoded and looked at
            with self.model.adapted(batch) as states:
                batch = replace(batch, adapted=states)
            if not self.options.samples:  # nobody goes on from there again
                batch = replace(batch, encoded=replace(encoded, attended=None))
        return batch

    def _rows(self, part: _Part) -> list[_Row]:
        rows = self._decoded(part, self.search)
        for temperature in self.options.temperatures:
            weak = [i for i, row in enumerate(rows) if row.loop or row.score < _UNSURE]
            if not weak:
                break
            again = part.only(weak)
            seeds = tuple(self._seed(segment, temperature) for segment in again.segments)
            search = replace(
                self.search, beam_size=1, expected=(), temperature=temperature, seeds=seeds
            )
            for i, row in zip(weak, self._decoded(again, search), strict=True):
                rows[i] = max(rows[i], row, key=lambda r: r.trusted)
        if self.options.word_times:
            wanted = [i for i, row in enumerate(rows) if row.tokens and row.attention is None]
            if wanted:
                timed, tokens = part.only(wanted), [rows[i].tokens for i in wanted]
                prompts = self._prompts(timed)
                seen = attend(self.model, timed.batch, tokens, prompts, adapt=self.options.adapt)
                for i, attention in zip(wanted, seen, strict=True):
                    rows[i] = replace(rows[i], attention=attention)
        return rows

    def _decoded(self, part: _Part, search: SearchConfig) -> list[_Row]:
        """Decode, and look closer at what may have run away."""
        decoded = decode(
            self.model,
            part.batch,
            self._limited(search),
            adapt=self.options.adapt,
            language=part.languages,
            task=self.options.task,
        )
        columns = (decoded.tokens, decoded.logprobs, decoded.finished, decoded.score)
        rows = [_Row(*values) for values in zip(*columns, strict=True)]
        if not self.options.loop_guard:
            return rows
        found = find_loops(
            self.model,
            part.batch,
            decoded.tokens,
            decoded.finished,
            self._prompts(part),
            adapt=self.options.adapt,
        )
        return [
            replace(row, loop=loop, attention=attention)
            for row, (loop, attention) in zip(rows, found, strict=True)
        ]

    def _limited(self, search: SearchConfig) -> SearchConfig:
        """Return the search with earlier text, and no more tokens than the decoder has room for."""
        n_most = int(self.model.backbone.whisper.config.max_target_positions) + 1
        limit = min(search.max_tokens, n_most - len(self.prefix) - self.n_prompt)
        return replace(search, prefix=self.prefix, max_tokens=limit)

    def _prompts(self, part: _Part) -> list[list[int]]:
        backbone, task = self.model.backbone, self.options.task
        return [[*self.prefix, *backbone.prompt_ids(lang, task)] for lang in part.languages]

    def _seed(self, segment: SpeechSegment, temperature: float) -> int:
        """Return a seed of this sound alone, whatever is decoded beside it."""
        text = f"{self.options.seed} {temperature} {content_hash(segment.waveform)}"
        return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)

    def _with_uncertainty(self, part: _Part, decoded: Sequence[Recognised]) -> list[Recognised]:
        """Add to each word how many posterior samples say something else there."""
        k, backbone = self.options.samples, self.model.backbone
        drawn = decode(
            self.model,
            part.batch,
            self._limited(replace(self.search, beam_size=1, expected=())),
            language=part.languages,
            task=self.options.task,
            n_samples=k,
            seed=self.options.seed,
        )
        written = [self.written(language) for language in part.languages for _ in range(k)]
        texts = [
            _comparable(word.text for word in words_of(backbone, *row))
            for row in zip(drawn.tokens, drawn.logprobs, written, strict=True)
        ]
        doubted = []
        for index, (segment, warnings) in enumerate(decoded):
            said = _comparable(word.text for word in segment.words)
            doubt = disagreement(said, texts[index * k : (index + 1) * k])
            words = zip(segment.words, doubt, strict=True)
            in_doubt = tuple(replace(word, uncertainty=share) for word, share in words)
            doubted.append((replace(segment, words=in_doubt), warnings))
        return doubted

    def _recognised(self, spoken: SpeechSegment, row: _Row) -> Recognised:
        options, backbone = self.options, self.model.backbone
        language = self.written(spoken.language)
        words = list(words_of(backbone, row.tokens, row.logprobs, language))
        if self.calibration is not None and words:
            sure = self.calibration([word.probability for word in words]).tolist()
            words = [replace(w, probability=p) for w, p in zip(words, sure, strict=True)]
        text = printable(backbone.text(row.tokens))
        times: list[tuple[float, float]] = []
        unclear: tuple[Unclear, ...] = ()
        if row.attention is not None:
            lead_s = backbone.lead_s(len(spoken.waveform))
            last_s = spoken.end_s - spoken.start_s
            aligned = np.array(word_times(words, row.attention)).reshape(-1, 2) - lead_s
            inside = fit_to_sound(np.clip(aligned, 0.0, last_s).tolist(), spoken.waveform)
            times = [
                (spoken.start_s + a, spoken.start_s + b) for a, b in with_length(inside, last_s)
            ]
        warnings = []
        if times and options.task == "translate":
            warnings.append(
                "word times of a translation are rough: its words may come in another order"
            )
        if row.loop is not None:
            words, times, unclear = _marked(spoken, words, times, row.loop)
            text = ("" if language in NO_BLANKS else " ").join(word.text for word in words)
            warnings += [
                f"from {u.start_s:.1f} s to {u.end_s:.1f} s it is unclear: {u.reason}"
                for u in unclear
            ]
        if not row.finished and not unclear:
            warnings.append(
                f"from {spoken.start_s:.1f} s to {spoken.end_s:.1f} s the decoder found no end; "
                "check the text there"
            )
        segment = Segment(
            start_s=spoken.start_s,
            end_s=spoken.end_s,
            text=text,
            logprob=row.score,
            words=tuple(
                Word(word.text, word.probability, *(times[i] if options.word_times else ()))
                for i, word in enumerate(words)
            ),
            unclear=unclear,
        )
        if options.mode != "verbatim":
            segment = _cleaned(segment, language)
        return segment, warnings


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


def _comparable(words: Iterable[str]) -> str:
    """Return the words without case and punctuation, as many as they were."""
    return " ".join(re.sub(r"^\W+|\W+$", "", word).casefold() or word for word in words)


def _search(backbone: Backbone, options: TranscribeOptions) -> SearchConfig:
    """Search for text alone, without timestamps and markers."""
    words = [word.strip() for word in options.expect.split(",") if word.strip()]
    # As it is written, and as it begins a sentence.
    forms = dict.fromkeys(form for word in words for form in (word, word[0].upper() + word[1:]))
    config = SearchConfig(
        beam_size=_BEAMS_TO_EXPECT if words and options.beam_size == 1 else options.beam_size,
        expected=tuple(tuple(backbone.text_ids(form)) for form in forms),
        bonus=EXPECTED_BONUS,
    )
    return text_only(config, backbone.eos, int(backbone.whisper.config.vocab_size))


def _marked(
    spoken: SpeechSegment,
    words: list[TokenWord],
    times: list[tuple[float, float]],
    loop: RepetitionLoop,
) -> tuple[list[TokenWord], list[tuple[float, float]], tuple[Unclear, ...]]:
    """Put one ``[unclear]`` in place of the words of a decoder that ran away."""
    first, last = loop.first, loop.last
    # A word that was begun before is kept: it may be the last one that was said.
    lost = [i for i, w in enumerate(words) if first <= w.first < last]
    lost = lost or [i for i, w in enumerate(words) if w.first < last and first < w.last]
    if not lost:
        return words, times, ()
    a, b = lost[0], lost[-1] + 1
    start_s = times[a][0]
    end_s = spoken.end_s if b == len(words) else times[b - 1][1]
    text = " ".join(word.text for word in words[a:b])
    mark = TokenWord(UNCLEAR, 0.0, words[a].first, words[b - 1].last)
    unclear = Unclear(start_s, end_s, loop.reason, text, word=a)
    return (
        [*words[:a], mark, *words[b:]],
        [*times[:a], (start_s, end_s), *times[b:]],
        (unclear,),
    )


def _cleaned(segment: Segment, language: str) -> Segment:
    if language in NO_BLANKS:
        return replace(segment, clean=segment.text)  # doubled characters are words there
    words = [word.text for word in segment.words]
    times = [(w.start, w.end) for w in segment.words if w.start is not None and w.end is not None]
    edits = clean_edits(words, times, language)
    return replace(segment, edits=edits, clean=" ".join(apply_edits(words, edits)))
