"""Frozen linear layers in 8 bits on the CPU: a quarter of the memory, and faster.

Weights are whole numbers with one scale an output; each row of the input gets a scale of its own at
run time. With one scale a batch, as in torch's own dynamic quantisation, an utterance's result
would depend on its batch mates. Products of whole numbers are exact, so it does not. torch's fused
kernel rounds and multiplies in one call. On CPUs without instructions for 8-bit products (VNNI) its
sums of two products have 16 bits, so the input has half as many levels there.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hyperasr.errors import ConfigError

_LEVELS = 127  # int8 without -128, so that it is symmetric
_FEWER = 63  # of the input, where sums of two products saturate
_TINY = 1e-12
_ROWS = 2_048  # of a vocabulary at once: several passes over all of it would leave the cache
_SMALL = 512  # width of a model; wider products take longer than what surrounds them


class Int8Linear(nn.Linear):
    """A frozen `nn.Linear` with 8-bit weights; it counts as a linear layer wherever one is sought.

    Args:
        linear: the layer to replace, on the CPU.
        columns: what its weights are multiplied by before they are rounded (in_features,); None
            is 1.
    Raises:
        ConfigError: its weights are not finite.
    """

    int8: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear, columns: Tensor | None = None) -> None:
        nn.Module.__init__(self)  # without nn.Linear's own weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weights = torch.split(linear.weight.detach(), _ROWS)
        parts = [_rounded(part if columns is None else part * columns) for part in weights]
        for name, rows in zip(("int8", "scale"), zip(*parts, strict=True), strict=True):
            self.register_buffer(name, torch.cat(rows))
        bias = None if linear.bias is None else linear.bias.detach().float()
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weights in float32, made anew each time: writing into them changes nothing."""
        return self.int8 * self.scale[:, None]

    def forward(self, input: Tensor) -> Tensor:
        """Return x W^T + b of (..., in_features), in float32."""
        x = input.reshape(-1, self.in_features).float()
        y = self.product(x)
        y = y if self.bias is None else y.add_(self.bias)
        return y.view(*input.shape[:-1], self.out_features)

    def product(self, x: Tensor) -> Tensor:
        """Return x W^T (n, out_features) of (n, in_features) float32, without the bias."""
        levels, packed = input_levels(), self._packed()
        row_scale = x.abs().amax(dim=1, keepdim=True).clamp_min(_TINY) / (levels or _LEVELS)
        if packed is not None:
            return _kernel()(x / row_scale, 1.0, levels + 1, packed).mul_(row_scale)
        rows = (x / row_scale).round_().to(torch.int8)
        return torch._int_mm(rows, self.int8.mT).float().mul_(row_scale).mul_(self.scale)

    def _packed(self) -> Any:
        """Return the weights as the fused kernel wants them, made once; None where it is not used.

        They are a second copy, kept out of the module's state. A wide model goes without where the
        product without the kernel is fast as well.
        """
        if "packed" not in self.__dict__:
            small = min(self.in_features, self.out_features) <= _SMALL
            fused = input_levels() == _FEWER or (input_levels() == _LEVELS and small)
            self.__dict__["packed"] = _pack(self) if fused else None
        return self.__dict__["packed"]

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy starts from: without what can be made again."""
        return {k: v for k, v in self.__dict__.items() if k not in ("packed", "joined_with")}


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights (n_out, n_in) as whole numbers int8, and the scale of each output (n_out,).

    Raises:
        ConfigError: they are not finite.
    """
    weight = weight.float()
    largest = weight.abs().amax(dim=1)
    if not bool(torch.isfinite(largest).all()):
        raise ConfigError("weights that are not finite cannot be quantised")
    scale = largest.clamp_min(_TINY) / _LEVELS
    return (weight / scale[:, None]).round_().to(torch.int8), scale


