"""Sparsity measures against matrices small enough for paper and pencil."""

from __future__ import annotations

import math

import pytest
import torch

from hyperasr.errors import ConfigError
from hyperasr.metrics.sparsity import (
    Sparsity,
    adaptive_share,
    delta_sparsity,
    factor_sparsity,
    hoyer,
    mean_sparsity,
    share_below,
    top_energy,
)
from hyperasr.types import LayerFactors, LoRAFactors


def test_measures_by_hand() -> None:
    matrix = torch.tensor([[3.0, 0.0], [-4.0, 0.0005]])
    assert share_below(matrix) == 0.5
    assert share_below(matrix, 3.5) == 0.75
    assert top_energy(matrix) == pytest.approx(16 / 25, rel=1e-6)  # 1 % of 4, at least 1
    assert hoyer(torch.tensor([3.0, 0.0, -4.0, 0.0])) == pytest.approx((2 - 7 / 5) / (2 - 1))
    # Deviation of (0, 0, 0, 4) is sqrt(3): half of it is 0.87.
    assert adaptive_share(torch.tensor([0.0, 0.0, 0.0, 4.0])) == 0.75
    assert adaptive_share(torch.tensor([1.0, -1.0])) == 0.0


def test_extremes() -> None:
    one, flat, zero = torch.zeros(10, 10), torch.ones(10, 10), torch.zeros(2, 2)
    one[3, 4] = -2.0
    assert hoyer(one) == pytest.approx(1.0)
    assert hoyer(flat) == pytest.approx(0.0)
    assert top_energy(one) == 1.0
    assert top_energy(flat) == pytest.approx(0.01)
    assert share_below(zero) == 1.0
    assert math.isnan(hoyer(zero))
    assert math.isnan(top_energy(zero))
    assert math.isnan(adaptive_share(zero))


def test_the_largest_entries_are_a_hundredth_and_not_one_more() -> None:
    values = torch.ones(700)
    values[:8] = 10.0
    assert top_energy(values) == pytest.approx(700 / (800 + 692))  # 7 of 700


def test_only_the_fixed_threshold_depends_on_the_scale(generator) -> None:
    matrix = torch.randn(40, 30, generator=generator)
    assert hoyer(1e-4 * matrix) == pytest.approx(hoyer(matrix), rel=1e-5)
    assert top_energy(1e-4 * matrix) == pytest.approx(top_energy(matrix), rel=1e-5)
    assert adaptive_share(1e-4 * matrix) == pytest.approx(adaptive_share(matrix))
    assert share_below(1e-4 * matrix) > 0.9 > share_below(matrix)


def test_a_normal_distribution_has_the_stated_share(generator) -> None:
    values = torch.randn(200_000, generator=generator)
    assert adaptive_share(values) == pytest.approx(0.383, abs=0.005)


@pytest.fixture
def factors() -> LoRAFactors:
    """Two utterances: an update with one entry that is not zero, and one of two equal values."""
    A = torch.tensor([[[1.0, 0, 0], [0, 0, 0]], [[1.0, 0, 0], [0, 1, 0]]])
    B = torch.tensor([[[2.0, 0], [0, 5.0]], [[2.0, 0], [0, 2.0]]])
    return LoRAFactors({"decoder.fc1": LayerFactors(A[None], B[None])}, scaling=3.0)


def test_an_update_is_measured_as_a_whole_and_its_factors_apart(factors) -> None:
    first, second = delta_sparsity(factors, "decoder.fc1", 0)
    assert first.hoyer == pytest.approx(1.0)
    assert first.effective_rank == pytest.approx(1.0)
    assert first.below == pytest.approx(5 / 6)
    assert second.effective_rank == pytest.approx(2.0)
    assert second.below == pytest.approx(4 / 6)
    a, b = (factor_sparsity(factors, "decoder.fc1", 0, name)[0] for name in "AB")
    assert a.below == pytest.approx(5 / 6)
    assert b.below == pytest.approx(2 / 4)
    shares = torch.tensor([5 / 7, 2 / 7])
    entropy = float(-(shares * shares.log()).sum())
    assert b.effective_rank == pytest.approx(math.exp(entropy), rel=1e-6)


def test_means_leave_out_what_has_no_meaning() -> None:
    nothing = Sparsity(1.0, math.nan, math.nan, math.nan, math.nan)
    half = Sparsity(0.5, 0.5, 0.5, 0.5, 2.0)
    mean = mean_sparsity([nothing, half])
    assert (mean.below, mean.hoyer, mean.effective_rank) == (0.75, 0.5, 2.0)
    assert math.isnan(mean_sparsity([nothing]).hoyer)


def test_bad_input_is_one_clear_error(factors) -> None:
    broken = factors.map(lambda t: t * float("nan"))
    with pytest.raises(ConfigError, match="NaN"):
        delta_sparsity(broken, "decoder.fc1", 0)
    with pytest.raises(ConfigError, match="NaN"):
        factor_sparsity(broken, "decoder.fc1", 0, "B")
