"""Adapted generation: every utterance of a batch decoded with its own weights, or samples of them.

A posterior sample belongs to an utterance: it is drawn once, before the first token, and kept over
all steps and beams. Samples are rows of one batch; the encoder runs once an utterance.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from hyperasr.adapters.posterior import utterance_generators
from hyperasr.errors import ConfigError
from hyperasr.model import AdaptedWhisper
from hyperasr.types import Batch, Decoded
from hyperasr.util.memory import out_of_memory, too_large
from hyperasr.whisper.search import SearchConfig, text_only

# Fast speech has up to 24 characters a second, and a token is a character or more; a decoder that
# writes more than 30 a second is running away.
_TOKENS_PER_STATE = 0.6
_SPARE_TOKENS = 8


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
