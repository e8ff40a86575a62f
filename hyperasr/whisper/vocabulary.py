"""Logits over Whisper's vocabulary, of which only the most probable are computed in float32.

With 51,864 tokens the last product takes most of a small decoder's time, though all but a few
tokens are out of the question. Here 8-bit products say which few they are, and these are computed
again in float32. The most probable token is that of the float32 product unless the rounding errs by
more than ten of its standard deviations, and rows in which that could matter are computed in
float32 as a whole; log-probabilities differ by what the rounding does to the sum over the tail.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hyperasr.whisper.quantize import Int8Linear, input_levels

_N_EXACT = 32  # tokens of a row that are computed in float32
_DEVIATIONS = 10.0
_LEAST = 8_192  # tokens; a smaller vocabulary takes no time


class ScreenedLogits:
    """The product of a decoder's last states with the vocabulary, exact where it matters.

    A scale for each input dimension makes states and weights about equally hard to round (Xiao et
    al. 2023, SmoothQuant, arXiv 2211.10438): the root of the last normalisation's gain.

    Args:
        weight: of the vocabulary (n_vocab, d_model), float32, on the CPU.
        gain: of the normalisation before it (d_model,).
    """

    def __init__(self, weight: Tensor, gain: Tensor) -> None:
        self.weight = weight.detach()
        size = gain.detach().abs()
        self.smooth = size.clamp_min(1e-3 * float(size.max()) or 1.0).sqrt()
        n_vocab, d_model = weight.shape
        linear = nn.Linear(d_model, n_vocab, bias=False, device="meta")
        linear.weight = nn.Parameter(self.weight, requires_grad=False)
        self.rough = Int8Linear(linear, self.smooth)
        # Mean squares of the weights and of what rounding adds to them; an eighth tells.
        weights = self.weight[::8] * self.smooth
        errors = self.rough.int8[::8] * self.rough.scale[::8, None] - weights
        self.squares = float(weights.square().mean()), float(errors.square().mean())

    def __call__(self, states: Tensor, ruled_out: Tensor) -> Tensor:
        """Return logits (n_rows, n_vocab) of states (n_rows, d_model).

        Args:
            states: float32.
            ruled_out: ids of tokens that nobody will take (n,), whose logits are -inf.
        """
        x = states / self.smooth
        logits = self.rough.product(x).index_fill_(1, ruled_out, -torch.inf)
        least, ids = logits.topk(_N_EXACT, dim=1)
        exact = torch.einsum("nkd,nd->nk", self.weight[ids], states)
        exact = exact.masked_fill(least == -torch.inf, -torch.inf)
        logits.scatter_(1, ids, exact)
        # NaN counts as unsure, so that it stays one.
        sure = exact.amax(dim=1) - least[:, -1] > _DEVIATIONS * self.deviation(x)
        if not bool(sure.all()):
            rows = (~sure).nonzero().flatten()
            whole = states[rows] @ self.weight.mT
            logits[rows] = whole.index_fill_(1, ruled_out, -torch.inf)
        return logits

    def deviation(self, x: Tensor) -> Tensor:
        """Return the standard deviation of what rounding does to a logit (n_rows,).

        Args:
            x: smoothed states (n_rows, d_model).
        """
        level = x.abs().amax(dim=1) / input_levels()
        of_states = x.shape[1] * level.square() / 12  # uniform between two levels
        return (of_states * self.squares[0] + x.square().sum(1) * self.squares[1]).sqrt()


def can_screen(whisper: Any) -> bool:
    """Whether `ScreenedLogits` may stand for a Whisper's product.

    Not off the CPU, in another precision than float32, without torch's 8-bit kernel, with a small
    vocabulary, or where something hangs on the product, such as an adapter.
    """
    linear = whisper.proj_out
    plain = type(linear) is nn.Linear and linear.bias is None
    if not plain or linear._forward_hooks or linear._forward_pre_hooks:
        return False
    weight = linear.weight
    fits = weight.device.type == "cpu" and weight.dtype == torch.float32
    return fits and weight.shape[0] >= _LEAST and input_levels() > 0
