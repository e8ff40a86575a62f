"""VI LoRA and BLoRA: start, groups, prior."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from hyperasr.adapters import (
    BLoRA,
    BLoRAConfig,
    StaticLoRA,
    StaticLoRAConfig,
    VILoRA,
    VILoRAConfig,
    lora,
)
from hyperasr.adapters.priors import weight_deviations
from hyperasr.errors import ConfigError

FC1 = {"decoder.fc1": lora.TargetShape(2, 32, 128)}
SPEAKERS = ("ann", "bob")
SHARED = VILoRAConfig(rank=3, alpha=6.0)
BY_SPEAKER = replace(SHARED, by="speaker", groups=SPEAKERS)


def stir(source: VILoRA) -> VILoRA:
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in source.parameters():
            weight.add_(torch.randn(weight.shape, generator=g), alpha=0.3)
    return source


@pytest.mark.parametrize("kind", ["vi_lora", "blora"])
def test_means_start_as_an_ordinary_lora(kind: str) -> None:
    config = SHARED if kind == "vi_lora" else BLoRAConfig(rank=3, alpha=6.0)
    source = (VILoRA if kind == "vi_lora" else BLoRA)(config, FC1)
    plain = StaticLoRA(StaticLoRAConfig(rank=3, alpha=6.0), FC1)()
    mean = source().mean()
    assert mean.shared
    assert mean.scaling == 2.0
    assert torch.equal(mean["decoder.fc1"].A, plain["decoder.fc1"].A)
    assert not mean["decoder.fc1"].B.any()
    log_sigma = source().log_sigma["decoder.fc1"]
    torch.testing.assert_close(log_sigma.A.exp(), torch.full_like(log_sigma.A, config.sigma_start))
    assert (log_sigma.B is None) == (kind == "blora")


def test_defaults_are_the_published_ones() -> None:
    config = BLoRAConfig()
    assert (config.rank, config.alpha / config.rank, config.prior_sigma) == (32, 2.0, 0.01)
    assert (config.prior, config.noise) == ("fixed", "flipout")
    assert config.sigma_start == pytest.approx(math.log1p(math.exp(-5)), rel=0.01)
    assert VILoRAConfig().prior == "dual"


def test_blora_counts_the_mean_of_b_under_its_prior() -> None:
    source = stir(BLoRA(BLoRAConfig(rank=3), FC1))
    before = source().kl(source.prior).detach()
    b = source.B["decoder_fc1"]
    expected = float((b.detach() / 0.01).square().sum()) / 2
    with torch.no_grad():
        b.zero_()
    after = source().kl(source.prior).detach()
    assert float(before - after) == pytest.approx(expected, rel=1e-4)


def test_speakers_have_posteriors_of_their_own() -> None:
    source = stir(VILoRA(BY_SPEAKER, FC1))
    posterior = source(groups=["bob", "ann", "bob"])
    assert not posterior.mean().shared
    a, log_sigma = source.A["decoder_fc1"], source.log_sigma_A["decoder_fc1"]
    assert torch.equal(posterior.mean()["decoder.fc1"].A, a[:, [1, 0, 1]])
    torch.testing.assert_close(
        posterior.log_sigma["decoder.fc1"].A, log_sigma[:, [1, 0, 1]], rtol=1e-5, atol=1e-5
    )
    with pytest.raises(ConfigError, match=r"no factors for speaker 'anna'.*'ann'"):
        source(groups=["anna"])
    with pytest.raises(ConfigError, match="need groups"):
        source()


@pytest.mark.parametrize("groups", [SHARED, BY_SPEAKER], ids=["global", "by speaker"])
def test_a_posterior_is_the_prior_of_what_goes_on_from_it(groups: VILoRAConfig) -> None:
    before = stir(VILoRA(SHARED, FC1))
    source = VILoRA(replace(groups, prior="posterior"), FC1)
    source.go_on_from(before)
    who = list(groups.groups) or None
    posterior = source(groups=who)
    for name in ("A", "B"):
        own = getattr(posterior.mean()["decoder.fc1"], name)
        torch.testing.assert_close(own, getattr(before, name)["decoder_fc1"].expand_as(own))
    assert float(posterior.kl(source.prior).detach()) == 0
    moved = stir(source)
    # torch's own divergence, entry by entry.
    expected = 0.0
    for name in ("A", "B"):
        mu, sigma = (getattr(moved, f"{p}{name}")["decoder_fc1"] for p in ("", "log_sigma_"))
        old, width = (getattr(before, f"{p}{name}")["decoder_fc1"] for p in ("", "log_sigma_"))
        normal = torch.distributions.Normal
        kl = torch.distributions.kl_divergence(normal(mu, sigma.exp()), normal(old, width.exp()))
        expected += float(kl.double().sum().detach()) / mu.shape[1]
    assert float(moved(groups=who).kl(moved.prior).detach()) == pytest.approx(expected, rel=1e-4)
    assert not any(value.requires_grad for value in dict(moved.named_buffers()).values())
    loaded = VILoRA(replace(groups, prior="posterior"), FC1)
    loaded.load_state_dict(moved.state_dict())
    assert float(loaded(groups=who).kl(loaded.prior).detach()) == pytest.approx(expected, rel=1e-4)


def test_a_posterior_goes_on_from_its_like_alone() -> None:
    source = VILoRA(replace(SHARED, prior="posterior"), FC1)
    for other in (
        VILoRA(replace(SHARED, rank=2), FC1),
        VILoRA(replace(SHARED, alpha=3.0), FC1),
        VILoRA(replace(SHARED, sigma_B_start=0.0), FC1),
    ):
        with pytest.raises(ConfigError, match="the posterior to go on from has other targets"):
            source.go_on_from(other)
    with pytest.raises(ConfigError, match="by speaker cannot be the prior"):
        source.go_on_from(VILoRA(BY_SPEAKER, FC1))


def test_priors_are_fitted_once_and_kept_in_the_state(tiny_whisper: Any) -> None:
    with torch.no_grad():
        for layer in tiny_whisper.model.decoder.layers:
            layer.fc1.weight.mul_(4)
    names = ("decoder.fc1", "decoder.q_proj", "encoder.v_proj")
    targets = lora.target_shapes(tiny_whisper, names)
    source = VILoRA(SHARED, targets)
    source.prior_sigma.fit(weight_deviations(tiny_whisper, names))
    wide, narrow = (float(source.prior[n][0]) for n in names[:2])
    assert wide == pytest.approx(0.8, rel=0.1)
    assert narrow == pytest.approx(0.2, rel=0.1)
    loaded = VILoRA(SHARED, targets, torch.Generator().manual_seed(5))
    loaded.load_state_dict(source.state_dict())
    for name in names:
        assert torch.equal(loaded.prior[name], source.prior[name])
    fixed = VILoRA(replace(SHARED, prior="fixed", prior_sigma=0.3), targets)
    assert float(fixed.prior["decoder.fc1"][0]) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (BY_SPEAKER, {"noise": "flipout"}, "one posterior for all"),
        (SHARED, {"noise": "salt"}, "noise must be one of"),
        (SHARED, {"sigma_B_start": -1.0}, "sigma_B_start"),
        (SHARED, {"prior_sigma": 0.0}, "zero width"),
        (SHARED, {"by": "speaker"}, "needs groups"),
        (SHARED, {"prior": "wide"}, "prior must be one of"),
        (BLoRAConfig(), {"prior": "posterior"}, "a B that is no point"),
        (BLoRAConfig(), {"rank": 33}, "rank must be in 1..32"),
    ],
)
def test_impossible_settings(config: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(config, **change)


def test_rank_above_the_matrix() -> None:
    with pytest.raises(ConfigError, match=r"rank 32 is above the size of target 'decoder\.fc1', 5"):
        BLoRA(BLoRAConfig(), {"decoder.fc1": lora.TargetShape(2, 32, 5)})
