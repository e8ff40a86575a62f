"""Priors: fixed, and from the backbone's weights with one component or two."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch

from hyperasr.adapters import lora
from hyperasr.adapters.priors import (
    LOG_SIGMA_RANGE,
    GaussianSettings,
    PriorBuffers,
    clamp_log_sigma,
    mixture_prior,
    weight_deviations,
)
from hyperasr.errors import ConfigError, MissingExtra

NARROW, WIDE = "decoder.q_proj", "decoder.fc1"


def deviations(*centres: float, n: int = 10, spread: float = 0.02) -> dict[str, torch.Tensor]:
    """n layers around each centre, within `spread` of it (relative)."""
    g = torch.Generator().manual_seed(0)
    names = (NARROW, WIDE, "encoder.fc1")
    return {
        name: (c * (1 + spread * torch.randn(n, generator=g))).double()
        for name, c in zip(names, centres, strict=False)
    }


def sigmas(prior: dict[str, torch.Tensor]) -> list[float]:
    """Return the width of each component, narrow first."""
    return sorted(set(torch.cat(list(prior.values())).tolist()))


def test_weight_deviations_are_those_of_the_layers(tiny_whisper: Any) -> None:
    found = weight_deviations(tiny_whisper, ["decoder.fc1", "encoder.v_proj"])
    layers = tiny_whisper.model.encoder.layers
    expected = [float(layer.self_attn.v_proj.weight.detach().std()) for layer in layers]
    assert found["encoder.v_proj"].tolist() == pytest.approx(expected)
    assert found["decoder.fc1"].shape == (2,)


def test_two_kinds_of_layers_get_two_priors(caplog: pytest.LogCaptureFixture) -> None:
    given = deviations(0.02, 0.08)
    caplog.set_level("INFO")
    prior = mixture_prior(given)
    assert len(sigmas(prior)) == 2
    for name in (NARROW, WIDE):
        expected = float(given[name].mean())
        torch.testing.assert_close(prior[name], torch.full((10,), expected))
    assert "prior: 2 component(s), sigma 0.01989 and 0.07941" in caplog.text


@pytest.mark.parametrize("centres", [(0.05, 0.05), (0.05,)])
def test_one_kind_of_layers_gets_two_priors_too(centres: tuple[float, ...]) -> None:
    given = deviations(*centres, spread=0.1)
    narrow, wide = sigmas(mixture_prior(given))
    assert narrow < float(torch.cat(list(given.values())).mean()) < wide


def test_single() -> None:
    given = deviations(0.02, 0.08)
    mean = float(torch.cat(list(given.values())).mean())
    assert sigmas(mixture_prior(given, dual=False)) == pytest.approx([mean])


def test_layers_that_are_all_alike_need_no_mixture() -> None:
    assert sigmas(mixture_prior({NARROW: torch.full((5,), 0.04)})) == pytest.approx([0.04])
    assert len(sigmas(mixture_prior({NARROW: torch.tensor([0.04, 0.4])}))) == 1


def test_the_same_weights_give_the_same_prior() -> None:
    first, again = (mixture_prior(deviations(0.02, 0.04, 0.08)) for _ in range(2))
    for name, sigma in first.items():
        assert torch.equal(sigma, again[name])


def test_fixed() -> None:
    buffers = PriorBuffers(GaussianSettings(prior_sigma=0.01), {WIDE: lora.TargetShape(3, 4, 5)})
    assert torch.equal(buffers.by_target()[WIDE], torch.full((3,), 0.01))


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_a_prior_has_a_width(sigma: float) -> None:
    with pytest.raises(ConfigError, match=r"prior_sigma is .*above 0"):
        GaussianSettings(prior_sigma=sigma)


def test_weights_without_spread_give_no_prior(tiny_whisper: Any) -> None:
    with torch.no_grad():
        tiny_whisper.model.decoder.layers[0].fc1.weight.fill_(0.3)
    with pytest.raises(ConfigError, match="zero width"):
        mixture_prior(weight_deviations(tiny_whisper, ["decoder.fc1"]), dual=False)


def test_without_scikit_learn_only_the_dual_prior_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def no_sklearn(name: str, *args: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", no_sklearn)
    mixture_prior(deviations(0.02, 0.08), dual=False)
    with pytest.raises(MissingExtra, match=r"hyperasr\[train\]"):
        mixture_prior(deviations(0.02, 0.08))


def test_log_sigma_is_held_in_its_range_and_can_come_back() -> None:
    low, high = LOG_SIGMA_RANGE
    x = torch.tensor([low - 5, low, 0.0, high, high + 5], requires_grad=True)
    held = clamp_log_sigma(x)
    assert held.tolist() == [low, low, 0.0, high, high]
    held.sum().backward()
    assert x.grad.tolist() == [1.0] * 5
