"""The Bayesian head: its start, its deviations, its gradients, its budget."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperasr.adapters import BayesHyperNet, BayesHyperNetConfig, HyperNet, lora
from hyperasr.adapters.posterior import utterance_generators
from hyperasr.adapters.priors import LOG_SIGMA_RANGE
from hyperasr.errors import ConfigError

D_SPK = 24
SMALL = BayesHyperNetConfig(
    d_spk=D_SPK, rank=2, alpha=4.0, d_hidden=16, d_layer_emb=8, n_hidden=1, sigma_start=0.01
)
TWO = {"decoder.fc1": lora.TargetShape(2, 32, 128), "encoder.fc2": lora.TargetShape(3, 128, 32)}


@pytest.fixture
def emb(generator: torch.Generator) -> Tensor:
    return torch.randn(4, D_SPK, generator=generator)


@pytest.mark.parametrize("bayesian", ["A", "B", "both"])
def test_start(emb: Tensor, bayesian: str) -> None:
    config = replace(SMALL, bayesian=bayesian)
    net = BayesHyperNet(config, TWO)
    posterior, point = net(emb), HyperNet(config, TWO)(emb)
    for name in TWO:
        assert torch.equal(posterior.mean()[name].A, point[name].A), "as the point hypernetwork"
        assert not posterior.mean()[name].B.any()
        for matrix in ("A", "B"):
            log_sigma = getattr(posterior.log_sigma[name], matrix)
            if bayesian not in (matrix, "both"):
                assert log_sigma is None
                continue
            torch.testing.assert_close(log_sigma.exp(), torch.full_like(log_sigma, 0.01))
    drawn = posterior.sample(utterance_generators(0, "abcd"))
    delta = lora.delta_weight(drawn, "decoder.fc1", 0)
    if bayesian == "A":
        assert not delta.any(), "the noise of A alone moves nothing while B is zero"
    else:
        assert 0 < delta.abs().max() < 0.1, "small noise"


def test_deviations_follow_the_utterance_and_its_layer(emb: Tensor) -> None:
    net = BayesHyperNet(replace(SMALL, bayesian="both"), TWO).eval()
    g = torch.Generator().manual_seed(1)
    for head in net.sigma_heads.parameters():
        head.data.normal_(0, 0.3, generator=g)
    log_sigma = net(emb).log_sigma["decoder.fc1"].A
    assert not torch.isclose(log_sigma[:, 0], log_sigma[:, 1]).all(), "utterances"
    assert not torch.isclose(log_sigma[0], log_sigma[1]).all(), "layers"
    alone = net(emb[2:3]).log_sigma["decoder.fc1"].A
    torch.testing.assert_close(alone, log_sigma[:, 2:3])


def test_deviations_stay_in_their_range(emb: Tensor) -> None:
    net = BayesHyperNet(SMALL, TWO)
    for sign, bound in zip((-1, 1), LOG_SIGMA_RANGE, strict=True):
        for bias in net.bias_sigma.parameters():
            bias.data.fill_(sign * 50.0)
        log_sigma = net(emb).log_sigma["decoder.fc1"].A
        assert torch.equal(log_sigma, torch.full_like(log_sigma, bound))


def test_budget_counts_the_deviations() -> None:
    net = BayesHyperNet(SMALL, TWO)
    point = HyperNet(SMALL, TWO)
    n_layer_a = {2: 2 * 32, 3: 2 * 128}  # entries of A by number of layers
    more = sum(n_layer * n_a for n_layer, n_a in n_layer_a.items())
    assert net.n_generated == point.n_generated + more
    n_heads = sum(16 * n_a for n_a in n_layer_a.values())
    n_net, n_point = (sum(p.numel() for p in m.parameters()) for m in (net, point))
    assert n_net == n_point + n_heads + more


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bayesian": "C"}, "bayesian must be 'A', 'B' or 'both'"),
        ({"sigma_start": 0.0}, "sigma_start is 0.0; it must be in"),
        ({"sigma_start": 100.0}, "sigma_start"),
        ({"prior": "triple"}, "prior must be"),
        ({"prior_sigma": 0.0}, "a prior of zero width"),
    ],
)
def test_impossible_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **change)
