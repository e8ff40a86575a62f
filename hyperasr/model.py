"""A frozen Whisper, a speaker encoder and a source of adapters, as one model, and its decoding.

Here every utterance gets weights of its own (`AdaptedWhisper.adapted`); how they act on a layer is
in `hyperasr.adapters.lora`. Opening, saving and transcribing are in `hyperasr.hub`.

A posterior sample belongs to an utterance: it is drawn once, before the first token, and kept over
all steps and beams. Samples are rows of one batch; the encoder runs once an utterance.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from hyperasr.adapters import GAUSSIAN_SOURCES, SourceConfig, lora, new_source
from hyperasr.adapters.noise import using_noise
from hyperasr.adapters.objective import (
    ELBO,
    ObjectiveConfig,
    from_teacher,
    mean_squares,
    relative_size,
)
from hyperasr.adapters.posterior import GaussianFactors, Generators, utterance_generators
from hyperasr.errors import ConfigError, ShapeError
from hyperasr.metrics.calibration import PlattScaling
from hyperasr.speaker.encoder import SpeakerConfig, speaker_encoder
from hyperasr.types import Batch, Decoded, EncoderOutput, LoRAFactors, TeacherTokens
from hyperasr.util.memory import out_of_memory, too_large
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.search import SearchConfig, text_only

# Fast speech has up to 24 characters a second, and a token is a character or more; a decoder that
# writes more than 30 a second is running away.
_TOKENS_PER_STATE = 0.6
_SPARE_TOKENS = 8


class AdaptedWhisper(nn.Module):
    """A frozen Whisper that decodes every utterance with weights of its own.

    Args:
        backbone: the frozen recogniser.
        speaker_config: what embeds an utterance.
        source_config: what gives low-rank factors, or a distribution over them.
        seed: of the untrained weights.
        objective: what training minimises.
        fit_prior: fit a data-driven prior to the backbone; False where weights, and the prior
            among them, are loaded afterwards.
    """

    def __init__(
        self,
        backbone: Backbone,
        speaker_config: SpeakerConfig,
        source_config: SourceConfig,
        seed: int = 0,
        objective: ObjectiveConfig | None = None,
        *,
        fit_prior: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.objective = objective or ObjectiveConfig()
        self.kl_share = 1.0
        self.adapts = True  # False for a plain Whisper, in which nothing was trained
        self.calibration: PlattScaling | None = None  # of the probabilities of its words
        self.speaker_config = speaker_config
        self.source_config = source_config
        self.speaker = speaker_encoder(speaker_config, backbone, seed)
        self.source = new_source(
            source_config, backbone.whisper, self.speaker.d_spk, seed, fit_prior=fit_prior
        )
        self._squared_norms: dict[str, Tensor] = {}

    @classmethod
    def unadapted(cls, backbone: Backbone) -> Self:
        """Return a model that adapts nothing: a LoRA of rank 1 whose update is zero."""
        source = SourceConfig("static", settings={"rank": 1})
        model = cls(backbone, SpeakerConfig(), source).to(backbone.device).eval()
        model.adapts = False
        return model

    @property
    def adapts_encoder(self) -> bool:
        """Whether a target lies in the encoder, so that encoder states cannot be cached."""
        return any(name.startswith("encoder.") for name in self.source_config.targets)

    @property
    def _passes_share_attention(self) -> bool:
        """Whether the adapted pass of the encoder can go on behind the first layer's attention."""
        in_encoder = {t for t in self.source_config.targets if t.startswith("encoder.")}
        half = self.backbone.whisper.dtype == torch.float16  # there layers also clamp
        return bool(in_encoder) and in_encoder <= {"encoder.fc1", "encoder.fc2"} and not half

    @property
    def is_gaussian(self) -> bool:
        """Whether the source gives a distribution, of which samples can be drawn."""
        return isinstance(self.source, GAUSSIAN_SOURCES)

    def at_step(self, step: int, n_steps: int) -> None:
        """Tell which step of training comes next (the first is 0): the divergence warms up."""
        self.kl_share = self.objective.kl_share(step, n_steps)

    def train(self, mode: bool = True) -> Self:
        """Set training mode; the frozen backbone always stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def encode(self, batch: Batch, pool_layers: Sequence[int] = ()) -> EncoderOutput:
        """Return the unadapted encoder states, computed only where the batch does not bring them.

        Args:
            batch: with encoder states, or with mel (n_utt, n_mels, n_frames) and n_frames (n_utt,).
            pool_layers: hidden layers to pool where they are computed; see `Backbone.encode`.
        Returns:
            States (n_utt, n_states, d_model) of 20 ms each.
        Raises:
            ShapeError: the batch has neither states nor mel.
        """
        return self._unadapted(batch, pool_layers)

    def embed(self, batch: Batch) -> tuple[Tensor, EncoderOutput]:
        """Return speaker embeddings (n_utt, d_spk) and the unadapted encoder states.

        Either is computed only where the batch does not bring it. Where the encoder's W1 or W2 is
        a target and the embedding needs no layer's output, the encoder runs once: there are then
        no states (n_utt, 0, d_model), only what the adapted pass goes on from.

        Raises:
            ShapeError: the batch has neither states nor mel.
        """
        if batch.speaker_emb is not None:
            return batch.speaker_emb, self.encode(batch)
        encoded = self._unadapted(batch, self.speaker.layers, attended_only=True)
        emb = self.speaker(
            encoded=encoded, mel=batch.mel, n_frames=batch.n_frames, waveforms=batch.waveforms
        )
        return emb, encoded

    def _conditioning(self, batch: Batch) -> tuple[Tensor | None, EncoderOutput]:
        """Return what `embed` does, the embeddings None where the source does not read them."""
        if self.source.conditioned:
            return self.embed(batch)
        return None, self._unadapted(batch, (), attended_only=True)

    def _unadapted(
        self, batch: Batch, pool_layers: Sequence[int], *, attended_only: bool = False
    ) -> EncoderOutput:
        """Run the encoder unadapted where the batch does not bring its states."""
        if batch.encoded is not None:
            return batch.encoded
        if batch.mel is None:
            raise ShapeError("a batch needs encoder states or mel; it has neither")
        with torch.no_grad():
            return self.backbone.encode(
                batch.mel,
                batch.n_frames,
                pool_layers,
                keep_attended=self._passes_share_attention,
                attended_only=attended_only,
            )

    def groups(self, batch: Batch) -> tuple[str, ...]:
        """Return what a static source with factors by group goes by: cohorts or speakers."""
        by_speaker = (self.source_config.settings or {}).get("by") == "speaker"
        return batch.speakers if by_speaker else batch.cohorts

    def factors(
        self,
        speaker_emb: Tensor | None = None,
        groups: Sequence[str] = (),
        *,
        n_samples: int | None = None,
        generators: Generators = None,
    ) -> LoRAFactors:
        """Return the low-rank factors of each utterance: of a Gaussian source the mean, or samples.

        Args:
            speaker_emb: (n_utt, d_spk); None where the source is not conditioned.
            groups: of each utterance, for a source with factors by cohort or speaker.
            n_samples: posterior samples of each utterance, adjacent; None for the mean.
            generators: of the samples, one for each row of the result; None is torch's own.
        Raises:
            ConfigError: samples of a source that gives points.
        Returns:
            A (n_layer, n_row, rank, d_in) and B (n_layer, n_row, d_out, rank) of each target, with
            n_row n_utt or n_utt * n_samples; 1 where one serves all.
        """
        if n_samples is None:
            factors: LoRAFactors | GaussianFactors
            factors = self.source(speaker_emb, groups=list(groups) or None)
            return factors.mean() if isinstance(factors, GaussianFactors) else factors
        if not self.is_gaussian:
            raise ConfigError(
                f"a source of kind {self.source_config.kind!r} gives points, not a distribution; "
                "posterior samples need bayes_hypernet, vi_lora or blora"
            )
        n_utt = len(groups) if speaker_emb is None else speaker_emb.shape[0]
        posterior: GaussianFactors = self.source(speaker_emb, groups=list(groups) or None)
        return posterior.sample(generators, n_samples, n_utt=max(1, n_utt))

    @contextmanager
    def adapted(
        self,
        batch: Batch,
        *,
        adapt: bool = True,
        n_samples: int | None = None,
        generators: Generators = None,
    ) -> Iterator[EncoderOutput]:
        """Give every utterance weights of its own: W1 <- W1 + (alpha / rank) B A.

            with model.adapted(batch) as encoded:
                decoded = model.backbone.generate(encoded)

        The weights hold inside the block and in this thread alone.

        Args:
            batch: with encoder states (and embeddings) or mel.
            adapt: False leaves the backbone as it is.
            n_samples: posterior samples of each utterance, adjacent rows; None for the mean.
            generators: of the samples, one for each row; None is torch's own.
        Yields:
            The states to decode from (n_row, n_states, d_model), n_row n_utt or n_utt * n_samples.
        Raises:
            ConfigError: samples of a source that gives points.
        """
        if not adapt:
            yield self.encode(batch)
            return
        # Of samples the embeddings also tell how many utterances there are.
        emb, encoded = self._conditioning(batch) if n_samples is None else self.embed(batch)
        factors = self.factors(emb, self.groups(batch), n_samples=n_samples, generators=generators)
        if n_samples is not None:
            batch = replace(batch, adapted=None)  # which is by the mean
        with self.adapted_with(factors, batch, encoded, n_samples or 1) as states:
            yield states

    @contextmanager
    def adapted_with(
        self,
        factors: LoRAFactors | GaussianFactors,
        batch: Batch,
        encoded: EncoderOutput,
        n_samples: int = 1,
    ) -> Iterator[EncoderOutput]:
        """Adapt with factors that are at hand; yields the states as `adapted` does.

        Args:
            factors: of n_utt or n_utt * n_samples rows, or a distribution: in training noisy
                samples of it, else its mean.
            batch: with mel where the encoder is a target.
            encoded: the unadapted states (n_utt, n_states, d_model).
            n_samples: rows of each utterance.
        Raises:
            ShapeError: the encoder is a target, and the batch has no mel.
        """
        whisper, n_rows = self.backbone.whisper, batch.n_utt * n_samples
        block: AbstractContextManager[object]
        if not isinstance(factors, GaussianFactors):
            block = lora.using(whisper, factors)
        elif not self.training:
            block = lora.using(whisper, factors.mean())
        elif factors.noise == "plain":
            drawn = factors.sample(None, n_samples, n_utt=batch.n_utt)
            block = lora.using(whisper, drawn)
        else:
            block = using_noise(whisper, factors, n_rows)
        with block:
            yield self._states(batch, encoded, n_samples)

    def _states(self, batch: Batch, encoded: EncoderOutput, n_samples: int) -> EncoderOutput:
        """Return the states to decode from: a second, adapted pass where the encoder is a target.

        Encoder targets bypass every cache of final states.
        """
        if not self.adapts_encoder:
            if n_samples == 1:
                return encoded
            states, lengths = (_rows(t, n_samples) for t in (encoded.states, encoded.lengths))
            sounding = encoded.sounding
            sounding = None if sounding is None else _rows(sounding, n_samples)
            return EncoderOutput(states, lengths, sounding=sounding)
        if batch.adapted is not None:
            return batch.adapted
        if batch.mel is None:
            raise ShapeError("encoder targets need mel in the batch; cached states do not serve")
        attended = None if encoded.attended is None else _rows(encoded.attended, n_samples)
        mel, n_frames = _rows(batch.mel, n_samples), _rows(batch.n_frames, n_samples)
        return self.backbone.encode(mel, n_frames, attended=attended)

    def forward(self, batch: Batch) -> ELBO:
        """Score a batch with its own weights; everything trainable goes through here.

        In training a Gaussian source draws a sample for each utterance; in evaluation mode the mean
        is scored, so that the result does not depend on chance.

        Args:
            batch: with tokens, and either encoder states (and embeddings) or mel.
        Returns:
            The objective; `nll` is the mean over the scored tokens. What is not finite stays so.
        Raises:
            ShapeError: a batch without tokens, or with neither states nor mel.
        """
        if batch.tokens is None or batch.n_tokens is None:
            raise ShapeError("a batch needs tokens and n_tokens to be scored")
        emb, encoded = self._conditioning(batch)
        factors = self.source(emb, groups=list(self.groups(batch)) or None)
        with self.adapted_with(factors, batch, encoded) as states:
            among, place = self._vocabulary(batch)
            logprobs, scored = self.backbone.scored_logprobs(
                states, batch.tokens, batch.n_tokens, batch.n_prompt, among
            )
        nll = -logprobs.gather(1, place[batch.tokens[scored]][:, None]).mean()
        elbo = self._weighed(nll, factors, batch)
        if not self.objective.teacher or batch.teacher is None:
            return elbo
        told = TeacherTokens(place[batch.teacher.ids], batch.teacher.logprobs)
        weight = self.objective.teacher
        return replace(elbo, teacher=weight * from_teacher(logprobs, told, scored))

    def _vocabulary(self, batch: Batch) -> tuple[Tensor | None, Tensor]:
        """Return the tokens over which is normalised (None: all), and each token's place there."""
        n_vocab = int(self.backbone.whisper.config.vocab_size)
        place = torch.arange(n_vocab, device=self.backbone.device)
        if not (self.training and self.objective.negatives):
            return None, place
        assert batch.tokens is not None
        drawn = torch.randint(n_vocab, (self.objective.negatives,), device=place.device)
        wanted = [drawn, batch.tokens.flatten()]
        if batch.teacher is not None:
            wanted.append(batch.teacher.ids.flatten())
        among = torch.cat(wanted).unique()  # type: ignore[no-untyped-call]
        # A token that nobody asks for has no place; where one did, gathering it would fail.
        place = torch.full_like(place, n_vocab)
        place[among] = torch.arange(len(among), device=place.device)
        return among, place

    def _weighed(self, nll: Tensor, factors: LoRAFactors | GaussianFactors, batch: Batch) -> ELBO:
        """Put the objective together; penalties are of the mean factors."""
        goal, kl, penalty = self.objective, nll.new_zeros(()), nll.new_zeros(())
        if isinstance(factors, GaussianFactors):
            divergence = factors.kl(self.source.prior, goal.kl_reduction)  # type: ignore[arg-type]
            kl = divergence.to(nll.dtype)
            means = factors.mean()
        else:
            means = factors
        if goal.l2:
            penalty = penalty + goal.l2 * mean_squares(means)
        if goal.typical_penalty:
            penalty = penalty + goal.typical_penalty * self._typical_size(means, batch)
        return ELBO(
            nll,
            kl,
            beta=goal.beta * self.kl_share,
            penalty=penalty,
            nll_weight=goal.nll_weight,
        )

    def _typical_size(self, factors: LoRAFactors, batch: Batch) -> Tensor:
        """Return the relative size of delta W, mean over the typical utterances; 0 without one."""
        if len(batch.cohorts) != batch.n_utt:
            raise ShapeError(
                f"typical_penalty needs the cohort of each of {batch.n_utt} utterances; the batch "
                f"has {len(batch.cohorts)}"
            )
        typical = [i for i, cohort in enumerate(batch.cohorts) if cohort == "typical"]
        if not typical:
            return torch.zeros((), device=self.backbone.device)
        if not self._squared_norms:
            self._squared_norms = lora.squared_norms(self.backbone.whisper, factors)
        if not factors.shared:
            factors = factors.map(lambda t: t[:, typical])
        return relative_size(factors, self._squared_norms).mean()

    def budget(self) -> str:
        """Return one line: parameters of the source and per utterance, their shares, the cost."""
        line = self.source.budget(self.backbone.n_parameters)
        if self.adapts_encoder:
            line += "; encoder targets: cached states do not serve, each batch is encoded again"
        return line


