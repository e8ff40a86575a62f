"""The frozen backbone as transformers itself decodes it: `generate` with its defaults.

No limit by the length of the audio, no guard: where a published Whisper runs away, so does this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hyperasr.types import Decoded
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.loading import quiet_transformers

__all__ = ["most_tokens", "plain_tokens"]

BATCH = 8  # a row that runs away makes all rows of its batch wait


def most_tokens(backbone: Backbone) -> int:
    """Return how many tokens of text `generate` writes at most."""
    n_prompt = len(backbone.prompt_ids())
    positions = int(backbone.whisper.config.max_target_positions)
    # It adds the prompt to the length of its configuration, and to transformers' own default.
    length = backbone.whisper.generation_config.max_length or 20
    return min(length, positions - n_prompt)


@torch.inference_mode()
def plain_tokens(
    backbone: Backbone, rows: Any, indices: Sequence[int], batch_size: int = BATCH
) -> Decoded:
    """Decode rows by transformers' `generate`; in the order of `indices`, without probabilities.

    Args:
        backbone: with the full audio context.
        rows: whose batches bring log-mel (n_utt, n_mels, 3000).
        indices: which.
        batch_size: rows decoded together.
    Returns:
        Tokens as `hyperasr.decode.decode_tokens` gives them; a row that is as long as it may be is
        not finished.
    """
    most = most_tokens(backbone)
    tokens: list[tuple[int, ...]] = []
    for start in range(0, len(indices), batch_size):
        batch = rows.batch(list(indices[start : start + batch_size]))
        with quiet_transformers():  # which would have an attention mask, and does not use it
            made = backbone.whisper.generate(input_features=batch.mel)
        for row in made.tolist():
            end = row.index(backbone.eos) if backbone.eos in row else len(row)
            tokens.append(tuple(row[:end]))
    finished = tuple(len(row) < most for row in tokens)
    return Decoded(tuple(tokens), tuple(() for _ in tokens), finished, (0.0,) * len(tokens))
