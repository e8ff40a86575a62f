"""Per-utterance low-rank updates of linear layers: every utterance of a batch has its own weights.

    W1 x + (alpha / rank) B (A x),    A (n_utt, rank, d_in), B (n_utt, d_out, rank)

W1 (d_out, d_in) is frozen and the same for all; row u of the batch x (n_utt, n_tokens, d_in) meets
A_u and B_u alone. Factors are data: they enter a model for the length of a
`with using(model, factors):` block, as forward hooks on exactly the target layers, and never become
parameters. LoRA: Hu et al., arXiv 2106.09685, equation 3; the batching over utterances is ours.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from hyperasr.errors import ConfigError, ShapeError
from hyperasr.types import LayerFactors, LoRAFactors
from hyperasr.util.closest import closest

W1 = "decoder.fc1"
"""The target of the hypernetwork's paper: the first matrix of every decoder layer's feed-forward
block, weight (d_ff, d_model)."""

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]
"""A forward hook: layer, inputs, output -> what the layer is to give instead."""

_FEED_FORWARD = ("fc1", "fc2")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")

# Where each matrix lies inside one Whisper layer of transformers.
_PATHS: dict[str, dict[str, str]] = {
    "encoder": {m: m for m in _FEED_FORWARD} | {m: f"self_attn.{m}" for m in _ATTENTION},
    "decoder": {m: m for m in _FEED_FORWARD}
    | {m: f"self_attn.{m}" for m in _ATTENTION}
    | {f"cross_{m}": f"encoder_attn.{m}" for m in _ATTENTION},
}

TARGET_NAMES: tuple[str, ...] = tuple(f"{part}.{m}" for part, ms in _PATHS.items() for m in ms)
"""Every name a target may have: `{encoder|decoder}.{matrix}`."""


@dataclass(frozen=True)
class TargetShape:
    """Size of one target: how many layers have it, and the sizes of each matrix."""

    n_layer: int
    d_in: int
    d_out: int

    def n_weights(self, rank: int) -> int:
        """Return the number of entries of A and B together, over all layers."""
        return self.n_layer * rank * (self.d_in + self.d_out)


def find_targets(whisper: nn.Module, names: Iterable[str]) -> dict[str, list[nn.Linear]]:
    """Find the linear layers that target names stand for.

    Args:
        whisper: a Whisper of transformers, or any module that contains one.
        names: such as `decoder.fc1`, `encoder.q_proj` (self-attention), `decoder.cross_v_proj`.

    Returns:
        The layers of each name, first layer first.

    Raises:
        ConfigError: a name is unknown, matches no layer, or there is no Whisper.
    """
    linears: dict[str, list[nn.Linear]] = {}
    for name in names:
        if name not in TARGET_NAMES:
            close = closest(name, TARGET_NAMES)
            raise ConfigError(f"unknown target {name!r}; did you mean {close!r}?")
        part, matrix = name.split(".")
        found = map(attrgetter(_PATHS[part][matrix]), layers_by_part(whisper)[part])
        linears[name] = [module for module in found if isinstance(module, nn.Linear)]
        if not linears[name]:
            raise ConfigError(f"target {name!r} matches no linear layer of this model")
    return linears


def target_shapes(whisper: nn.Module, names: Iterable[str]) -> dict[str, TargetShape]:
    """Return the sizes of each target, which is all an adapter source needs to know of a model.

    Raises:
        ConfigError: a name that is unknown or matches no layer.
    """
    return {
        name: TargetShape(len(linears), linears[0].in_features, linears[0].out_features)
        for name, linears in find_targets(whisper, names).items()
    }


@contextmanager
def using(model: nn.Module, factors: LoRAFactors) -> Iterator[dict[str, list[nn.Linear]]]:
    """Adapt every utterance of a batch with its own factors for the length of the block.

    Each target computes `W x + b + scaling * B_u A_u x` for the rows of utterance u. A batch has
    `n_utt * k` rows (k beams or samples), the rows of one utterance adjacent. Gradients reach the
    factors; blocks may be nested and add up. Only the thread that entered the block is adapted:
    others may run the same model meanwhile, unadapted or with factors of their own. With
    activation checkpointing call `backward` inside the block. Other forward hooks see the adapted
    outputs.

    Args:
        model: a Whisper of transformers, or any module that contains one.
        factors: A (n_layer, n_utt, rank, d_in), B (n_layer, n_utt, d_out, rank) of each target.

    Yields:
        The layers that are adapted, by target.

    Raises:
        ConfigError: a target that is unknown or matches no layer, no target, or another device.
        ShapeError: sizes that do not fit the model; inside the block, rows that are not a
            multiple of n_utt.
    """
    targets = checked_targets(model, factors)
    scaling, kept = float(factors.scaling), _Kept(factors.n_utt)
    hooks = {
        name: [
            _make_hook(name, a_t, b_t, scaling, kept)
            for a_t, b_t in _arrange(factors[name], linears[0].weight)
        ]
        for name, linears in targets.items()
    }
    with hooked(targets, hooks):
        _BLOCKS.entered.append(kept)
        try:
            yield targets
        finally:
            _BLOCKS.entered.remove(kept)


@dataclass(eq=False)
class _Kept:
    """Which utterances of a block's factors are left in the batch, None for all."""

    n_utt: int
    index: Tensor | None = None


