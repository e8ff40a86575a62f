"""The hypernetwork: its start, its gradients, its budget, its conditioning."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperasr.adapters import HyperNet, HyperNetConfig, lora
from hyperasr.errors import ConfigError, ShapeError

D_SPK = 24
SMALL = HyperNetConfig(d_spk=D_SPK, rank=2, alpha=4.0, d_hidden=16, d_layer_emb=8, n_hidden=1)
FC1 = {"decoder.fc1": lora.TargetShape(2, 32, 128)}
TWO = FC1 | {
    "encoder.fc1": lora.TargetShape(3, 32, 128),
    "decoder.fc2": lora.TargetShape(2, 128, 32),
}


@pytest.fixture
def emb(generator: torch.Generator) -> Tensor:
    return torch.randn(4, D_SPK, generator=generator)


def adapted_logits(whisper: Any, factors: Any, n_utt: int = 4) -> Tensor:
    g = torch.Generator().manual_seed(3)
    states = torch.randn(n_utt, 6, 32, generator=g)
    tokens = torch.randint(4, 200, (n_utt, 5), generator=g)
    inputs = {"encoder_outputs": (states,), "decoder_input_ids": tokens, "use_cache": False}
    if factors is None:
        return whisper(**inputs).logits
    with lora.using(whisper, factors):
        return whisper(**inputs).logits


def train(net: HyperNet, emb: Tensor, wanted: Tensor, n_steps: int, lr: float = 0.03) -> float:
    """Fit the first layer's delta_weight of each utterance to a wanted matrix."""
    optimiser = torch.optim.Adam(net.parameters(), lr=lr)
    loss = torch.zeros(())
    for _ in range(n_steps):
        optimiser.zero_grad()
        delta = lora.delta_weight(net(emb), "decoder.fc1", 0)
        loss = (delta - wanted).square().mean()
        loss.backward()
        optimiser.step()
    return loss.item()


@pytest.mark.parametrize("rank", [1, 2, 5, 16, 32])
def test_step_0_is_the_backbone_bit_for_bit(tiny_whisper: Any, emb: Tensor, rank: int) -> None:
    config = replace(SMALL, rank=rank, dropout=0.3, emb_noise=0.5)
    targets = lora.target_shapes(tiny_whisper, ["decoder.fc1", "decoder.cross_q_proj"])
    net = HyperNet(config, targets)
    plain = adapted_logits(tiny_whisper, None)
    for mode in (True, False):
        assert torch.equal(adapted_logits(tiny_whisper, net.train(mode)(emb)), plain)
    pair = net(emb)["decoder.fc1"]
    assert pair.A.shape == (2, 4, rank, 32)
    assert pair.B.shape == (2, 4, 128, rank)
    assert net(emb).scaling == 4.0 / rank
    assert not net(emb).shared


def test_start_is_an_ordinary_lora_that_differs_between_layers(emb: Tensor) -> None:
    a = HyperNet(SMALL, FC1)(emb)["decoder.fc1"].A
    assert 0.9 * 32**-0.5 < a.abs().max() <= 32**-0.5
    assert not torch.allclose(a[0], a[1])
    assert torch.equal(a[:, 0], a[:, 3])


def test_every_parameter_gets_a_gradient_and_the_frozen_backbone_none(
    tiny_whisper: Any, emb: Tensor
) -> None:
    tiny_whisper.requires_grad_(False)
    targets = lora.target_shapes(tiny_whisper, ["decoder.fc1", "decoder.fc2"])
    net = HyperNet(SMALL, targets)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    # Head weights and B are zero at first, so what lies before them learns from the third step on.
    for _ in range(3):
        optimiser.zero_grad()
        adapted_logits(tiny_whisper, net(emb)).log_softmax(-1)[..., 7].mean().neg().backward()
        optimiser.step()
    idle = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert idle == []
    assert all(p.grad is None for p in tiny_whisper.parameters())


def test_utterances_come_to_differ(emb: Tensor) -> None:
    net = HyperNet(SMALL, FC1)
    g = torch.Generator().manual_seed(5)
    wanted = torch.randn(4, 128, 1, generator=g) * torch.randn(4, 1, 32, generator=g) * 0.2
    one_for_all = (wanted - wanted.mean(0)).square().mean()
    assert train(net, emb, wanted, 60) < 0.9 * one_for_all
    delta = lora.delta_weight(net(emb), "decoder.fc1", 0)
    assert (delta[0] - delta[1]).abs().max() > 0.05


def test_an_utterance_does_not_depend_on_its_batch_mates(emb: Tensor) -> None:
    net = HyperNet(SMALL, TWO)
    train(net, emb, torch.ones(4, 128, 32), 3)
    together, alone = net.eval()(emb), net.eval()(emb[2:3])
    for name in TWO:
        torch.testing.assert_close(together[name].A[:, 2:3], alone[name].A)
        torch.testing.assert_close(together[name].B[:, 2:3], alone[name].B)


def test_targets_and_layers_take_their_own_rows() -> None:
    """Each (target, layer) hears its own embedding: changing one row changes only that layer."""
    net = HyperNet(SMALL, TWO).eval()
    g = torch.Generator().manual_seed(7)
    for head in net.heads.values():
        head[-1].weight.data.normal_(generator=g)
    emb = torch.randn(2, D_SPK, generator=g)
    before = net(emb)
    net.layer_emb.data[3] += 1  # rows: decoder.fc1 0-1, encoder.fc1 2-4, decoder.fc2 5-6
    after = net(emb)
    changed = [
        (name, layer)
        for name in TWO
        for layer in range(TWO[name].n_layer)
        if not torch.equal(before[name].A[layer], after[name].A[layer])
    ]
    assert changed == [("encoder.fc1", 1)]


