"""Gaussian factors: samples, their rows and generators, and the divergence from a prior."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, Normal, kl_divergence

from hyperasr.errors import ConfigError, ShapeError
from hyperasr.posterior import GaussianFactors, LogSigma, flat_pair, utterance_generators
from hyperasr.priors import FactorPrior
from hyperasr.types import LayerFactors, LoRAFactors

SIZES = {"decoder.fc1": (2, 3, 4, 5), "encoder.q_proj": (3, 3, 4, 4)}  # n_layer, rank, d_in, d_out
PRIOR = FactorPrior(
    {"decoder.fc1": torch.tensor([0.1, 0.2]), "encoder.q_proj": torch.tensor([0.3, 0.1, 0.2])}
)


def gaussian(
    n_row: int = 2, *, of: str = "both", shared: bool = False, k: int = 0, **options: Any
) -> GaussianFactors:
    g = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    pairs, deviations, low_rank = {}, {}, {}
    for name, (n_layer, rank, d_in, d_out) in SIZES.items():
        a, b = drawn(n_layer, n_row, rank, d_in), drawn(n_layer, n_row, d_out, rank)
        pairs[name] = LayerFactors(a, b)
        deviations[name] = LogSigma(
            0.3 * drawn(*a.shape) - 1 if of != "B" else None,
            0.3 * drawn(*b.shape) - 2 if of != "A" else None,
        )
        if k:
            n = rank * (d_in + d_out)
            low_rank[name] = 0.3 * drawn(n_layer, n_row, n, k)
    mu = LoRAFactors(pairs, scaling=0.5, shared=shared)
    return GaussianFactors(mu, deviations, low_rank, **options)


class TestSamples:
    def test_the_mean_is_the_means(self) -> None:
        posterior = gaussian()
        assert posterior.mean() is posterior.mu

    @pytest.mark.parametrize("of", ["A", "B", "both"])
    def test_moments(self, of: str) -> None:
        posterior, n = gaussian(of=of), 4000
        drawn = posterior.sample(torch.Generator().manual_seed(1), n)
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

    def test_covariance_of_a_joint_sample(self) -> None:
        posterior, n = gaussian(1, k=2), 20_000
        drawn = posterior.sample(torch.Generator().manual_seed(1), n)
        for name, v in posterior.low_rank.items():
            flat = flat_pair(drawn[name].A, drawn[name].B)[1]  # layer 1: (n, n_A + n_B)
            deviations = posterior.log_sigma[name]
            diagonal = flat_pair(deviations.A, deviations.B)[1, 0].exp().square()
            expected = torch.diag(diagonal) + v[1, 0] @ v[1, 0].T
            scale = torch.sqrt(expected.diag()[:, None] * expected.diag()[None])
            assert ((torch.cov(flat.T) - expected) / scale).abs().max() < 6 / n**0.5

    def test_rows_of_one_posterior_are_adjacent(self) -> None:
        posterior = gaussian(3)
        drawn = posterior.sample(torch.Generator().manual_seed(0), 5)
        assert drawn.n_utt == 15
        assert drawn.scaling == 0.5
        nearest = (
            drawn["decoder.fc1"].B[:, :, None] - posterior.mu["decoder.fc1"].B[:, None]
        ).abs()
        assert nearest.sum((0, 3, 4)).argmin(1).tolist() == [0] * 5 + [1] * 5 + [2] * 5

    @pytest.mark.parametrize("k", [0, 2])
    def test_a_sample_depends_on_seed_key_and_number_alone(self, k: int) -> None:
        posterior = gaussian(1, shared=True, k=k)
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

    def test_the_generator_decides(self) -> None:
        posterior = gaussian()
        first, again, other = (
            posterior.sample(torch.Generator().manual_seed(s))["decoder.fc1"].A for s in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_gradients_reach_everything(self) -> None:
        posterior = gaussian(k=2)
        leaves = [
            t.requires_grad_()
            for name, pair in posterior.mu.targets.items()
            for t in (
                pair.A,
                pair.B,
                posterior.log_sigma[name].A,
                posterior.log_sigma[name].B,
                posterior.low_rank[name],
            )
            if t is not None
        ]
        drawn = posterior.sample(torch.Generator().manual_seed(0), 2)
        loss = sum(t.square().sum() for p in drawn.targets.values() for t in (p.A, p.B))
        assert isinstance(loss, Tensor)
        loss.backward()
        assert len(leaves) == 10
        assert all(t.grad is not None and t.grad.any() for t in leaves)

    def test_shared_rows(self) -> None:
        shared = gaussian(1, shared=True)
        assert shared.sample().shared, "one sample for all"
        drawn = shared.sample(torch.Generator().manual_seed(0), n_utt=3)
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
            sigma_p = PRIOR.sigma[name][:, None, None, None]
            for matrix in ("A", "B"):
                log_sigma = getattr(posterior.log_sigma[name], matrix)
                if log_sigma is not None:
                    q = Normal(getattr(pair, matrix), log_sigma.exp())
                    expected += float(kl_divergence(q, Normal(0.0, sigma_p)).double().sum()) / 2
        assert float(posterior.kl(PRIOR).value) == pytest.approx(expected, rel=1e-5)

    def test_with_a_joint_covariance_is_that_of_torch(self) -> None:
        posterior, expected = gaussian(k=3), 0.0
        for name, pair in posterior.mu.targets.items():
            deviations, v = posterior.log_sigma[name], posterior.low_rank[name].double()
            diagonal = flat_pair(deviations.A, deviations.B).double().exp().square()
            q = LowRankMultivariateNormal(flat_pair(pair.A, pair.B).double(), v, diagonal)
            wide = PRIOR.sigma[name].double().square()[:, None, None].expand_as(diagonal)
            p = LowRankMultivariateNormal(torch.zeros_like(diagonal), 1e-9 * v, wide)
            expected += float(kl_divergence(q, p).sum()) / 2
        assert float(posterior.kl(PRIOR).value) == pytest.approx(expected, rel=1e-5)

    def test_against_samples(self) -> None:
        posterior, n = gaussian(1, k=2), 4000
        drawn = posterior.sample(torch.Generator().manual_seed(3), n)
        ratio = torch.zeros(n)
        for name, pair in posterior.mu.targets.items():
            deviations = posterior.log_sigma[name]
            flat = flat_pair(drawn[name].A, drawn[name].B)
            for layer in range(flat.shape[0]):
                q = LowRankMultivariateNormal(
                    flat_pair(pair.A, pair.B)[layer, 0],
                    posterior.low_rank[name][layer, 0],
                    flat_pair(deviations.A, deviations.B)[layer, 0].exp().square(),
                )
                p = Normal(0.0, PRIOR.sigma[name][layer])
                ratio += q.log_prob(flat[layer]) - p.log_prob(flat[layer]).sum(-1)
        error = float(ratio.std()) / math.sqrt(n)
        assert float(posterior.kl(PRIOR).value) == pytest.approx(float(ratio.mean()), abs=5 * error)

    def test_without_columns_a_joint_covariance_changes_nothing(self) -> None:
        diagonal, joint = gaussian(), gaussian(k=1)
        empty = {name: torch.zeros_like(v) for name, v in joint.low_rank.items()}
        zero = GaussianFactors(diagonal.mu, diagonal.log_sigma, empty)
        for reduction in ("sum", "mean_per_matrix", "mean"):
            expected = float(diagonal.kl(PRIOR, reduction).value)
            assert float(zero.kl(PRIOR, reduction).value) == pytest.approx(expected)

    def test_points_count_where_they_are_to(self) -> None:
        without, with_ = gaussian(of="A"), gaussian(of="A", map_points=True)
        expected = sum(
            float((0.5 * (pair.B / PRIOR.sigma[name][:, None, None, None]).square()).sum()) / 2
            for name, pair in without.mu.targets.items()
        )
        found = float(with_.kl(PRIOR).value) - float(without.kl(PRIOR).value)
        assert found == pytest.approx(expected, rel=1e-4)

    def test_a_matrix_that_is_not_finite_is_counted(self) -> None:
        posterior = gaussian()
        posterior.mu["encoder.q_proj"].B[2, 1, 0, 0] = math.nan
        found = posterior.kl(PRIOR, "mean")
        assert int(found.n_left_out) == 1
        assert math.isfinite(float(found.value))


@pytest.mark.parametrize("what", ["targets", "shape", "point", "joint", "size", "noise", "rows"])
def test_impossible_posteriors(what: str) -> None:
    good = gaussian(k=1)
    name = "decoder.fc1"
    log_sigma, low_rank, options = dict(good.log_sigma), dict(good.low_rank), {}
    if what == "targets":
        del log_sigma[name]
        expected: tuple[type[Exception], str] = (ShapeError, "deviations of")
    elif what == "shape":
        log_sigma[name] = LogSigma(torch.zeros(2, 2, 3, 5), log_sigma[name].B)
        expected = (ShapeError, r"A of target 'decoder\.fc1' has means \(2, 2, 3, 4\)")
    elif what == "point":
        log_sigma[name], low_rank = LogSigma(None, None), {}
        expected = (ConfigError, "no Gaussian factor")
    elif what == "joint":
        log_sigma[name] = LogSigma(None, log_sigma[name].B)
        expected = (ConfigError, "needs both A and B Gaussian")
    elif what == "size":
        low_rank[name] = low_rank[name][:, :, 1:]
        expected = (ShapeError, r"\(2, 2, 26, 1\), expected \(2, 2, 27, 'k'\)")
    elif what == "noise":
        options, expected = {"noise": "salt"}, (ConfigError, "noise must be one of")
    else:
        options, low_rank = {"noise": "flipout"}, {}
        expected = (ConfigError, "needs one posterior for all")
    with pytest.raises(expected[0], match=expected[1]):
        GaussianFactors(good.mu, log_sigma, low_rank, **options)
