"""Gaussian factors: samples, their rows and generators; the divergence from a prior against
torch.distributions and Monte Carlo, and its reductions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from hyperasr.adapters.posterior import (
    GaussianFactors,
    LogSigma,
    gaussian_kl,
    utterance_generators,
)
from hyperasr.errors import ConfigError, ShapeError
from hyperasr.types import LayerFactors, LoRAFactors

SIZES = {"decoder.fc1": (2, 3, 4, 5), "encoder.q_proj": (3, 3, 4, 4)}  # n_layer, rank, d_in, d_out
PRIOR = {"decoder.fc1": torch.tensor([0.1, 0.2]), "encoder.q_proj": torch.tensor([0.3, 0.1, 0.2])}


def gaussian(
    n_row: int = 2, *, of: str = "both", shared: bool = False, **options: Any
) -> GaussianFactors:
    g = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    pairs, deviations = {}, {}
    for name, (n_layer, rank, d_in, d_out) in SIZES.items():
        a, b = drawn(n_layer, n_row, rank, d_in), drawn(n_layer, n_row, d_out, rank)
        pairs[name] = LayerFactors(a, b)
        deviations[name] = LogSigma(
            0.3 * drawn(*a.shape) - 1 if of != "B" else None,
            0.3 * drawn(*b.shape) - 2 if of != "A" else None,
        )
    mu = LoRAFactors(pairs, scaling=0.5, shared=shared)
    return GaussianFactors(mu, deviations, **options)


class TestSamples:
    def test_the_mean_is_the_means(self) -> None:
        posterior = gaussian()
        assert posterior.mean() is posterior.mu

    @pytest.mark.parametrize("of", ["A", "B", "both"])
    def test_moments(self, of: str) -> None:
        posterior, n = gaussian(of=of), 4000
        drawn = posterior.sample(utterance_generators(1, ["x", "y"], n), n)
        for name, pair in posterior.mu.targets.items():
            for matrix in ("A", "B"):
                mean = getattr(pair, matrix)
                log_sigma = getattr(posterior.log_sigma[name], matrix)
                samples = getattr(drawn[name], matrix).unflatten(1, (2, n))
                if log_sigma is None:
                    assert torch.equal(samples[:, :, 7], mean), "a point stays where it is"
                    continue
                sigma = log_sigma.exp()
                assert ((samples.mean(2) - mean) / (sigma / n**0.5)).abs().max() < 5
                assert (samples.std(2) / sigma - 1).abs().max() < 5 / (2 * n) ** 0.5

    def test_rows_of_one_posterior_are_adjacent(self) -> None:
        posterior = gaussian(3)
        drawn = posterior.sample(utterance_generators(0, ["x", "y", "z"], 5), 5)
        assert drawn.n_utt == 15
        assert drawn.scaling == 0.5
        nearest = (
            drawn["decoder.fc1"].B[:, :, None] - posterior.mu["decoder.fc1"].B[:, None]
        ).abs()
        assert nearest.sum((0, 3, 4)).argmin(1).tolist() == [0] * 5 + [1] * 5 + [2] * 5

    def test_a_sample_depends_on_seed_key_and_number_alone(self) -> None:
        posterior = gaussian(1, shared=True)
        together = posterior.sample(utterance_generators(7, ["x", "y", "z"], 4), 4, n_utt=3)
        turned = posterior.sample(utterance_generators(7, ["z", "x", "q"], 2), 2, n_utt=3)
        for name in SIZES:
            a, other = together[name].A, turned[name].A
            torch.testing.assert_close(a[:, 8:10], other[:, 0:2])
            torch.testing.assert_close(a[:, 0:2], other[:, 2:4])
            assert not torch.isclose(a[:, 0], a[:, 1]).any(), "samples differ"
            assert not torch.isclose(a[:, 0], a[:, 4]).any(), "utterances differ"
        reseeded = posterior.sample(utterance_generators(8, ["x", "y", "z"], 4), 4, n_utt=3)
        assert not torch.isclose(reseeded["decoder.fc1"].A, together["decoder.fc1"].A).any()

    def test_the_generators_decide(self) -> None:
        posterior = gaussian()
        first, again, other = (
            posterior.sample(utterance_generators(s, ["x", "y"]))["decoder.fc1"].A
            for s in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_gradients_reach_everything(self) -> None:
        posterior = gaussian()
        leaves = [
            t.requires_grad_()
            for name, pair in posterior.mu.targets.items()
            for t in (
                pair.A,
                pair.B,
                posterior.log_sigma[name].A,
                posterior.log_sigma[name].B,
            )
            if t is not None
        ]
        drawn = posterior.sample(n_samples=2)
        loss = sum(t.square().sum() for p in drawn.targets.values() for t in (p.A, p.B))
        assert isinstance(loss, Tensor)
        loss.backward()
        assert len(leaves) == 8
        assert all(t.grad is not None and t.grad.any() for t in leaves)

    def test_shared_rows(self) -> None:
        shared = gaussian(1, shared=True)
        assert shared.sample().shared, "one sample for all"
        drawn = shared.sample(utterance_generators(0, "xyz"), n_utt=3)
        assert (drawn.n_utt, drawn.shared) == (3, False)
        assert not torch.isclose(drawn["decoder.fc1"].A[:, 0], drawn["decoder.fc1"].A[:, 1]).any()
        assert gaussian(2).sample(n_utt=2).n_utt == 2
        with pytest.raises(ShapeError, match="posteriors are of 2 utterances, the batch has 3"):
            gaussian(2).sample(n_utt=3)

    def test_bad_calls(self) -> None:
        with pytest.raises(ConfigError, match="n_samples is 0"):
            gaussian().sample(n_samples=0)
        with pytest.raises(ShapeError, match="3 generators for 4 rows"):
            gaussian().sample(utterance_generators(0, ["a", "b", "c"]), 2)


class TestDivergence:
    @pytest.mark.parametrize("of", ["A", "B", "both"])
    def test_is_that_of_torch(self, of: str) -> None:
        posterior, expected = gaussian(of=of), 0.0
        for name, pair in posterior.mu.targets.items():
            sigma_p = PRIOR[name][:, None, None, None]
            for matrix in ("A", "B"):
                log_sigma = getattr(posterior.log_sigma[name], matrix)
                if log_sigma is not None:
                    q = Normal(getattr(pair, matrix), log_sigma.exp())
                    expected += float(kl_divergence(q, Normal(0.0, sigma_p)).double().sum()) / 2
        assert float(posterior.kl(PRIOR)) == pytest.approx(expected, rel=1e-5)

    def test_against_samples(self) -> None:
        posterior, n = gaussian(1), 4000
        drawn = posterior.sample(utterance_generators(3, ["x"], n), n)
        ratio = torch.zeros(n)
        for name, pair in posterior.mu.targets.items():
            p = Normal(0.0, PRIOR[name][:, None, None, None])
            for matrix in ("A", "B"):
                q = Normal(getattr(pair, matrix), getattr(posterior.log_sigma[name], matrix).exp())
                x = getattr(drawn[name], matrix)
                ratio += (q.log_prob(x) - p.log_prob(x)).sum((0, 2, 3))
        error = float(ratio.std()) / math.sqrt(n)
        assert float(posterior.kl(PRIOR)) == pytest.approx(float(ratio.mean()), abs=5 * error)

    def test_points_count_where_they_are_to(self) -> None:
        without, with_ = gaussian(of="A"), gaussian(of="A", map_points=True)
        expected = sum(
            float((0.5 * (pair.B / PRIOR[name][:, None, None, None]).square()).sum()) / 2
            for name, pair in without.mu.targets.items()
        )
        found = float(with_.kl(PRIOR)) - float(without.kl(PRIOR))
        assert found == pytest.approx(expected, rel=1e-4)

    def test_what_is_not_finite_is_not_hidden(self) -> None:
        posterior = gaussian()
        posterior.mu["encoder.q_proj"].B[2, 1, 0, 0] = math.nan
        assert math.isnan(float(posterior.kl(PRIOR, "mean")))


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


def one_target(a: LayerFactors, log_sigma: LogSigma) -> GaussianFactors:
    return GaussianFactors(LoRAFactors({"decoder.fc1": a}), {"decoder.fc1": log_sigma})


class TestReduction:
    def test_the_sum_is_taken_in_float64(self) -> None:
        # A million small terms beside a large one: in float32 they would be lost.
        mu = torch.full((1, 1, 1000, 1000), 1e-3)
        mu[0, 0, 0, 0] = 1e4
        posterior = one_target(LayerFactors(mu, mu), LogSigma(torch.zeros_like(mu), None))
        value = posterior.kl({"decoder.fc1": torch.ones(1)})
        assert value.dtype == torch.float64
        assert float(value) == pytest.approx(0.5 * 1e8 + 0.5, abs=1e-3)

    @pytest.mark.parametrize(
        ("reduction", "expected"),
        [
            ("sum", (8 + 30) / 2),
            ("mean_per_matrix", (8 / 4 + 30 / 10) / 2),
            ("mean", (8 / 4 + 30 / 10) / 4),
        ],
    )
    def test_by_hand(self, reduction: str, expected: float) -> None:
        # One layer, two rows: A (2, 2) has 2 and 6 nats, B (5, 2) 10 and 20, each in one entry.
        a, b = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 5, 2)
        a[0, :, 0, 0] = torch.tensor([4.0, 12.0]).sqrt()
        b[0, :, 0, 0] = torch.tensor([20.0, 40.0]).sqrt()
        log_sigma = LogSigma(torch.zeros_like(a), torch.zeros_like(b))
        posterior = one_target(LayerFactors(a, b), log_sigma)
        found = posterior.kl({"decoder.fc1": torch.ones(1)}, reduction)
        assert float(found) == pytest.approx(expected)
