"""Frozen linear layers in 8 bits on the CPU: a quarter of the memory, two to five times as fast.

Weights are whole numbers with one scale an output; each row of the input gets a scale of its own at
run time. With one scale a batch, as in torch's own dynamic quantisation, an utterance's result
would depend on its batch mates. Products of whole numbers are exact, so it does not.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hyperasr.errors import ConfigError

__all__ = ["Int8Linear", "join_linears", "quantize_linears"]

_LEVELS = 127  # int8 without -128, so that it is symmetric
_TINY = 1e-12
_JOINED = 512  # inputs; wider products take longer than what surrounds them


class Int8Linear(nn.Linear):
    """A frozen `nn.Linear` with 8-bit weights; it counts as a linear layer wherever one is sought.

    Args:
        linear: the layer to replace, on the CPU.
    Raises:
        ConfigError: its weights are not finite.
    """

    int8: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)  # without nn.Linear's own weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        if not bool(torch.isfinite(weight).all()):
            raise ConfigError("weights that are not finite cannot be quantised")
        scale = weight.abs().amax(dim=1).clamp_min(_TINY) / _LEVELS
        self.register_buffer("int8", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        bias = None if linear.bias is None else linear.bias.detach().float()
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weights in float32, made anew each time: writing into them changes nothing."""
        return self.int8 * self.scale[:, None]

    def forward(self, input: Tensor) -> Tensor:
        """Return x W^T + b of (..., in_features), in float32."""
        x = input.reshape(-1, self.in_features).float()
        row_scale = x.abs().amax(dim=1, keepdim=True).clamp_min(_TINY) / _LEVELS
        rows = (x / row_scale).round_().to(torch.int8)
        y = torch._int_mm(rows, self.int8.mT).float().mul_(self.scale).mul_(row_scale)
        if self.bias is not None:
            y += self.bias
        return y.view(*input.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Return what `print` shows of this layer."""
        return f"{self.in_features} -> {self.out_features}, int8"


def join_linears(linears: Sequence[nn.Linear]) -> Int8Linear | None:
    """Return one layer whose outputs are those of several, one after the other, to the last bit.

    For a single token of a small model, rounding the input and calling a product take longer than
    the product; joined, they happen once.

    Returns:
        None where nothing is won, or where the layers themselves must be called: they are not of 8
        bits, they are wide, or something hangs on one, such as an adapter.
    """
    if not all(type(linear) is Int8Linear for linear in linears):
        return None
    if any(linear._forward_hooks or linear._forward_pre_hooks for linear in linears):
        return None
    n_in = linears[0].in_features
    if n_in > _JOINED:
        return None
    joined = Int8Linear.__new__(Int8Linear)
    nn.Module.__init__(joined)
    joined.in_features, joined.out_features = n_in, sum(part.out_features for part in linears)
    for name in ("int8", "scale"):
        joined.register_buffer(name, torch.cat([getattr(part, name) for part in linears]))
    biases = [torch.zeros(p.out_features) if p.bias is None else p.bias.data for p in linears]
    joined.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
    return joined


def quantize_linears(model: nn.Module) -> int:
    """Replace every linear layer of a frozen model by one of 8 bits, in place.

    Convolutions, embeddings and normalisations stay as they are; so does an embedding whose weights
    a linear layer shares.

    Returns:
        How many layers were replaced.
    Raises:
        ConfigError: the model is not on the CPU, or this CPU's 8-bit products are not exact.
    """
    devices = {p.device.type for p in model.parameters()}
    if devices - {"cpu"}:
        raise ConfigError(f"int8 runs on the CPU, the model is on {devices}; use bfloat16 there")
    if not _exact():
        raise ConfigError("this CPU's 8-bit products are not exact; use float32 or bfloat16")
    linears = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and not isinstance(child, Int8Linear)
    ]
    for parent, name, linear in linears:
        setattr(parent, name, Int8Linear(linear))
    return len(linears)


@functools.cache
def _exact() -> bool:
    """Whether products of the largest values do not saturate, as they do on some older CPUs."""
    ones = torch.full((32, 256), _LEVELS, dtype=torch.int8)
    return bool((torch._int_mm(ones, -ones.mT) == -256 * _LEVELS**2).all())
