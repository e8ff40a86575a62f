"""Divergences against torch.distributions and Monte Carlo, reductions, and the objective."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from hyperasr.adapters.elbo import (
    ELBO,
    LOG_SIGMA_RANGE,
    KLTerm,
    clamp_log_sigma,
    gaussian_kl,
    matrix_kl,
    reduce_kl,
)
from hyperasr.errors import ConfigError


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=g, dtype=torch.float64)


class TestOneEntry:
    def test_is_that_of_torch(self) -> None:
        mu, log_sigma, log_prior = drawn(50), drawn(50, seed=1) - 2, drawn(50, seed=2) - 1
        theirs = kl_divergence(
            Normal(mu, log_sigma.exp()), Normal(torch.zeros(50).double(), log_prior.exp())
        )
        torch.testing.assert_close(gaussian_kl(mu, log_sigma, log_prior), theirs)

    def test_is_the_mean_log_ratio_of_samples(self) -> None:
        mu, log_sigma, log_prior = torch.tensor(0.3), torch.tensor(-1.2), torch.tensor(-0.5)
        z = mu + log_sigma.exp() * torch.randn(200_000, generator=torch.Generator().manual_seed(0))
        ratio = Normal(mu, log_sigma.exp()).log_prob(z) - Normal(0.0, log_prior.exp()).log_prob(z)
        standard_error = ratio.std() / math.sqrt(len(z))
        assert abs(gaussian_kl(mu, log_sigma, log_prior) - ratio.mean()) < 4 * standard_error

    def test_is_zero_at_the_prior_and_nowhere_below(self) -> None:
        log_prior = torch.full((1000,), -4.6)
        assert torch.equal(gaussian_kl(torch.zeros(1000), log_prior, log_prior), torch.zeros(1000))
        near = log_prior + 1e-4 * drawn(1000).float()
        # 0.5 * (e^2x - 1) - x is x^2 for small x; the direct formula in float32 gives only noise.
        found = gaussian_kl(torch.zeros(1000), near, log_prior)
        assert found.min() >= -1e-9
        assert float(found.mean()) == pytest.approx(1e-8, rel=0.5)

    def test_a_point_is_the_limit_without_its_constant(self) -> None:
        mu, log_prior = drawn(20), torch.tensor(-1.0).double()
        narrow = torch.full_like(mu, -12.0)
        constant = gaussian_kl(torch.zeros_like(mu), narrow, log_prior)
        point = gaussian_kl(mu, None, log_prior)
        torch.testing.assert_close(gaussian_kl(mu, narrow, log_prior) - constant, point)

    def test_gradient_by_finite_differences(self) -> None:
        inputs = (drawn(5), drawn(5, seed=1), drawn(5, seed=2))
        assert torch.autograd.gradcheck(
            gaussian_kl, tuple(t.requires_grad_() for t in inputs), eps=1e-6
        )


class TestMatrices:
    def test_sums_the_entries_of_each_layer_and_row(self) -> None:
        mu, log_sigma = drawn(2, 3, 4, 5), drawn(2, 3, 4, 5, seed=1) - 2
        log_prior = drawn(2, seed=2)
        term = matrix_kl(mu, log_sigma, log_prior)
        for layer in range(2):
            for row in range(3):
                expected = gaussian_kl(mu[layer, row], log_sigma[layer, row], log_prior[layer])
                torch.testing.assert_close(term.value[layer, row], expected.sum())
        assert term.n_entries == 20
        assert bool(term.finite.all())

    def test_is_summed_in_float64(self) -> None:
        # A million small terms beside a large one: in float32 they would be lost.
        mu = torch.full((1, 1, 1000, 1000), 1e-3)
        mu[0, 0, 0, 0] = 1e4
        log_sigma = torch.zeros_like(mu)
        value = matrix_kl(mu, log_sigma, torch.zeros(1)).value
        assert value.dtype == torch.float64
        assert float(value) == pytest.approx(0.5 * 1e8 + 0.5, abs=1e-3)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_what_is_not_finite_is_left_out_and_has_no_gradient(self, bad: float) -> None:
        mu, log_sigma = drawn(2, 3, 4, 5), drawn(2, 3, 4, 5, seed=1) - 2
        clean = matrix_kl(mu, log_sigma, torch.zeros(2)).value
        mu[1, 2, 0, 0] = bad
        mu.requires_grad_()
        log_sigma.requires_grad_()
        term = matrix_kl(mu, log_sigma, torch.zeros(2))
        assert term.finite.sum() == 5
        assert not term.finite[1, 2]
        torch.testing.assert_close(term.value[term.finite], clean[term.finite])
        term.value.sum().backward()
        for parameter in (mu, log_sigma):
            assert parameter.grad is not None
            assert bool(parameter.grad.isfinite().all())
            assert not parameter.grad[1, 2].any()
            assert bool(parameter.grad[0].any())


def term(values: list[float], n_entries: int) -> KLTerm:
    """One layer, a row for each value."""
    value = torch.tensor([values], dtype=torch.float64)
    finite = value.isfinite()
    return KLTerm(torch.where(finite, value, 0.0), finite, n_entries)


class TestReduction:
    @pytest.mark.parametrize(
        ("reduction", "expected"),
        [
            ("sum", (8 + 30) / 2),
            ("mean_per_matrix", (8 / 4 + 30 / 10) / 2),
            ("mean", (8 / 4 + 30 / 10) / 4),
            ("per_utterance", (8 + 30) / 2 / 5),
        ],
    )
    def test_by_hand(self, reduction: str, expected: float) -> None:
        found = reduce_kl([term([2.0, 6.0], 4), term([10.0, 20.0], 10)], reduction, n_tokens=5)
        assert float(found.value) == pytest.approx(expected)
        assert int(found.n_left_out) == 0

    def test_the_average_is_of_what_is_finite(self) -> None:
        terms = [term([2.0, math.nan], 4), term([math.inf, 20.0], 10)]
        found = reduce_kl(terms, "mean")
        assert float(found.value) == pytest.approx((0.5 + 2.0) / 2)
        assert int(found.n_left_out) == 2

    @pytest.mark.parametrize("reduction", ["sum", "mean"])
    def test_where_nothing_is_finite_the_result_is_not_either(self, reduction: str) -> None:
        found = reduce_kl([term([math.nan, math.inf], 4)], reduction)
        assert math.isnan(float(found.value))
        assert int(found.n_left_out) == 2

    def test_bad_calls(self) -> None:
        with pytest.raises(ConfigError, match=r"kl_reduction must be one of.*'average'"):
            reduce_kl([term([1.0], 1)], "average")
        with pytest.raises(ConfigError, match="no factor has a distribution"):
            reduce_kl([], "sum")


def test_log_sigma_is_held_in_its_range_and_can_come_back() -> None:
    low, high = LOG_SIGMA_RANGE
    x = torch.tensor([low - 5, low, 0.0, high, high + 5], requires_grad=True)
    held = clamp_log_sigma(x)
    assert held.tolist() == [low, low, 0.0, high, high]
    held.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0] * 5


class TestObjectiveValue:
    def test_what_is_logged_is_what_is_optimised(self) -> None:
        nll, kl = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
        objective = ELBO(nll, kl, 0.5, torch.tensor(0.25), nll_weight=0.9, n_left_out=4)
        parts = {n: float(v.detach()) for n, v in objective.losses().items()}
        expected = {"nll": 2.0, "kl": 3.0, "beta": 0.5, "penalty": 0.25, "kl_left_out": 4.0}
        expected |= {"total": pytest.approx(0.9 * 2 + 0.5 * 3 + 0.25), "teacher": 0.0}
        assert parts == expected
        objective.losses()["total"].backward()
        assert (float(nll.grad), float(kl.grad)) == (pytest.approx(0.9), 0.5)  # type: ignore[arg-type]

    def test_without_weights_it_is_the_cross_entropy_bit_for_bit(self) -> None:
        nll = torch.tensor(1.2345678)
        assert torch.equal(ELBO(nll, torch.tensor(0.0)).total, nll)

    def test_nan_is_not_hidden(self) -> None:
        assert ELBO(torch.tensor(math.nan), torch.tensor(0.0)).total.isnan()
        assert ELBO(torch.tensor(1.0), torch.tensor(math.nan), beta=0.0).total.isnan()
