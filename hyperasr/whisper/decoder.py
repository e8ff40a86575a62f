"""Whisper's decoder as a step function, and the mask that keeps padding out of attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hyperasr.errors import ShapeError
from hyperasr.types import EncoderOutput, real_mask
from hyperasr.whisper.quantize import Int8Linear, join_linears

_ROOM = 32  # positions that keys and values have room for at first; doubled when they are full


class DecoderStep:
    """Whisper's decoder as a step function over a fixed batch of rows.

    Calls the decoder's layers directly, because the published forward takes no mask for the
    encoder states. With a cache not even the layers are called but their parts (`_CachedLayer`),
    unless something hangs on a whole layer, such as a residual adapter.

    Args:
        whisper: the model.
        encoded: encoder states of n_utt utterances.
        rows_per_utt: beams of each utterance; rows of one utterance are adjacent.
        cached: keep keys and values between calls; such steps have no gradients and no dropout.
        watched: heads of cross-attention by layer whose place `looked` tells; None for none.
            Only with a cache, and where nothing hangs on a whole layer (see `watches`).
        screen: computes the logits of all calls but the first from the last states
            (n_rows, d_model); None is the whole product with the vocabulary.
    """

    def __init__(
        self,
        whisper: Any,
        encoded: EncoderOutput,
        rows_per_utt: int = 1,
        cached: bool = True,
        *,
        watched: Mapping[int, Sequence[int]] | None = None,
        screen: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.whisper, self.screen = whisper, screen
        self.decoder = whisper.model.decoder
        self.n_past = 0
        self.cached = cached
        self._cache: Any = None
        self._layers: list[_CachedLayer] = []
        if cached and not any(map(_is_watched, self.decoder.layers)):
            size, dtype = encoded.states.shape[1], encoded.states.dtype
            bias = attention_bias(encoded.lengths, size, dtype)
            heads = watched or {}
            self._layers = [
                _CachedLayer(layer, encoded.states, bias, rows_per_utt, heads.get(index, ()))
                for index, layer in enumerate(self.decoder.layers)
            ]
            return
        if cached:
            from transformers import DynamicCache, EncoderDecoderCache

            self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.states = encoded.states.repeat_interleave(rows_per_utt, dim=0)
        lengths = encoded.lengths.repeat_interleave(rows_per_utt, dim=0)
        self.bias = attention_bias(lengths, self.states.shape[1], self.states.dtype)

    @property
    def watches(self) -> bool:
        """Whether `looked` can tell."""
        return any(layer.heads for layer in self._layers)

    def looked(self) -> Tensor:
        """Return the encoder state that the watched heads looked at most for the last token.

        Returns:
            (n_rows,) int64, states of 20 ms.
        """
        weights = [layer.weights for layer in self._layers if layer.weights is not None]
        return torch.stack(weights).sum(0).argmax(dim=-1)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the logits (n_rows, n_vocab) after the last of the tokens (n_rows, n_new)."""
        logits_of = self.whisper.proj_out
        if self.screen is not None and self.n_past:
            logits_of = self.screen
        logits: Tensor = logits_of(self.hidden(tokens)[:, -1])
        return logits

    def reorder(self, rows: Tensor) -> None:
        """Let row i go on from what was row `rows[i]` (n_rows,), always within one utterance."""
        assert self.cached
        for layer in self._layers:
            layer.reorder(rows, self.n_past)
        if self._cache is not None:
            self._cache.self_attention_cache.reorder_cache(cast(torch.LongTensor, rows))

    @property
    def can_drop(self) -> bool:
        """Whether `keep` may be called: not where something hangs on a whole layer."""
        return bool(self._layers)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows (n,) int64 alone, one an utterance."""
        for layer in self._layers:
            layer.keep(rows)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return the decoder's last states of the given tokens, which a cached step remembers.

        Args:
            tokens: (n_rows, n_new) int64.
        Returns:
            (n_rows, n_new, d_model).
        Raises:
            ShapeError: more tokens in all than the decoder has positions.
        """
        decoder, n_new = self.decoder, tokens.shape[1]
        positions = decoder.embed_positions.weight[self.n_past : self.n_past + n_new]
        if positions.shape[0] < n_new:
            raise ShapeError(
                f"{self.n_past + n_new} tokens are more than the decoder's "
                f"{decoder.max_target_positions} positions"
            )
        hidden = decoder.embed_tokens(tokens) + positions
        hidden = self._by_parts(hidden) if self._layers else self._by_layers(hidden)
        self.n_past += n_new if self.cached else 0
        states: Tensor = decoder.layer_norm(hidden)
        return states

    @torch.no_grad()
    def _by_parts(self, hidden: Tensor) -> Tensor:
        n_past, n_new, mask = self.n_past, hidden.shape[1], None
        if n_past and n_new > 1:
            square = (n_new, n_past + n_new)
            mask = torch.ones(square, dtype=torch.bool, device=hidden.device).tril(n_past)
        for layer in self._layers:
            hidden = layer(hidden, n_past, mask)
        return hidden

    def _by_layers(self, hidden: Tensor) -> Tensor:
        decoder = self.decoder
        hidden = F.dropout(hidden, p=decoder.dropout, training=decoder.training)
        # Without a mask the self-attention is causal, also for one new token after a cache.
        for layer in decoder.layers:
            hidden = layer(
                hidden,
                attention_mask=None,
                encoder_hidden_states=self.states,
                encoder_attention_mask=self.bias,
                cache=self._cache,
                use_cache=self._cache is not None,
            )
        return hidden


