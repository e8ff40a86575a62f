"""Whisper's decoder as a step function, and the masks that keep padding out of everything."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hyperasr.errors import ShapeError
from hyperasr.types import EncoderOutput

__all__ = ["DecoderStep", "attention_bias", "zero_padding"]


class DecoderStep:
    """Whisper's decoder as a step function over a fixed batch of rows.

    Calls the decoder's layers directly, because the published forward takes no mask for the
    encoder states.

    Args:
        whisper: the model.
        encoded: encoder states of n_utt utterances.
        rows_per_utt: beams of each utterance; rows of one utterance are adjacent.
        cached: keep keys and values between calls.
    """

    def __init__(
        self, whisper: Any, encoded: EncoderOutput, rows_per_utt: int = 1, cached: bool = True
    ) -> None:
        from transformers import DynamicCache, EncoderDecoderCache

        self.whisper = whisper
        self.decoder = whisper.model.decoder
        self.states = encoded.states.repeat_interleave(rows_per_utt, dim=0)
        lengths = encoded.lengths.repeat_interleave(rows_per_utt, dim=0)
        self.bias = attention_bias(lengths, self.states.shape[1], self.states.dtype)
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if cached else None
        self.n_past = 0

    def all_logits(self, tokens: Tensor) -> Tensor:
        """Return the logits after each of the given tokens (n_rows, n_new, n_vocab)."""
        return self.whisper.proj_out(self.hidden(tokens))

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the logits after the last of the given tokens (n_rows, n_vocab)."""
        return self.whisper.proj_out(self.hidden(tokens)[:, -1])

    def reorder(self, rows: Tensor) -> None:
        """Let row i go on from what was row `rows[i]`, always within one utterance."""
        assert self.cache is not None
        self.cache.self_attention_cache.reorder_cache(cast(torch.LongTensor, rows))

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return the decoder's last states of the given tokens (n_rows, n_new, d_model)."""
        decoder, n_new = self.decoder, tokens.shape[1]
        positions = decoder.embed_positions.weight[self.n_past : self.n_past + n_new]
        if positions.shape[0] < n_new:
            raise ShapeError(
                f"{self.n_past + n_new} tokens are more than the decoder's "
                f"{decoder.max_target_positions} positions"
            )
        hidden = decoder.embed_tokens(tokens) + positions
        hidden = F.dropout(hidden, p=decoder.dropout, training=decoder.training)
        # Without a mask the self-attention is causal, also for one new token after a cache.
        for layer in decoder.layers:
            hidden = layer(
                hidden,
                attention_mask=None,
                encoder_hidden_states=self.states,
                encoder_attention_mask=self.bias,
                past_key_values=self.cache,
                use_cache=self.cache is not None,
            )
        self.n_past += n_new if self.cache is not None else 0
        return decoder.layer_norm(hidden)


def zero_padding(x: Tensor, lengths: Tensor, dim: int) -> Tensor:
    """Set everything beyond each row's length along `dim` to zero."""
    size = x.shape[dim]
    if bool((lengths >= size).all()):
        return x
    real = torch.arange(size, device=x.device) < lengths[:, None]
    # Filled, not multiplied: 0 * NaN is NaN.
    return x.masked_fill(~real.unsqueeze(1 if dim in (-1, x.dim() - 1) else -1), 0.0)


def attention_bias(lengths: Tensor, size: int, dtype: torch.dtype) -> Tensor | None:
    """Return (n_rows, 1, 1, size), 0 on real states and the lowest number on padding."""
    if bool((lengths >= size).all()):
        return None
    real = torch.arange(size, device=lengths.device) < lengths[:, None]
    bias = torch.zeros(real.shape, dtype=dtype, device=lengths.device)
    return bias.masked_fill(~real, torch.finfo(dtype).min)[:, None, None, :]
