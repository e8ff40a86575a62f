"""Whisper's decoder step in memory of fixed size, for torch.compile and CUDA graphs.

One compiled program serves every batch: keys, values, encoder states, mask and the factors of the
speakers lie in tensors that are made once and written over. Other speakers are other numbers in
the same places, so nothing is compiled again.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hyperasr import lora
from hyperasr.errors import ShapeError
from hyperasr.types import EncoderOutput, LayerFactors, LoRAFactors

__all__ = ["CompiledStep"]


class CompiledStep:
    """A `hyperasr.search.Step` that is compiled once, for rows that are utterances.

    Use it as a context manager, in which the model is adapted::

        with CompiledStep(whisper, factors, n_states=500, n_positions=128) as step:
            for encoded, factors in batches:
                step.load(encoded, factors)
                decoded = greedy(step, prompt, eos=eos, config=config)

    The first token costs as many steps as the prompt has tokens. The model must not be used from
    elsewhere meanwhile.

    Args:
        whisper: a Whisper of transformers.
        factors: those of the first batch; others must have their sizes.
        n_states: most encoder states of an utterance.
        n_positions: most tokens, prompt included.
        options: of `torch.compile`, such as ``mode="reduce-overhead"`` for CUDA graphs.
    Raises:
        ShapeError: factors of one utterance for all, which have no row of their own.
    """

    def __init__(
        self,
        whisper: Any,
        factors: LoRAFactors,
        *,
        n_states: int,
        n_positions: int,
        **options: Any,
    ) -> None:
        if factors.shared:
            raise ShapeError("shared factors have no rows; merge them into the weights instead")
        self.whisper, self.decoder = whisper, whisper.model.decoder
        self.factors = LoRAFactors(
            {n: _slots(f) for n, f in factors.targets.items()}, factors.scaling
        )
        weight, n_utt = self.decoder.embed_positions.weight, factors.n_utt
        heads = self.decoder.layers[0].self_attn
        sizes = (len(self.decoder.layers), 2, n_utt, heads.num_heads)

        def room(n: int) -> Tensor:
            made = weight.new_zeros(*sizes, n, heads.head_dim, requires_grad=False)
            torch._dynamo.mark_static_address(made)
            return made

        self.tokens, self.states = room(n_positions), room(n_states)  # keys and values
        self.bias = weight.new_zeros(n_utt, 1, 1, n_states)
        self.position = torch.zeros(1, dtype=torch.int64, device=weight.device)
        self.n_past, self.n_positions = 0, n_positions
        self._compiled = torch.compile(self._step, fullgraph=True, dynamic=False, **options)
        self._open = ExitStack()

    def __enter__(self) -> CompiledStep:
        self._open.enter_context(torch.no_grad())
        self._open.enter_context(lora.using(self.whisper, self.factors))
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    def load(self, encoded: EncoderOutput, factors: LoRAFactors) -> None:
        """Begin with another batch: other states and other speakers.

        Raises:
            ShapeError: other sizes than those the step was made for.
        """
        n_utt, n, _ = encoded.states.shape
        if n_utt != self.states.shape[2] or n > self.states.shape[4]:
            raise ShapeError(
                f"{n_utt} utterances of {n} states do not fit into a step made for "
                f"{self.states.shape[2]} of at most {self.states.shape[4]}"
            )
        for name, pair in factors.targets.items():
            slots = self.factors[name]
            if (pair.A.shape, pair.B.shape) != (slots.A.shape, slots.B.shape):
                raise ShapeError(
                    f"factors of target {name!r} are {tuple(pair.A.shape)}, the step was made for "
                    f"{tuple(slots.A.shape)}"
                )
            slots.A.copy_(pair.A)
            slots.B.copy_(pair.B)
        for kept, layer in zip(self.states, self.decoder.layers, strict=True):
            attention = layer.encoder_attn
            for slot, linear in zip(kept, (attention.k_proj, attention.v_proj), strict=True):
                slot[:, :, :n] = _heads(linear(encoded.states), attention)
        real = torch.arange(self.bias.shape[-1], device=self.bias.device) < encoded.lengths[:, None]
        lowest = torch.finfo(self.bias.dtype).min
        self.bias.copy_(torch.where(real, 0.0, lowest)[:, None, None])
        self.n_past = 0

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the logits after the last of the given tokens (n_rows, n_vocab).

        Raises:
            ShapeError: more tokens than there is room for.
        """
        for column in tokens.unbind(1):
            if self.n_past == self.n_positions:
                raise ShapeError(f"there is room for {self.n_positions} tokens, prompt included")
            self.position.fill_(self.n_past)
            torch.compiler.cudagraph_mark_step_begin()
            logits: Tensor = self._compiled(column[:, None].contiguous())
            self.n_past += 1
        return logits

    def _step(self, tokens: Tensor) -> Tensor:
        decoder, position = self.decoder, self.position
        hidden = decoder.embed_tokens(tokens)
        hidden = hidden + decoder.embed_positions.weight.index_select(0, position)
        seen = torch.arange(self.n_positions, device=tokens.device) <= position
        for index, layer in enumerate(decoder.layers):
            x = layer.self_attn_layer_norm(hidden)
            attention = layer.self_attn
            keys, values = self.tokens[index, 0], self.tokens[index, 1]
            keys.index_copy_(2, position, _heads(attention.k_proj(x), attention))
            values.index_copy_(2, position, _heads(attention.v_proj(x), attention))
            hidden = hidden + _attended(attention, x, keys, values, seen[None, None, None])
            x = layer.encoder_attn_layer_norm(hidden)
            keys, values = self.states[index, 0], self.states[index, 1]
            hidden = hidden + _attended(layer.encoder_attn, x, keys, values, self.bias)
            x = layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden)))
            hidden = hidden + layer.fc2(x)
        logits: Tensor = self.whisper.proj_out(decoder.layer_norm(hidden)[:, -1])
        return logits


def _slots(pair: LayerFactors) -> LayerFactors:
    """Return memory for factors, laid out as `lora.using` reads it, so that it makes no copy."""
    a = torch.zeros_like(pair.A, dtype=torch.float32, memory_format=torch.contiguous_format)
    b = torch.zeros_like(pair.B.mT, dtype=torch.float32, memory_format=torch.contiguous_format)
    for slot in (a, b):
        torch._dynamo.mark_static_address(slot)
    return LayerFactors(a, b.mT)


def _heads(x: Tensor, attention: Any) -> Tensor:
    return x.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)


def _attended(attention: Any, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    query = _heads(attention.q_proj(x), attention)
    out = F.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=attention.scaling
    )
    attended: Tensor = attention.out_proj(out.transpose(1, 2).flatten(2))
    return attended