class _Blocks(threading.local):
    """The blocks of `using` that this thread is in."""

    def __init__(self) -> None:
        self.entered: list[_Kept] = []


_BLOCKS = _Blocks()


@contextmanager
def dropping_rows(n_rows: int) -> Iterator[Callable[[Tensor], None] | None]:
    """Let a batch of `n_rows` lose rows inside the block, in this thread.

    Yields:
        What takes the rows that are left (n,) int64, counted among those that were left before; the
        factors of `using` follow. None where factors have neither one row a row nor one for all.
    """
    blocks = list(_BLOCKS.entered)
    if any(kept.n_utt not in (1, n_rows) for kept in blocks):
        yield None
        return
    before = [kept.index for kept in blocks]

    def keep(rows: Tensor) -> None:
        for kept in blocks:
            kept.index = rows if kept.index is None else kept.index[rows]

    try:
        yield keep
    finally:
        for kept, index in zip(blocks, before, strict=True):
            kept.index = index


def split_rows(n_rows: int, n_together: int) -> Iterator[Tensor]:
    """Yield the rows of a batch in parts, in order; the factors of `using` follow meanwhile.

    Args:
        n_rows: of the batch.
        n_together: rows of a part, at least 1.
    Yields:
        Rows (n,) int64; all at once where `dropping_rows` cannot follow.
    """
    for rows in torch.split(torch.arange(n_rows), n_together):
        with dropping_rows(n_rows) as keep:
            if keep is None or n_together >= n_rows:
                yield torch.arange(n_rows)
                return
            keep(rows)
            yield rows


@contextmanager
def hooked(
    targets: Mapping[str, list[nn.Linear]], hooks: Mapping[str, list[Hook]]
) -> Iterator[None]:
    """Put a hook on every layer of every target for the length of the block."""
    handles = []
    try:
        for name, linears in targets.items():
            for linear, hook in zip(linears, hooks[name], strict=True):
                # First in the row, so that the output is still ours alone to add to in place.
                handle = linear.register_forward_hook(of_this_thread(hook), prepend=True)
                handles.append(handle)
        yield
    finally:
        for handle in handles:
            handle.remove()


