"""The five nouns: Utterance, Batch, LoRAFactors, Decoded, Transcript; shape checks only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from hyperasr.errors import ShapeError

DOUBTFUL = 0.5
"""A word with less probability, or that more posterior samples doubt, is marked as doubtful."""
UNCLEAR = "[unclear]"
"""Stands in the text where the decoder ran away."""


def real_mask(lengths: Tensor, size: int) -> Tensor:
    """Return (n, size) bool, true on the first `lengths` (n,) of each row: real, not padding."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


@dataclass(frozen=True, slots=True)  # a manifest may have millions of them
class Utterance:
    """What was said, by whom, in which cohort: one row of a manifest.

    Times are seconds inside the recording; `end_s=None` means to its end. `text` is the reference
    (None where a corpus has none), `text_clean` the intended words where `text` is verbatim.
    `cohort` is any name; only rows that are ``typical`` are ever simulated on. `severity` is in
    [0, 1], None where unknown. `domain` is ``recorded``, or ``simulated`` where a simulation made
    the recording. `extra` holds what else a corpus knows, as text: session, microphone, labels; its
    keys are listed in `hyperasr.cohorts.corpora.base`.

    >>> hyperasr.Utterance("ann-1", "ann.wav", start_s=1.5, cohort="als").domain
    'recorded'
    """

    id: str
    path: str
    text: str | None = None
    speaker: str = "unknown"
    cohort: str = "typical"
    start_s: float = 0.0
    end_s: float | None = None
    text_clean: str | None = None
    etiology: str | None = None
    severity: float | None = None
    language: str = "en"
    split: str = "test"
    source: str = ""
    domain: str = "recorded"
    extra: dict[str, str] | None = field(default=None, hash=False)

    @property
    def channel(self) -> int | None:
        """The channel of the recording that holds the speaker, from 0; None for all."""
        value = (self.extra or {}).get("channel")
        return None if value in (None, "") else int(value)

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values, in the order of the fields."""
        return asdict(self)


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply `function` to a tensor, or to every tensor of a mapping or one of the types below."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: _mapped(part, function) for key, part in value.items()}
    if isinstance(value, EncoderOutput | TeacherTokens | Batch):
        return replace(value, **_mapped(vars(value), function))
    return value


@dataclass(frozen=True)
class EncoderOutput:
    """Encoder states of a batch.

    Attributes:
        states: final states (n_utt, n_states, d_model); exactly 0 on padding.
        lengths: real states of each utterance (n_utt,) int64; a state is 20 ms.
        moments: mean and deviation over the real states (n_utt, 2 * d_model), float32, of the
            hidden layers asked for, by index: 0 is the convolutional stem, i the output of encoder
            layer i (1-based).
        sounding: states up to the end of each utterance's sound (n_utt,) int64, where it is known.
        attended: what the first layer's feed-forward part got (n_utt, n_states, d_model), where a
            second, adapted pass is to go on from it.
    """

    states: Tensor
    lengths: Tensor
    moments: Mapping[int, Tensor] = field(default_factory=dict)
    sounding: Tensor | None = None
    attended: Tensor | None = None

    def __post_init__(self) -> None:
        if self.states.dim() != 3 or self.lengths.shape != self.states.shape[:1]:
            raise ShapeError(
                f"encoder states {tuple(self.states.shape)} and lengths "
                f"{tuple(self.lengths.shape)} do not describe one batch; "
                "expected (n_utt, n_states, d_model) and (n_utt,)"
            )

    def select(self, index: Tensor) -> EncoderOutput:
        """Return the utterances `index` (n,) int64, without padding that only others needed."""
        lengths = self.lengths[index]
        n = int(lengths.max())
        moments = {layer: values[index] for layer, values in self.moments.items()}
        sounding = None if self.sounding is None else self.sounding[index]
        attended = None if self.attended is None else self.attended[index, :n]
        return EncoderOutput(self.states[index, :n], lengths, moments, sounding, attended)


@dataclass(frozen=True)
class TeacherTokens:
    """What another model takes for the next token at every place of `Batch.tokens`.

    Attributes:
        ids: most probable tokens (n_utt, n_tokens, k) int64; those at place t are for token t.
        logprobs: their natural logarithms (n_utt, n_tokens, k) float32; -inf where the teacher
            says nothing.
    """

    ids: Tensor
    logprobs: Tensor

    def to(self, device: torch.device) -> TeacherTokens:
        """Return the same on another device."""
        return _mapped(self, lambda tensor: tensor.to(device))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Batch:
    """Tensors of several utterances, ready for `HyperASR.forward`.

    Attributes:
        encoded: encoder states, or None when `mel` is to be encoded.
        adapted: states of the adapted pass, where the encoder is a target and they are used again.
        mel: log-mel (n_utt, n_mels, n_frames), 10 ms a frame, or None.
        n_frames: real mel frames (n_utt,).
        speaker_emb: embeddings (n_utt, d_spk), or None to compute them.
        waveforms: each (n_samples,) float32, 16 kHz, for speaker encoders that need them.
        tokens: prompt, text and end of text (n_utt, n_tokens), padded with the pad token.
        n_tokens: real tokens (n_utt,).
        n_prompt: tokens of the prompt, which are given and not scored.
        teacher: what another model says of the tokens, or None.
        ids, speakers, cohorts: one string an utterance, for bookkeeping only.

    >>> mel, n_frames = model.backbone.features([np.zeros(16_000, np.float32)])
    >>> with model.adapted(hyperasr.Batch(n_frames=n_frames, mel=mel)) as encoded:
    ...     encoded.states.shape[0]
    1
    """

    n_frames: Tensor
    encoded: EncoderOutput | None = None
    adapted: EncoderOutput | None = None
    mel: Tensor | None = None
    speaker_emb: Tensor | None = None
    waveforms: tuple[Any, ...] | None = None
    tokens: Tensor | None = None
    n_tokens: Tensor | None = None
    n_prompt: int = 0
    teacher: TeacherTokens | None = None
    ids: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()
    cohorts: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """Return the same with its tensors on another device; waveforms stay where they are."""
        return _mapped(self, lambda tensor: tensor.to(device))  # type: ignore[no-any-return]

    def select(self, rows: Sequence[int]) -> Batch:
        """Return the utterances `rows`, without padding that only the others needed."""
        index = torch.tensor(rows, device=self.n_frames.device)
        chosen: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, EncoderOutput):
                chosen[name] = value.select(index)
            elif isinstance(value, Tensor | TeacherTokens):
                chosen[name] = _mapped(value, lambda tensor: tensor[index])
            elif isinstance(value, tuple):
                chosen[name] = tuple(value[row] for row in rows) if value else ()
        if self.tokens is not None and self.n_tokens is not None:
            longest = int(chosen["n_tokens"].max())
            for name in chosen.keys() & {"tokens", "teacher"}:
                chosen[name] = _mapped(chosen[name], lambda tensor: tensor[:, :longest])
        return replace(self, **chosen)

    @property
    def n_utt(self) -> int:
        """Number of utterances."""
        return int(self.n_frames.shape[0])


@dataclass(frozen=True)
class LayerFactors:
    """Low-rank factors of one target, for all its layers and all utterances of a batch.

    Attributes:
        A: down-projection (n_layer, n_utt, rank, d_in).
        B: up-projection (n_layer, n_utt, d_out, rank).

    >>> hyperasr.LayerFactors(A=torch.zeros(4, 1, 8, 384), B=torch.zeros(4, 1, 8, 1536))
    Traceback (most recent call last):
    hyperasr.errors.ShapeError: factors A (4, 1, 8, 384) and B (4, 1, 8, 1536) do not fit: ...
    """

    A: Tensor
    B: Tensor

    def __post_init__(self) -> None:
        a, b = tuple(self.A.shape), tuple(self.B.shape)
        if len(a) != 4 or len(b) != 4 or a[:2] != b[:2] or a[2] != b[3]:
            raise ShapeError(
                f"factors A {a} and B {b} do not fit: expected A (n_layer, n_utt, rank, d_in) "
                "and B (n_layer, n_utt, d_out, rank)"
            )


@dataclass(frozen=True)
class LoRAFactors:
    """Generated weights: low-rank factors by target name (such as ``decoder.fc1``).

    Attributes:
        targets: factors of each target.
        scaling: alpha / rank; delta_weight = scaling * B @ A.
        shared: one set of factors serves every utterance (n_utt is 1 and broadcasts).

    >>> fc1 = hyperasr.LayerFactors(A=torch.zeros(4, 1, 8, 384), B=torch.zeros(4, 1, 1536, 8))
    >>> hyperasr.LoRAFactors({"decoder.fc1": fc1}, scaling=2.0).n_utt
    1
    """

    targets: Mapping[str, LayerFactors]
    scaling: float = 1.0
    shared: bool = False

    def __post_init__(self) -> None:
        sizes = {name: int(f.A.shape[1]) for name, f in self.targets.items()}
        if len(set(sizes.values())) > 1:
            raise ShapeError(f"targets disagree on the number of utterances: {sizes}")
        if self.shared and self.targets and self.n_utt != 1:
            raise ShapeError(f"shared factors serve every utterance, but n_utt is {self.n_utt}")

    @property
    def n_utt(self) -> int:
        """Number of utterances the factors are for (1 when shared)."""
        return int(next(iter(self.targets.values())).A.shape[1])

    def __iter__(self) -> Iterator[str]:
        return iter(self.targets)

    def __getitem__(self, name: str) -> LayerFactors:
        return self.targets[name]

    def map(self, function: Callable[[Tensor], Tensor]) -> LoRAFactors:
        """Apply `function` to every A and B, (n_layer, n_utt, ...) each."""
        return replace(
            self,
            targets={
                n: LayerFactors(function(f.A), function(f.B)) for n, f in self.targets.items()
            },
        )


@dataclass(frozen=True)
class Decoded:
    """Tokens and scores of a batch, one best hypothesis a row.

    Attributes:
        tokens: text tokens of each row, without prompt and end of text.
        logprobs: natural-log probability of each of them, the same lengths.
        finished: whether the row ended with end of text (False: it hit the limit).
        score: average log-probability of each row, end of text included; 0 where nothing was
            decoded. Empty where the maker gives none.

    >>> decoded = hyperasr.Decoded(tokens=((1029,),), logprobs=((-0.2,),), finished=(True,))
    >>> len(decoded.tokens)
    1
    """

    tokens: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]
    finished: tuple[bool, ...]
    score: tuple[float, ...] = ()


@dataclass(frozen=True)
class Edit:
    """One step from the verbatim words of a segment to the clean ones; it can be undone.

    Attributes:
        first, last: words `first` to `last - 1` of the segment are meant.
        kind: ``filler``, ``part_word`` or ``repetition``.
        text: those words as they were said.
        replacement: what the clean text has instead; mostly nothing.
        start_s, end_s: when they were said, in seconds of the recording; None where word times
            were not asked for.
    """

    first: int
    last: int
    kind: str
    text: str
    replacement: str = ""
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class Unclear:
    """A stretch in which the decoder ran away; the segment's text has ``[unclear]`` there.

    Attributes:
        start_s, end_s: in seconds of the recording.
        reason: why what was decoded is not trusted.
        text: what was decoded.
        word: index of ``[unclear]`` among the words of the segment.
    """

    start_s: float
    end_s: float
    reason: str
    text: str
    word: int


@dataclass(frozen=True)
class Word:
    """A word as it was decoded.

    Attributes:
        text: the word, with its punctuation.
        probability: that it is right, in [0, 1]: the geometric mean of those of its tokens,
            calibrated where the model brings a calibration.
        start, end: when it was said, in seconds of the recording; None where word times were not
            asked for.
        uncertainty: 0 (certain) to 1: the share of posterior samples that say something else there;
            None where none were drawn.

    >>> words = model.transcribe(clip, word_times=True).words
    >>> all(0 <= word.start <= word.end for word in words)
    True
    >>> to_check = [word.text for word in words if word.doubtful]
    """

    text: str
    probability: float
    start: float | None = None
    end: float | None = None
    uncertainty: float | None = None

    @property
    def doubtful(self) -> bool:
        """Whether it is to be checked: improbable, or in doubt among posterior samples."""
        if self.text == UNCLEAR:
            return False
        return self.probability < DOUBTFUL or (self.uncertainty or 0.0) > 1 - DOUBTFUL


@dataclass(frozen=True)
class Segment:
    """A stretch of one recording and its text; times in seconds of the whole recording.

    Attributes:
        start_s, end_s: where it lies.
        text: as decoded: every repetition, filler and part-word stays.
        logprob: average log-probability of its tokens.
        words: its words.
        edits: what makes the clean text of the verbatim one.
        clean: the text without fillers, repetitions and part-words; None where not asked for.
        unclear: stretches in which the decoder ran away.

    >>> for segment in model.transcribe(clip, stream=True):
    ...     print(segment.start_s)
    0.0
    """

    start_s: float
    end_s: float
    text: str
    logprob: float
    words: tuple[Word, ...] = ()
    edits: tuple[Edit, ...] = ()
    clean: str | None = None
    unclear: tuple[Unclear, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """What a human reads: the text of one recording and its segments.

    Attributes:
        id: name of the recording as the caller gave it.
        text: the whole text, as decoded (verbatim).
        segments: its parts with times.
        duration_s: length of the recording in seconds.
        warnings: one line for each thing the reader should know.
        clean: the text without fillers, repetitions and part-words; None where not asked for.
        discarded_s: seconds that were taken for silence and not decoded.
        language: code of the language of the text.
        calibrated: whether the probabilities of its words are calibrated: of ten words with 0.7,
            seven are right; else they are the model's own, which is mostly too sure.
    """

    id: str
    text: str
    segments: tuple[Segment, ...] = ()
    duration_s: float = 0.0
    warnings: tuple[str, ...] = ()
    clean: str | None = None
    discarded_s: float = 0.0
    language: str = "en"
    calibrated: bool = False

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all segments."""
        return tuple(word for segment in self.segments for word in segment.words)
