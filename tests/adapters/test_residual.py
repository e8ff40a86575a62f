"""Residual adapters: identity at the start, the formula, where they sit, saving and loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hyperasr.adapters.residual import ResidualAdapters, ResidualConfig
from hyperasr.errors import CheckpointMismatch, ConfigError


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "input_features": torch.randn(2, 80, 3000, generator=generator),
        "decoder_input_ids": torch.randint(5, 190, (2, 6), generator=generator),
    }


@torch.no_grad()
def logits(whisper: Any) -> Tensor:
    return whisper(**inputs()).logits


def randomised(adapters: ResidualAdapters) -> ResidualAdapters:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in adapters.parameters():
            weight.normal_(0, 0.3, generator=generator)
    return adapters


@pytest.mark.parametrize("parts", [("decoder",), ("encoder",), ("encoder", "decoder")])
def test_the_start_is_the_backbone_bit_for_bit(parts: tuple[str, ...], tiny_whisper: Any) -> None:
    adapters = ResidualAdapters(ResidualConfig(4, parts), tiny_whisper)
    before = logits(tiny_whisper)
    with adapters.using(tiny_whisper):
        assert torch.equal(logits(tiny_whisper), before)
        randomised(adapters)
        assert not torch.allclose(logits(tiny_whisper), before, atol=1e-2)
    assert torch.equal(logits(tiny_whisper), before)
    assert adapters.adapts_encoder == ("encoder" in parts)
    # norm (2 d), down (k d + k), up (d k + d), in each of two layers.
    n = 2 * 32 + 4 * 32 + 4 + 32 * 4 + 32
    assert sum(p.numel() for p in adapters.parameters()) == 2 * len(parts) * n


def test_each_layer_is_followed_by_its_own_bottleneck(tiny_whisper: Any) -> None:
    adapters = randomised(ResidualAdapters(ResidualConfig(4, ("decoder",)), tiny_whisper))
    plain: list[Tensor] = []
    adapted: list[Tensor] = []
    layers = tiny_whisper.model.decoder.layers
    # What a layer gives before the adapter, and what the next one gets.
    before = [layer.register_forward_hook(lambda m, a, y: plain.append(y)) for layer in layers]
    with adapters.using(tiny_whisper):
        after = [layer.register_forward_hook(lambda m, a, y: adapted.append(y)) for layer in layers]
        logits(tiny_whisper)
    for handle in (*before, *after):
        handle.remove()
    for h, y, own in zip(plain, adapted, adapters.adapters["decoder"], strict=True):
        centred = h - h.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        normed = normed * own.norm.weight + own.norm.bias
        low = F.relu(normed @ own.down.weight.T + own.down.bias)
        torch.testing.assert_close(y, h + low @ own.up.weight.T + own.up.bias, rtol=0, atol=1e-4)
    assert len(plain) == 2


def test_the_encoder_is_adapted_without_gradients_as_with_them(random_backbone: Any) -> None:
    # Without them the layers are run in parts, on whose whole the adapters hang.
    adapters = randomised(
        ResidualAdapters(ResidualConfig(3, ("encoder",)), random_backbone.whisper)
    )
    mel = torch.randn(2, 80, 300, generator=torch.Generator().manual_seed(0))
    n_frames = torch.tensor([300, 170])
    with torch.no_grad():
        plain = random_backbone.encode(mel, n_frames).states
    with adapters.using(random_backbone.whisper):
        whole = random_backbone.encode(mel, n_frames).states
        with torch.no_grad():
            parts = random_backbone.encode(mel, n_frames).states
    torch.testing.assert_close(parts, whole)
    assert not torch.allclose(parts, plain, atol=1e-3)


def test_gradients_reach_the_adapters_alone(tiny_whisper: Any) -> None:
    adapters = ResidualAdapters(ResidualConfig(4), tiny_whisper.requires_grad_(False))
    with adapters.using(tiny_whisper):
        tiny_whisper(**inputs()).logits.square().mean().backward()
    moved = {n for n, p in adapters.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {f"adapters.decoder.{i}.up.{n}" for i in range(2) for n in ("weight", "bias")}
    assert all(p.grad is None for p in tiny_whisper.parameters())


def test_saved_and_loaded_they_do_the_same(tmp_path: Path, random_backbone: Any) -> None:
    whisper = random_backbone.whisper
    adapters = randomised(ResidualAdapters(ResidualConfig(3, ("encoder",)), whisper))
    fingerprint = random_backbone.fingerprint()
    adapters.save_pretrained(
        tmp_path / "a", backbone="b", fingerprint=fingerprint, training={"steps": 3}
    )
    assert random_backbone.fingerprint() == fingerprint
    loaded = ResidualAdapters.from_pretrained(tmp_path / "a", random_backbone)
    assert loaded.config == adapters.config
    for name, value in adapters.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    head = json.loads((tmp_path / "a" / "config.json").read_text())
    assert head["training"] == {"steps": 3}


def test_what_does_not_fit_is_refused(
    tmp_path: Path, random_backbone: Any, tiny_whisper: Any
) -> None:
    with pytest.raises(ConfigError, match=r"no readable config\.json"):
        ResidualAdapters.from_pretrained(tmp_path, random_backbone)
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(ConfigError, match="holds no residual adapters"):
        ResidualAdapters.from_pretrained(tmp_path, random_backbone)
    adapters = ResidualAdapters(ResidualConfig(3), random_backbone.whisper)
    adapters.save_pretrained(tmp_path / "a", backbone="b", fingerprint="0" * 16)
    with pytest.raises(CheckpointMismatch, match="belongs to the backbone 0000"):
        ResidualAdapters.from_pretrained(tmp_path / "a", random_backbone)
    adapters.save_pretrained(
        tmp_path / "b", backbone="b", fingerprint=random_backbone.fingerprint()
    )
    (tmp_path / "b" / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(CheckpointMismatch, match="missing or damaged"):
        ResidualAdapters.from_pretrained(tmp_path / "b", random_backbone)
    tiny_whisper.model.decoder.layers.append(tiny_whisper.model.decoder.layers[0])
    with pytest.raises(CheckpointMismatch, match=r"for 2 decoder layers of width 32.*has 3 of 32"):
        adapters.attach(tiny_whisper)
    with pytest.raises(ConfigError, match="holds no Whisper"):
        ResidualAdapters(ResidualConfig(3), torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"d_bottleneck": 0}, "d_bottleneck is 0"),
        ({"parts": ()}, "parts is"),
        ({"parts": ("decoder", "decoder")}, "each once"),
        ({"parts": ("middle",)}, "give encoder, decoder or both"),
    ],
)
def test_impossible_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ResidualConfig(**values)