class _CachedLayer:
    """One layer of the decoder for a few new tokens, by its parts, with keys and values kept.

    A new token of a small model takes a layer a fraction of a millisecond, much of which the
    published one spends on dispatch, on joining tensors, and on copies for every beam. Here keys
    and values lie in memory that is there beforehand, and those of an utterance's encoder states
    are there once for all its beams. Adapted matrices stay adapted: each is called as a module.

    Args:
        layer: the published layer.
        states: encoder states (n_utt, n_states, d_model).
        bias: of the attention to them, (n_utt, 1, 1, n_states), or None.
        rows_per_utt: rows of each utterance, adjacent.
        heads: of the attention to the states, whose weights for the last token are kept.
    """

    def __init__(
        self,
        layer: Any,
        states: Tensor,
        bias: Tensor | None,
        rows_per_utt: int,
        heads: Sequence[int] = (),
    ) -> None:
        self.layer, self.bias, self.heads = layer, bias, list(heads)
        self.weights: Tensor | None = None  # (n_rows, n_states), sum over these heads
        self.n_utt, self.n_rows = states.shape[0], states.shape[0] * rows_per_utt
        self.states: Tensor | None = states
        self.keys: Tensor | None = None  # (n_rows, room, n_heads, d_head), as values
        self.values: Tensor | None = None
        self.joined: Int8Linear | None = None

    def __call__(self, hidden: Tensor, n_past: int, mask: Tensor | None) -> Tensor:
        """Return the layer's output (n_rows, n_new, d_model); tokens see tokens by `mask`."""
        layer = self.layer
        hidden = hidden + self._to_tokens(layer.self_attn_layer_norm(hidden), n_past, mask)
        hidden = hidden + self._to_states(layer.encoder_attn_layer_norm(hidden))
        out: Tensor = layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden))))
        return hidden + out

    def reorder(self, rows: Tensor, n_past: int) -> None:
        """Let row i go on from what was row `rows[i]`."""
        for kept in (self.keys, self.values):
            if kept is not None:
                kept[:, :n_past] = kept[:, :n_past].index_select(0, rows)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows alone; not before the first step."""
        self.n_utt = self.n_rows = len(rows)
        names = ["keys", "values", "state_keys", "state_values"]
        for name in names + ["bias"] * (self.bias is not None):
            setattr(self, name, getattr(self, name).index_select(0, rows))

    def _to_tokens(self, x: Tensor, n_past: int, mask: Tensor | None) -> Tensor:
        attention = self.layer.self_attn
        shape = (x.shape[0], x.shape[1], attention.num_heads, attention.head_dim)
        linears = (attention.q_proj, attention.k_proj, attention.v_proj)
        if self.keys is None:  # not before the first step, as below
            self.joined = join_linears(linears)
        if self.joined is None:
            query, key, value = (linear(x).view(shape) for linear in linears)
        else:
            query, key, value = (part.view(shape) for part in self.joined(x).chunk(3, dim=-1))
        n = n_past + x.shape[1]
        self.keys = _with_room(self.keys, key, n_past)
        self.values = _with_room(self.values, value, n_past)
        self.keys[:, n_past:n] = key
        self.values[:, n_past:n] = value
        out = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            self.keys[:, :n].transpose(1, 2),
            self.values[:, :n].transpose(1, 2),
            attn_mask=mask,
            is_causal=n_past == 0 and n > 1,
            scale=attention.scaling,
        )
        mixed: Tensor = attention.out_proj(out.transpose(1, 2).reshape(x.shape))
        return mixed

    def _to_states(self, x: Tensor) -> Tensor:
        attention = self.layer.encoder_attn
        heads = (attention.num_heads, attention.head_dim)
        if self.states is not None:
            # Not before the first step, when whatever adapts these matrices is in its place. Each
            # head's in one piece: every step reads them all, and that is what it waits for.
            linears = (attention.k_proj, attention.v_proj)
            self.state_keys, self.state_values = (
                linear(self.states).unflatten(-1, heads).transpose(1, 2).contiguous()
                for linear in linears
            )
            self.states = None
        # The tokens of all rows of an utterance ask the same states: one query a token.
        query = attention.q_proj(x).view(self.n_utt, -1, *heads).transpose(1, 2)
        if self.heads and x.shape[1] == 1:
            # The weights are wanted, and a token's are few: no reason to compute them twice.
            weights = self._weights(query * attention.scaling, self.state_keys)
            out = weights.to(query.dtype) @ self.state_values
            self.weights = weights[:, self.heads].sum(1).flatten(0, 1)
        else:
            out = F.scaled_dot_product_attention(
                query,
                self.state_keys,
                self.state_values,
                attn_mask=self.bias,
                scale=attention.scaling,
            )
            if self.heads:
                last = query.unflatten(2, (-1, x.shape[1]))[:, self.heads, :, -1]
                weights = self._weights(last * attention.scaling, self.state_keys[:, self.heads])
                self.weights = weights.sum(1).flatten(0, 1)
        mixed: Tensor = attention.out_proj(out.transpose(1, 2).reshape(x.shape))
        return mixed

    def _weights(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return the attention of scaled queries (n_utt, n_heads, n, d) over the states' keys.

        Args:
            keys: of the same heads (n_utt, n_heads, n_states, d).
        Returns:
            (n_utt, n_heads, n, n_states) float32.
        """
        scores = query @ keys.mT
        scores = scores if self.bias is None else scores + self.bias
        return scores.softmax(dim=-1, dtype=torch.float32)