def of_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward hook that acts in the calling thread alone; elsewhere it does nothing.

    Autograd's own threads, in which checkpointed activations are computed again on a GPU, count as
    the calling one: they are none of Python's, which knows them as dummies.
    """
    owner = threading.get_ident()

    def guarded(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Any:
        # A compiler runs the hook of its own thread, and cannot ask which one that is.
        if not torch.compiler.is_compiling() and threading.get_ident() != owner:
            if not threading.current_thread().name.startswith("Dummy-"):
                return None
        return hook(module, args, output)

    return guarded


@torch.no_grad()
def squared_norms(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the squared Frobenius norm of each target layer's own weight: (n_layer,) by target.

    Raises:
        ConfigError: a target that is unknown or matches no layer.
    """
    return {
        name: torch.stack([m.weight.float().square().sum() for m in linears])
        for name, linears in find_targets(model, names).items()
    }


def squared_product_norm(A: Tensor, B: Tensor) -> Tensor:
    """Return ||B A||^2 (Frobenius) without building B A: <B^T B, A A^T>, two r x r matrices.

    Args:
        A: (..., rank, d_in).
        B: (..., d_out, rank).
    Returns:
        (...), of the same dtype.
    """
    return ((B.mT @ B) * (A @ A.mT)).sum(dim=(-2, -1))


def delta_weight(factors: LoRAFactors, name: str, layer: int) -> Tensor:
    """Return `scaling * B @ A` of one layer, in float32 or wider: (n_utt, d_out, d_in).

    For inspection, merging and tests: training and decoding never build it.
    """
    pair = factors[name]
    dtype = torch.promote_types(pair.A.dtype, torch.float32)
    return factors.scaling * (pair.B[layer].to(dtype) @ pair.A[layer].to(dtype))


@contextmanager
def merged(model: nn.Module, factors: LoRAFactors) -> Iterator[None]:
    """Add one utterance's (or shared) factors to the model's own weights inside the block.

    The sum is taken in float32 or wider and cast last. Afterwards the very same weights are there
    again, bit for bit.

    Args:
        model: a Whisper of transformers, or any module that contains one.
        factors: A (n_layer, 1, rank, d_in), B (n_layer, 1, d_out, rank) of each target.
    Raises:
        ShapeError: more than one utterance, or sizes that do not fit the model.
        ConfigError: unknown targets, weights in 8 bits, or a merged weight that is not finite.
    """
    targets = checked_targets(model, factors)
    if factors.n_utt != 1:
        raise ShapeError(
            f"factors are for {factors.n_utt} utterances; one model holds the weights of one"
        )
    changed = []
    for name, linears in targets.items():
        for layer, linear in enumerate(linears):
            if not isinstance(linear.weight, nn.Parameter):  # made anew for whoever asks
                raise ConfigError(
                    f"the weights of target {name!r} are in 8 bits, into which nothing can be "
                    "merged; load the model in float32, bfloat16 or float16"
                )
            delta = delta_weight(factors, name, layer)[0]
            weight = (linear.weight.to(delta.dtype) + delta).to(linear.weight.dtype).detach()
            if not torch.isfinite(weight).all():
                raise ConfigError(
                    f"merging target {name!r} gives weights in layer {layer} that are not finite "
                    f"in {linear.weight.dtype}; nothing was changed"
                )
            changed.append((linear.weight, weight))

    @torch.no_grad()
    def exchange() -> None:
        for parameter, other in changed:
            before = parameter.clone()
            parameter.copy_(other)
            other.copy_(before)

    exchange()
    try:
        yield
    finally:
        exchange()