class CachedRows(Protocol):
    """What decoding needs of a `hyperasr.cohorts.cache.Cache`."""

    @property
    def n_frames(self) -> Sequence[int]:
        """Real mel frames of each row, 10 ms each."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return rows as one batch."""


def token_limits(lengths: Tensor) -> Tensor:
    """Return how many tokens each utterance may have (n_utt,) int64.

    Args:
        lengths: encoder states of 20 ms of each utterance (n_utt,).
    """
    return (lengths * _TOKENS_PER_STATE).long() + _SPARE_TOKENS


@torch.inference_mode()
def decode(
    model: AdaptedWhisper,
    batch: Batch,
    search: SearchConfig | None = None,
    *,
    adapt: bool = True,
    language: str | Sequence[str] = "en",
    task: str = "transcribe",
    n_samples: int | None = None,
    seed: int = 0,
) -> Decoded:
    """Decode a batch, each utterance with the weights generated for it.

    Args:
        batch: with encoder states (and embeddings) or mel.
        search: greedy by default.
        adapt: False decodes with the frozen backbone alone.
        language: language of the prompt, or of each utterance's.
        task: ``transcribe``, or ``translate`` into English.
        n_samples: decode this many samples of each utterance's posterior; None its mean.
        seed: of the samples. Each follows from that, the utterance's id (its place in the batch
            where there are no ids) and its own number: batch mates change nothing.
    Returns:
        A row an utterance, or n_samples adjacent rows.
    Raises:
        ConfigError: samples of a source that gives points, or without adapting.
    """
    k, generators = n_samples or 1, None
    if n_samples is not None:
        if not adapt:
            raise ConfigError("the backbone has no posterior: n_samples needs adapt=True")
        drawn = torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed))
        keys = batch.ids or tuple(map(str, range(batch.n_utt)))
        generators = utterance_generators(int(drawn), keys, n_samples)
    if not isinstance(language, str):
        language = [one for one in language for _ in range(k)]
    limits = token_limits((batch.n_frames + 1) // 2).repeat_interleave(k)
    with model.adapted(batch, adapt=adapt, n_samples=n_samples, generators=generators) as states:
        return model.backbone.generate(
            states, search, language=language, task=task, max_tokens=limits
        )


def decode_tokens(
    model: AdaptedWhisper,
    cache: CachedRows,
    indices: Sequence[int] | None = None,
    *,
    batch_size: int = 64,
    search: SearchConfig | None = None,
    adapt: bool = True,
    embeddings: Tensor | None = None,
    n_samples: int | None = None,
    seed: int = 0,
) -> Decoded:
    """Decode rows of a cache; tokens and log-probabilities in the order of `indices`.

    Markers and timestamps are suppressed, as in transcribing.

    Args:
        cache: such as a `hyperasr.cohorts.cache.Cache`.
        indices: which rows; None for all.
        batch_size: rows decoded together, samples counted; the result does not depend on it.
        embeddings: other embeddings for these rows (n, d_spk), for controls.
        search, adapt, n_samples, seed: as in `decode`; of rows without an id samples follow from
            their index in the cache.
    Returns:
        A row for each index, or n_samples adjacent rows.
    Raises:
        ConfigError: as `decode`.
    """
    indices = list(range(len(cache))) if indices is None else list(indices)
    n_vocab = int(model.backbone.whisper.config.vocab_size)
    search = text_only(search or SearchConfig(), model.backbone.eos, n_vocab)
    k = n_samples or 1
    lengths = cache.n_frames
    order = sorted(range(len(indices)), key=lambda i: lengths[indices[i]])
    rows: list[tuple[Any, ...]] = [()] * (len(indices) * k)
    n_utt = max(1, batch_size // k)
    waiting = [order[start : start + n_utt] for start in range(0, len(order), n_utt)][::-1]
    while waiting:
        chosen = waiting.pop()
        batch = cache.batch([indices[i] for i in chosen])
        if not batch.ids:
            batch = replace(batch, ids=tuple(str(indices[i]) for i in chosen))
        if embeddings is not None:
            batch = replace(batch, speaker_emb=embeddings[chosen])
        try:
            decoded = decode(model, batch, search, adapt=adapt, n_samples=n_samples, seed=seed)
        except (RuntimeError, MemoryError) as error:
            n_rows, half = search.beam_size * k, (len(chosen) + 1) // 2
            if not out_of_memory(error):
                raise
            if len(chosen) == 1:
                what = f"an utterance with {n_rows} beams or samples"
                raise too_large(error, what) from error
            warnings.warn(
                f"{len(chosen)} utterances with {n_rows} beams or samples each do not fit into "
                f"memory; decoding {half}",
                stacklevel=2,
            )
            waiting += [chosen[half:], chosen[:half]]
            continue
        decoded_rows = zip(
            decoded.tokens, decoded.logprobs, decoded.finished, decoded.score, strict=True
        )
        for number, row in enumerate(decoded_rows):
            rows[chosen[number // k] * k + number % k] = row
    columns = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Decoded(*(tuple(column) for column in columns))


def _rows(tensor: Tensor, k: int) -> Tensor:
    """Repeat each utterance k times, copies adjacent."""
    return tensor if k == 1 else tensor.repeat_interleave(k, dim=0)
