"""Adapted generation: every utterance of a batch decoded with its own weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hyperasr import lora
from hyperasr.model import HyperASR
from hyperasr.search import SearchConfig
from hyperasr.types import Batch, Decoded

__all__ = ["decode", "decode_rows", "token_limits"]

# Fast speech has up to 24 characters a second, and a token is a character or more; a decoder that
# writes more than 30 a second is running away.
_TOKENS_PER_STATE = 0.6
_SPARE_TOKENS = 8


def token_limits(lengths: Tensor) -> Tensor:
    """Return how many tokens each utterance may have, from its states of 20 ms (n_utt,)."""
    return (lengths * _TOKENS_PER_STATE).long() + _SPARE_TOKENS


@torch.inference_mode()
def decode(
    model: HyperASR,
    batch: Batch,
    search: SearchConfig | None = None,
    *,
    adapt: bool = True,
    language: str = "en",
) -> Decoded:
    """Decode a batch, each utterance with the weights generated for it.

    Args:
        model: the model.
        batch: with encoder states (and embeddings) or mel.
        search: greedy by default.
        adapt: False decodes with the frozen backbone alone.
        language: language of the prompt.
    """
    if adapt:
        emb, encoded = model.embed(batch)
        with lora.using(model.backbone.whisper, model.factors(emb, model.groups(batch))):
            states = model.adapted_states(batch, encoded)
            return _generate(model, batch, states, search, language)
    return _generate(model, batch, model.encode(batch), search, language)


def _generate(
    model: HyperASR, batch: Batch, encoded: Any, search: SearchConfig | None, language: str
) -> Decoded:
    lengths = (batch.n_frames + 1) // 2
    return model.backbone.generate(
        encoded, search, language=language, max_tokens=token_limits(lengths)
    )


def decode_rows(
    model: HyperASR,
    cache: Any,
    indices: Sequence[int] | None = None,
    *,
    batch_size: int = 64,
    search: SearchConfig | None = None,
    adapt: bool = True,
    embeddings: Tensor | None = None,
) -> list[str]:
    """Decode rows of a cache; texts in the order of `indices`.

    Args:
        model: the model.
        cache: a `hyperasr.cache.Cache`.
        indices: which rows; None for all.
        batch_size: utterances decoded together; the result does not depend on it.
        search: greedy by default.
        adapt: False decodes with the backbone alone.
        embeddings: other embeddings for these rows (n, d_spk), for controls.
    """
    indices = list(range(len(cache))) if indices is None else list(indices)
    lengths = cache.n_frames
    order = sorted(range(len(indices)), key=lambda k: lengths[indices[k]])
    texts = [""] * len(indices)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = cache.batch([indices[k] for k in chosen])
        if embeddings is not None:
            batch = replace(batch, speaker_emb=embeddings[chosen])
        decoded = decode(model, batch, search, adapt=adapt)
        for k, tokens in zip(chosen, decoded.tokens, strict=True):
            texts[k] = model.backbone.text(tokens)
    return texts
