"""One group of deviations is told from two."""

from __future__ import annotations

import pytest
import torch

from eval.weight_spread import spread_row
from hyperasr.errors import ConfigError


def test_two_groups_are_found_and_one_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    narrow, wide = (
        mean + 0.001 * torch.randn(20, generator=generator, dtype=torch.float64)
        for mean in (0.02, 0.05)
    )
    two = spread_row({"fc1": narrow, "fc2": wide[:8]})
    assert two["bic_gain"] > 10
    assert two["separation"] > 2
    assert two["means"] == pytest.approx([0.02, 0.05], abs=0.002)
    assert two["shares"] == pytest.approx([20 / 28, 8 / 28], abs=0.01)
    assert two["smaller"] == [f"fc2.{layer}" for layer in range(8)]
    one = spread_row({"fc1": narrow})
    assert one["bic_gain"] < 0
    with pytest.raises(ConfigError, match="3 matrices are too few"):
        spread_row({"fc1": narrow[:3]})