def alignment_heads(whisper: Any) -> dict[int, list[int]]:
    """Return the heads of cross-attention that time goes by, by layer.

    Those that the checkpoint names, else all heads of the last half of the layers.
    """
    named = getattr(whisper.generation_config, "alignment_heads", None)
    n_layers = int(whisper.config.decoder_layers)
    n_heads = int(whisper.config.decoder_attention_heads)
    if not named:
        return {layer: list(range(n_heads)) for layer in range(n_layers // 2, n_layers)}
    heads: dict[int, list[int]] = {}
    for layer, head in named:
        heads.setdefault(int(layer), []).append(int(head))
    return heads


def _with_room(kept: Tensor | None, new: Tensor, n_past: int) -> Tensor:
    """Return memory for `new` (n_rows, n_new, n_heads, d_head) after n_past kept ones."""
    need = n_past + new.shape[1]
    if kept is not None and kept.shape[1] >= need:
        return kept
    room = max(_ROOM, 2 * need)
    larger = new.new_empty(new.shape[0], room, *new.shape[2:])
    if kept is not None:
        larger[:, :n_past] = kept[:, :n_past]
    return larger


def _is_watched(layer: Any) -> bool:
    """Whether a hook sits on what `_CachedLayer` goes round: the layer or a whole attention."""
    around = (layer, layer.self_attn, layer.encoder_attn)
    return any(module._forward_hooks or module._forward_pre_hooks for module in around)


def attention_bias(lengths: Tensor, size: int, dtype: torch.dtype) -> Tensor | None:
    """Return what attention adds to its scores so that padding is never looked at.

    Args:
        lengths: real states (n_rows,).
        size: states of a row, padding with them.
        dtype: of the scores.
    Returns:
        (n_rows, 1, 1, size), 0 on real states and the lowest number on padding; None without any.
    """
    if bool((lengths >= size).all()):
        return None
    real = real_mask(lengths, size)
    bias = torch.zeros(real.shape, dtype=dtype, device=lengths.device)
    return bias.masked_fill(~real, torch.finfo(dtype).min)[:, None, None, :]