def _make_hook(name: str, a_t: Tensor, b_t: Tensor, scaling: float, kept: _Kept) -> Hook:
    """Build the hook of one layer from A (n_utt, d_in, rank) and B (n_utt, rank, d_out).

    A decoder step of a small model lasts 2 ms, so the usual case is kept to two operations:
    float32 in and out, one row an utterance, no reshaping, the addition fused into the second.
    """
    dtype, all_a, all_b, index = a_t.dtype, a_t, b_t, kept.index

    def hook(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        nonlocal a_t, b_t, index
        if kept.index is not index:
            a_t, b_t, index = all_a, all_b, kept.index
            if index is not None and kept.n_utt > 1:
                a_t, b_t = a_t.index_select(0, index), b_t.index_select(0, index)
        x, n_utt = args[0], a_t.shape[0]
        x3, y3 = x, y
        if x.shape[0] != n_utt or x.dim() != 3:
            x3, y3 = by_utterance(name, x, n_utt), by_utterance(name, y, n_utt)
        if x.dtype is not dtype or y.dtype is not dtype:
            # In a wider type than the model's, rounded once, at the end.
            with torch.autocast(x.device.type, enabled=False):
                update = torch.bmm(x3.to(dtype), a_t)
                out = torch.baddbmm(y3.to(dtype), update, b_t, alpha=scaling).to(y.dtype)
        elif torch.is_grad_enabled():
            out = torch.baddbmm(y3, torch.bmm(x3, a_t), b_t, alpha=scaling)
        else:
            # The layer made y just now and, without gradients, nobody else holds it: adding in
            # place halves the memory traffic.
            out = y3.baddbmm_(torch.bmm(x3, a_t), b_t, alpha=scaling)
        return out if y3 is y else out.view(y.shape)

    return hook


def by_utterance(name: str, x: Tensor, n_utt: int) -> Tensor:
    """View (rows, ..., d) as (n_utt, rows of the utterance, d); its rows are adjacent."""
    rows = x.shape[0]
    if rows % n_utt:
        raise ShapeError(
            f"target {name!r} got {rows} rows for factors of {n_utt} utterances; "
            "give a multiple of it, the rows of one utterance adjacent"
        )
    d = x.shape[-1]
    return x.reshape(n_utt, x.numel() // (n_utt * d), d)


def _arrange(pair: LayerFactors, weight: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Lay factors out for the hooks, once a block: a list over layers of transposed A and B.

    Products run in float32, or in the model's type where that is wider. The transposed B is
    contiguous because a one-token product reads it row by row (three times faster than strided).
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    # Gradients may be wanted inside the block even where it is entered under no_grad.
    with torch.enable_grad():
        a_t = pair.A.to(dtype).contiguous().mT
        b_t = pair.B.to(dtype).mT.contiguous()
        return list(zip(a_t.unbind(0), b_t.unbind(0), strict=True))


def checked_targets(model: nn.Module, factors: LoRAFactors) -> dict[str, list[nn.Linear]]:
    """Return the layers that factors are for, having checked sizes and devices.

    Raises:
        ConfigError, ShapeError: as `using`.
    """
    if not factors.targets:
        raise ConfigError("factors have no target; nothing would be adapted")
    if factors.n_utt < 1:
        raise ShapeError("factors are for 0 utterances; an empty batch needs no adaptation")
    targets = find_targets(model, factors)
    for name, linears in targets.items():
        pair, weight = factors[name], linears[0].weight
        got = (pair.A.shape[0], pair.A.shape[3], pair.B.shape[2])
        want = {(len(linears), linear.in_features, linear.out_features) for linear in linears}
        if want != {got}:
            raise ShapeError(
                f"factors of target {name!r} have (n_layer, d_in, d_out) = {got}, the model has "
                f"{' and '.join(map(str, sorted(want)))}; generate them for this model"
            )
        for factor in (pair.A, pair.B):
            if factor.device != weight.device:
                raise ConfigError(
                    f"factors of target {name!r} are on {factor.device}, the model is on "
                    f"{weight.device}; move one of them"
                )
    return targets


def layers_by_part(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Return the layers of a Whisper's encoder and decoder, however deeply it is wrapped.

    Raises:
        ConfigError: there is no Whisper.
    """
    for module in model.modules():
        parts = {part: getattr(getattr(module, part, None), "layers", None) for part in _PATHS}
        layers = {p: m for p, m in parts.items() if isinstance(m, nn.ModuleList)}
        if len(layers) == len(_PATHS):
            return layers
    raise ConfigError(
        f"{type(model).__name__} holds no Whisper: no module with encoder.layers and "
        "decoder.layers; pass a transformers WhisperForConditionalGeneration"
    )