def join_linears(linears: Sequence[nn.Linear]) -> Int8Linear | None:
    """Return one layer whose outputs are those of several, one after the other, to the last bit.

    For a single token of a small model, rounding the input and calling a product take longer than
    the product; joined, they happen once. The first of the layers remembers the joined one.

    Returns:
        None where nothing is won, or where the layers themselves must be called: they are not of 8
        bits, they are wide, or something hangs on one, such as an adapter.
    """
    if not all(type(linear) is Int8Linear for linear in linears):
        return None
    if any(linear._forward_hooks or linear._forward_pre_hooks for linear in linears):
        return None
    n_in = linears[0].in_features
    if n_in > _SMALL:
        return None
    known = linears[0].__dict__.get("joined_with")
    if known is not None and all(a is b for a, b in zip(known[0], linears, strict=True)):
        return known[1]  # type: ignore[no-any-return]
    joined = Int8Linear.__new__(Int8Linear)
    nn.Module.__init__(joined)
    joined.in_features, joined.out_features = n_in, sum(part.out_features for part in linears)
    for name in ("int8", "scale"):
        joined.register_buffer(name, torch.cat([getattr(part, name) for part in linears]))
    biases = [torch.zeros(p.out_features) if p.bias is None else p.bias.data for p in linears]
    joined.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
    linears[0].__dict__["joined_with"] = (tuple(linears), joined)
    return joined


def quantize_linears(model: nn.Module) -> None:
    """Replace every linear layer of a frozen model by one of 8 bits, in place.

    Convolutions, embeddings and normalisations stay as they are; so does an embedding whose weights
    a linear layer shares.

    Raises:
        ConfigError: the model is not on the CPU, or this CPU's 8-bit products are not exact.
    """
    devices = {p.device.type for p in model.parameters()}
    if devices - {"cpu"}:
        raise ConfigError(f"int8 runs on the CPU, the model is on {devices}; use bfloat16 there")
    if not (input_levels() or _exact()):
        raise ConfigError("this CPU's 8-bit products are not exact; use float32 or bfloat16")
    linears = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and not isinstance(child, Int8Linear)
    ]
    for parent, name, linear in linears:
        setattr(parent, name, Int8Linear(linear))


@functools.cache
def _exact() -> bool:
    """Whether products of the largest values do not saturate, as they do on some older CPUs."""
    ones = torch.full((32, 256), _LEVELS, dtype=torch.int8)
    return bool((torch._int_mm(ones, -ones.mT) == -256 * _LEVELS**2).all())


@functools.cache
def _kernel() -> Callable[..., Tensor]:
    """Return torch's fused kernel itself: looking it up takes a quarter of a product's time."""
    operator: Any = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
    kernel: Callable[..., Tensor] = operator._op
    return kernel


def _pack(layer: Int8Linear) -> Any:
    """Return the weights for the fused kernel."""
    with warnings.catch_warnings():
        # Announced to go some day; then the slower way serves.
        warnings.filterwarnings("ignore", message=".*quantize.*deprecated.*")
        zeros = torch.zeros(layer.out_features, dtype=torch.int64)
        weight = torch._make_per_channel_quantized_tensor(layer.int8, layer.scale, zeros, 0)
    return torch.ops.quantized.linear_prepack(weight, None)


@functools.cache
def input_levels() -> int:
    """Return how many levels above 0 the fused kernel's input may have on this CPU without
    saturating: 127, 63, or 0 where torch does not have the kernel."""
    with torch.random.fork_rng(devices=[]):  # what is drawn elsewhere must not depend on this
        layer = Int8Linear(nn.Linear(256, 32, bias=False))
    layer.int8.fill_(-_LEVELS)
    layer.scale.fill_(1.0)
    for levels in (_LEVELS, _FEWER):
        largest = torch.full((1, 256), float(levels))
        try:
            found = _kernel()(largest, 1.0, levels + 1, _pack(layer))
        except (AttributeError, RuntimeError, NotImplementedError):
            return 0
        if bool((found == -256.0 * _LEVELS * levels).all()):
            return levels
    return 0
