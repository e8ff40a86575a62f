"""Cutting a batch of utterances into smaller ones that give the same gradient."""

from __future__ import annotations

from hyperasr.types import Batch


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
    return [(batch.select(rows), sum(scored[row] for row in rows) / total) for rows in parts]
