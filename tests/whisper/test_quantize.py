"""Linear layers in 8 bits: near the original, the same in every batch, adapted in float32."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from hyperasr.adapters import lora
from hyperasr.errors import ConfigError
from hyperasr.types import EncoderOutput, LayerFactors, LoRAFactors
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.quantize import (
    Int8Linear,
    input_levels,
    join_linears,
    quantize_linears,
)


@pytest.mark.parametrize("bias", [True, False])
def test_every_output_is_within_the_rounding(bias: bool, generator: torch.Generator) -> None:
    linear = nn.Linear(48, 33, bias=bias).requires_grad_(False)
    x = torch.randn(3, 7, 48, generator=generator) * torch.logspace(-3, 3, 7)[:, None]
    found, expected = Int8Linear(linear)(x), linear(x)
    assert found.shape == expected.shape
    # Half a level of each factor in each of 48 products, and both at once.
    level_w = linear.weight.abs().amax(1) / 127
    level_x = x.abs().amax(-1, keepdim=True) / (input_levels() or 127)
    bound = 48 * (
        linear.weight.abs().amax(1) * level_x / 2
        + x.abs().amax(-1, keepdim=True) * level_w / 2
        + level_w * level_x / 4
    )
    assert bool(((found - expected).abs() <= bound + 1e-5).all())
    assert float((found - expected).abs().max() / expected.abs().max()) < 0.02


def test_a_row_does_not_depend_on_its_batch_mates(generator: torch.Generator) -> None:
    layer = Int8Linear(nn.Linear(32, 16))
    x = torch.randn(5, 3, 32, generator=generator)
    loud = torch.cat([x, 1e4 * torch.randn(2, 3, 32, generator=generator)])
    assert torch.equal(layer(loud)[:5], layer(x))


@pytest.mark.parametrize("bias", [True, False])
def test_a_single_row_gives_what_it_gives_among_others(
    bias: bool, generator: torch.Generator
) -> None:
    layer = Int8Linear(nn.Linear(96, 40, bias=bias))
    x = torch.randn(64, 96, generator=generator) * torch.logspace(-4, 4, 64)[:, None]
    for row, expected in zip(x, layer(x), strict=True):
        for shape in ((96,), (1, 96), (1, 1, 96)):
            found = layer(row.view(shape))
            assert found.shape == (*shape[:-1], 40)
            assert torch.equal(found.flatten(), expected)


@pytest.mark.parametrize("n_rows", [1, 3])
def test_rows_are_served_without_the_fused_kernel(
    n_rows: int, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    linear, x = nn.Linear(96, 40), torch.randn(n_rows, 96, generator=generator)
    fused = Int8Linear(linear)(x)
    monkeypatch.setattr("hyperasr.whisper.quantize.input_levels", lambda: 0)
    slow = Int8Linear(linear)
    assert torch.allclose(slow(x), fused, rtol=0, atol=0.04 * float(fused.abs().max()))
    assert torch.equal(slow(x)[0], slow(torch.cat([x, x]))[0])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_single_row_that_is_not_finite(value: float) -> None:
    layer, x = Int8Linear(nn.Linear(8, 4)), torch.ones(1, 8)
    x[0, 3] = value
    assert not bool(layer(x).isfinite().any())
    assert torch.equal(layer(torch.zeros(1, 8))[0], layer.bias)


def test_a_layer_that_has_been_used_can_be_copied(generator: torch.Generator) -> None:
    layers = [Int8Linear(nn.Linear(48, 16)) for _ in range(3)]
    x = torch.randn(1, 48, generator=generator)
    expected = [layer(x) for layer in layers]
    assert join_linears(layers) is not None
    keys = set(layers[0].state_dict())
    assert keys == {"int8", "scale", "bias"}
    for again in (copy.deepcopy(layers), pickle.loads(pickle.dumps(layers))):
        assert all(torch.equal(b(x), y) for b, y in zip(again, expected, strict=True))


def test_zeros_and_what_is_not_finite(generator: torch.Generator) -> None:
    linear = nn.Linear(8, 4)
    layer = Int8Linear(linear)
    assert torch.equal(layer(torch.zeros(2, 8)), linear.bias.expand(2, 4))
    bad = torch.zeros(2, 8)
    bad[0, 3] = torch.nan
    assert layer(bad).isnan().any(1).tolist() == [True, False], "a NaN must not become a number"
    linear.weight.data[0, 0] = torch.inf
    with pytest.raises(ConfigError, match="not finite"):
        Int8Linear(linear)


def test_the_decoder_in_int8(tiny_whisper: Any, generator: torch.Generator) -> None:
    backbone = Backbone(tiny_whisper, None, "trimmed")
    encoded = EncoderOutput(torch.randn(2, 9, 32, generator=generator), torch.tensor([9, 5]))
    tokens = torch.randint(4, 200, (2, 6), generator=generator)
    shapes = lora.target_shapes(tiny_whisper, lora.TARGET_NAMES)
    factors = LoRAFactors(
        {
            n: LayerFactors(
                0.1 * torch.randn(s.n_layer, 2, 2, s.d_in, generator=generator),
                0.1 * torch.randn(s.n_layer, 2, s.d_out, 2, generator=generator),
            )
            for n, s in shapes.items()
        }
    )

    def logits() -> tuple[torch.Tensor, torch.Tensor]:
        plain = backbone.logits(encoded, tokens)
        with lora.using(backbone.whisper, factors):
            return plain, backbone.logits(encoded, tokens) - plain

    with torch.no_grad():
        plain, change = logits()
        digest, n_parameters = backbone.fingerprint(), backbone.n_parameters
        backbone.reduced("int8")
        int8, int8_change = logits()
    linears = [m for m in tiny_whisper.modules() if isinstance(m, nn.Linear)]
    assert linears
    assert all(isinstance(m, Int8Linear) for m in linears)
    assert lora.target_shapes(tiny_whisper, lora.TARGET_NAMES) == shapes, "adapters find them all"
    assert (backbone.fingerprint(), backbone.n_parameters) == (digest, n_parameters)
    scale = float(plain.abs().max())
    assert 0 < float((int8 - plain).abs().max()) < 0.05 * scale
    assert float((int8_change - change).norm()) < 0.2 * float(change.norm())
    quantize_linears(tiny_whisper)
    assert [m for m in tiny_whisper.modules() if isinstance(m, nn.Linear)] == linears, "but once"


def test_the_adapter_itself_is_not_quantised(generator: torch.Generator) -> None:
    # With the frozen output taken off, what is left is the update, to float32's rounding.
    linear = nn.Linear(16, 12)
    layer = Int8Linear(linear)
    a, b = torch.randn(3, 2, 16, generator=generator), torch.randn(3, 12, 2, generator=generator)
    x = torch.randn(3, 5, 16, generator=generator)
    hook = lora._make_hook("x", a.mT, b.mT.contiguous(), 0.5, lora._Kept(3))
    with torch.no_grad():
        update = hook(layer, (x,), layer(x)) - layer(x)
    torch.testing.assert_close(update, 0.5 * x @ a.mT @ b.mT, rtol=1e-4, atol=1e-4)


def test_what_int8_cannot_do(tiny_whisper: Any, tmp_path: Any) -> None:
    backbone = Backbone(tiny_whisper, None, "trimmed").reduced("int8")
    with pytest.raises(ConfigError, match="for this process only"):
        backbone.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="int8 cannot become bfloat16; load them again"):
        backbone.reduced("bfloat16")
    assert backbone.reduced("int8") is backbone
    linear = tiny_whisper.model.decoder.layers[0].fc1
    before = linear.int8.clone()
    pair = LayerFactors(torch.ones(2, 1, 2, 32), torch.ones(2, 1, 128, 2))
    factors = LoRAFactors({"decoder.fc1": pair})
    message = r"target .decoder.fc1. are in 8 bits"
    with pytest.raises(ConfigError, match=message), lora.merged(tiny_whisper, factors):
        pass
    assert torch.equal(linear.int8, before)


def test_joined_layers_give_what_each_gives() -> None:
    parts = [Int8Linear(nn.Linear(48, n, bias=n != 32)) for n in (16, 32, 16)]
    joined = join_linears(parts)
    x = torch.randn(3, 5, 48)
    expected = torch.cat([part(x) for part in parts], dim=-1)
    assert torch.equal(joined(x), expected)
    assert joined.out_features == 64
    assert join_linears(parts) is joined, "made once"
    parts[2] = Int8Linear(nn.Linear(48, 16))
    again = join_linears(parts)
    assert torch.equal(again(x), torch.cat([part(x) for part in parts], dim=-1))


def test_layers_that_must_be_called_are_not_joined() -> None:
    parts: list[nn.Linear] = [Int8Linear(nn.Linear(48, 16)) for _ in range(3)]
    assert join_linears([*parts[:2], nn.Linear(48, 16)]) is None
    assert join_linears([Int8Linear(nn.Linear(1_024, 4)) for _ in range(3)]) is None
    for hang in (parts[1].register_forward_hook, parts[1].register_forward_pre_hook):
        handle = hang(lambda *given: None)
        assert join_linears(parts) is None
        handle.remove()
    assert join_linears(parts) is not None