def test_budget_by_hand() -> None:
    config = HyperNetConfig(d_spk=10, rank=2, alpha=1.0, d_hidden=8, d_layer_emb=4, n_hidden=1)
    net = HyperNet(config, {"decoder.fc1": lora.TargetShape(3, 5, 7)})
    speaker = 10 * 8 + 8 + 2 * 8
    layers = 3 * 4
    join = 12 * 8 + 8
    block = 2 * 8 + (8 * 16 + 16) + (16 * 8 + 8)
    last_norm = 2 * 8
    n_out = 2 * (5 + 7)
    head_and_bias = 8 * n_out + 3 * n_out
    budget = net.budget(100_000)
    n_source = speaker + layers + join + block + last_norm + head_and_bias
    assert net.n_generated == 3 * n_out
    assert "\n" not in budget
    assert f"source {n_source:,} parameters" in budget
    assert "generates 72 per utterance (0.072 %)" in budget


def test_embeddings_are_standardised(generator: torch.Generator) -> None:
    net = HyperNet(SMALL, FC1)
    embs = torch.randn(500, D_SPK, generator=generator) * 3 + 100
    embs[:, 4] = 0.25
    net.fit_embedding(embs)
    torch.testing.assert_close(net.emb_mean, embs.mean(0))
    varying = torch.arange(D_SPK) != 4
    torch.testing.assert_close(net.emb_std[varying], embs.std(0, correction=0)[varying])
    assert net.emb_std[4] == 1
    # What the first layer hears does not change with offset and scale of the embedding.
    other = HyperNet(SMALL, FC1)
    other.fit_embedding(embs * 7 - 5)
    heard = net._trunk_states(embs[:3])
    torch.testing.assert_close(heard, other._trunk_states(embs[:3] * 7 - 5), atol=1e-3, rtol=0)


def test_blocks_are_standardised_like_the_whole(generator: torch.Generator) -> None:
    embs = torch.randn(500, D_SPK, generator=generator) * 3 + 100
    embs[:, 4] = 0.25
    whole, blocks = HyperNet(SMALL, FC1), HyperNet(SMALL, FC1)
    whole.fit_embedding(embs)
    blocks.fit_embedding(embs.split([1, 7, 200, 292]))
    torch.testing.assert_close(blocks.emb_mean, whole.emb_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(blocks.emb_std, whole.emb_std, rtol=1e-6, atol=0)


def test_noise_is_for_training_only(emb: Tensor) -> None:
    net = HyperNet(replace(SMALL, emb_noise=0.5), FC1)
    train(net, emb, torch.ones(4, 128, 32), 3)

    def heard() -> Tensor:
        return net(emb)["decoder.fc1"].B

    assert not torch.equal(heard(), heard())
    net.eval()
    assert torch.equal(heard(), heard())


def test_initial_values_follow_the_generator_alone() -> None:
    state = torch.get_rng_state()
    first, again = HyperNet(SMALL, TWO), HyperNet(SMALL, TWO)
    other = HyperNet(SMALL, TWO, torch.Generator().manual_seed(9))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
    assert not torch.equal(first.bias_A["decoder_fc1"], other.bias_A["decoder_fc1"])
    assert not torch.equal(first.join.weight, other.join.weight)


def test_generated_b_is_used_without_a_copy(emb: Tensor) -> None:
    assert HyperNet(SMALL, FC1)(emb)["decoder.fc1"].B.mT.is_contiguous()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank must be in 1..32, got 0"),
        ({"rank": 33}, "rank must be in 1..32, got 33"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"d_hidden": 0}, "d_hidden"),
        ({"d_spk": 0}, "d_spk"),
        ({"n_hidden": -1}, "n_hidden"),
        ({"dropout": 1.0}, "dropout"),
        ({"emb_noise": -0.1}, "emb_noise"),
    ],
)
def test_impossible_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **change)


def test_bad_embeddings(emb: Tensor) -> None:
    net = HyperNet(SMALL, FC1)
    with pytest.raises(ConfigError, match="speaker_emb"):
        net(None)
    with pytest.raises(ShapeError, match=r"\(4, 23\).*\(n_utt, 24\)"):
        net(emb[:, 1:])
    with pytest.raises(ShapeError, match="at least 2"):
        net.fit_embedding(emb[:1])
    with pytest.raises(ConfigError, match="finite"):
        net.fit_embedding(emb / 0)
    with pytest.raises(ConfigError, match="at least one target"):
        HyperNet(SMALL, {})


@pytest.mark.parametrize("width", [16, 128])
def test_a_step_moves_what_a_head_adds_about_as_far_as_the_bias_at_any_width(
    width: int, emb: Tensor
) -> None:
    config = replace(SMALL, d_hidden=width)
    net = HyperNet(config, FC1)
    bias_net = copy.deepcopy(net)
    scales = net.learning_rate_scales()
    assert set(scales) <= dict(net.named_parameters()).keys()
    groups = [
        {"params": [p], "lr": 0.01 * scales.get(name, 1.0)} for name, p in net.named_parameters()
    ]
    optimizer = torch.optim.Adam(groups)
    before = net(emb).targets["decoder.fc1"].B
    before.sum().backward()
    optimizer.step()
    with torch.no_grad():
        bias_net.bias_B["decoder_fc1"].copy_(net.bias_B["decoder_fc1"])
        by_bias = (bias_net(emb).targets["decoder.fc1"].B - before).abs().mean()
        by_head = (net(emb).targets["decoder.fc1"].B - before).abs().mean() - by_bias
    assert 0.02 * by_bias < by_head < 2 * by_bias
