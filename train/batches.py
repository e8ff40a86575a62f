"""Cutting a batch of utterances into smaller ones that give the same gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hyperasr.types import Batch, EncoderOutput

__all__ = ["pick_rows", "split_batch"]


def pick_rows(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return the utterances `rows` of a batch, without padding that only the others needed."""
    index = torch.tensor(rows, device=batch.n_frames.device)

    def own(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[index]

    def names(values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(values[row] for row in rows) if values else ()

    encoded = batch.encoded
    if encoded is not None:
        lengths = encoded.lengths[index]
        longest = int(lengths.max())
        moments = {layer: rows[index] for layer, rows in encoded.moments.items()}
        encoded = EncoderOutput(encoded.states[index, :longest], lengths, moments)
    tokens, n_tokens = own(batch.tokens), own(batch.n_tokens)
    if tokens is not None and n_tokens is not None:
        tokens = tokens[:, : int(n_tokens.max())]
    return replace(
        batch,
        n_frames=batch.n_frames[index],
        encoded=encoded,
        mel=own(batch.mel),
        speaker_emb=own(batch.speaker_emb),
        waveforms=None if batch.waveforms is None else tuple(batch.waveforms[r] for r in rows),
        tokens=tokens,
        n_tokens=n_tokens,
        ids=names(batch.ids),
        speakers=names(batch.speakers),
        cohorts=names(batch.cohorts),
    )


def split_batch(batch: Batch, n_parts: int) -> list[tuple[Batch, float]]:
    """Cut a batch into parts whose weighted losses add up to the loss of the whole.

    The weight of a part is its share of the scored tokens, because the cross-entropy is a mean over
    tokens. Terms that are a mean over utterances (the divergence of per-utterance posteriors) are
    thereby weighted by tokens too; terms that are alike for all utterances do not change.

    Returns:
        At most `n_parts` parts, utterances of similar length together; none is empty.
    """
    assert batch.n_tokens is not None
    scored = (batch.n_tokens - batch.n_prompt).tolist()
    order = sorted(range(batch.n_utt), key=lambda row: int(batch.n_frames[row]))
    size = -(-batch.n_utt // n_parts)
    parts = [order[first : first + size] for first in range(0, batch.n_utt, size)]
    total = sum(scored)
    return [(pick_rows(batch, rows), sum(scored[row] for row in rows) / total) for rows in parts]
