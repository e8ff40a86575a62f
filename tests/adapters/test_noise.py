"""Noise on activations against factors drawn one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyperasr.adapters import lora
from hyperasr.adapters.noise import using_noise
from hyperasr.adapters.posterior import GaussianFactors, LogSigma
from hyperasr.errors import ShapeError
from hyperasr.types import LayerFactors, LoRAFactors

RANK, NAMES = 3, ("decoder.fc1", "encoder.v_proj")


def posterior(
    whisper: nn.Module, noise: str, of: str = "both", names: tuple[str, ...] = NAMES
) -> GaussianFactors:
    g = torch.Generator().manual_seed(0)
    pairs, deviations = {}, {}
    for name, s in lora.target_shapes(whisper, names).items():
        a = 0.3 * torch.randn(s.n_layer, 1, RANK, s.d_in, generator=g)
        b = 0.3 * torch.randn(s.n_layer, 1, s.d_out, RANK, generator=g)
        pairs[name] = LayerFactors(a, b)
        deviations[name] = LogSigma(
            torch.randn(a.shape, generator=g) * 0.3 - 1.5 if of != "B" else None,
            torch.randn(b.shape, generator=g) * 0.3 - 1.5 if of != "A" else None,
        )
    return GaussianFactors(LoRAFactors(pairs, 0.7, shared=True), deviations, noise=noise)


def layer(whisper: Any) -> nn.Linear:
    return whisper.model.decoder.layers[1].fc1


def inputs(n_utt: int, n_token: int = 2) -> Tensor:
    return torch.randn(n_utt, n_token, 32, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("of", ["A", "B", "both"])
def test_mean_and_variance_are_those_of_drawn_factors(tiny_whisper: Any, of: str) -> None:
    n, found = 8_000, posterior(tiny_whisper, "flipout", of, NAMES[:1])
    x = inputs(1).expand(n, -1, -1)
    with torch.no_grad():
        # Utterances of a block share the size of the noise: many blocks.
        torch.manual_seed(1)
        blocks = []
        for _ in range(1000):
            with using_noise(tiny_whisper, found, 4):
                blocks.append(layer(tiny_whisper)(x[:4]))
        ours = torch.cat(blocks)
        drawn = found.sample(n_samples=n)["decoder.fc1"]
        h = torch.einsum("ntd,nrd->ntr", x, drawn.A[1])
        slow = layer(tiny_whisper)(x) + 0.7 * torch.einsum("ntr,nor->nto", h, drawn.B[1])
    error = (ours.var(0) / len(ours) + slow.var(0) / n).sqrt()
    assert ((ours.mean(0) - slow.mean(0)) / error).abs().max() < 5
    # The product of two Gaussians has heavier tails than one, so its variance is known less well.
    assert (ours.var(0) / slow.var(0) - 1).abs().mean() < 0.08
    assert (ours.var(0) / slow.var(0) - 1).abs().max() < 0.4


def test_flipout_is_one_set_of_weights_for_each_utterance(tiny_whisper: Any) -> None:
    """Two tokens of an utterance meet the same weights: the update is linear in its input."""
    found = posterior(tiny_whisper, "flipout")
    x = inputs(3, 4)
    mixed = torch.cat([x, (2 * x[:, :1] - 3 * x[:, 1:2])], dim=1)
    with torch.no_grad():
        plain = layer(tiny_whisper)(mixed)
        with using_noise(tiny_whisper, found, 3):
            update = layer(tiny_whisper)(mixed) - plain
            again = layer(tiny_whisper)(mixed) - plain
    torch.testing.assert_close(update[:, 4], 2 * update[:, 0] - 3 * update[:, 1], atol=1e-4, rtol=0)
    assert torch.equal(update, again), "kept for the length of the block"
    same = inputs(1).expand(3, -1, -1)
    with torch.no_grad(), using_noise(tiny_whisper, found, 3):
        out = layer(tiny_whisper)(same)
    assert not torch.allclose(out[0], out[1], atol=1e-3), "utterances have samples of their own"


def test_a_b_of_zero_without_noise_changes_no_bit(tiny_whisper: Any) -> None:
    found = posterior(tiny_whisper, "flipout", of="A")
    for pair in found.mu.targets.values():
        pair.B.zero_()
    x = inputs(2)
    with torch.no_grad():
        plain = layer(tiny_whisper)(x)
        with using_noise(tiny_whisper, found, 2):
            assert torch.equal(layer(tiny_whisper)(x), plain)


def test_gradients_are_finite_and_reach_everything(tiny_whisper: Any) -> None:
    found = posterior(tiny_whisper, "flipout")
    leaves = [
        t.requires_grad_()
        for name in ("decoder.fc1",)
        for t in (
            found.mu[name].A,
            found.mu[name].B,
            found.log_sigma[name].A,
            found.log_sigma[name].B,
        )
        if t is not None
    ]
    x = inputs(2)
    x[1] = 0  # padding, whose noise has no width
    with using_noise(tiny_whisper, found, 2):
        layer(tiny_whisper)(x).square().sum().backward()
    assert len(leaves) == 4
    for leaf in leaves:
        assert bool(leaf.grad.isfinite().all())
        assert bool(leaf.grad[1].any())


def test_rows_of_an_utterance_are_adjacent_and_hooks_go(tiny_whisper: Any) -> None:
    found = posterior(tiny_whisper, "flipout")
    x = inputs(2).repeat_interleave(3, dim=0)
    with torch.no_grad():
        plain = layer(tiny_whisper)(x)
        with using_noise(tiny_whisper, found, 2):
            out = layer(tiny_whisper)(x)
            with pytest.raises(ShapeError, match="5 rows for factors of 2"):
                layer(tiny_whisper)(x[:5])
        torch.testing.assert_close(out[0], out[2])
        assert not torch.allclose(out[0], out[3], atol=1e-3)
        assert torch.equal(layer(tiny_whisper)(x), plain)
