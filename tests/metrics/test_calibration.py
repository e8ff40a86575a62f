"""Calibration against numbers worked out by hand, and against scikit-learn."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as reference

from hyperasr.errors import ConfigError, ShapeError
from hyperasr.metrics.calibration import (
    PlattScaling,
    auroc,
    brier,
    clustered_interval,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    risk_coverage,
    smoothed,
)


def test_auroc_by_hand() -> None:
    # Errors at 0.9 and 0.4, correct ones at 0.5, 0.4, 0.1: 3 + (0 + 1/2 + 1) of 6 pairs.
    assert auroc([0.9, 0.5, 0.4, 0.4, 0.1], [1, 0, 1, 0, 0]) == pytest.approx(4.5 / 6)
    assert auroc([3.0, 2.0, 1.0], [1, 1, 0]) == 1.0
    assert auroc([5.0, 5.0, 5.0], [1, 0, 0]) == 0.5
    assert math.isnan(auroc([1.0, 2.0], [0, 0]))


def test_auroc_nll_and_brier_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    confidence = np.round(rng.random(300), 2)  # with ties
    correct = rng.random(300) < confidence
    assert auroc(1 - confidence, ~correct) == pytest.approx(
        reference.roc_auc_score(~correct, 1 - confidence)
    )
    assert brier(confidence, correct) == pytest.approx(
        reference.brier_score_loss(correct, confidence)
    )
    inner = np.clip(confidence, 0.01, 0.99)
    assert negative_log_likelihood(inner, correct) == pytest.approx(
        reference.log_loss(correct, inner)
    )


def test_calibration_error_by_hand_with_both_binnings() -> None:
    confidence = [0.1, 0.2, 0.6, 0.7, 0.9, 1.0]
    correct = [0, 1, 0, 1, 1, 1]
    # Width, 2 bins: mean 0.15 against 1/2 (2 of 6), mean 0.8 against 3/4 (4 of 6).
    expected = 2 / 6 * 0.35 + 4 / 6 * 0.05
    assert expected_calibration_error(confidence, correct, 2, "width") == pytest.approx(expected)
    # Mass, 2 bins: mean 0.3 against 1/3, mean 13/15 against 1.
    expected = 0.5 * (1 / 3 - 0.3) + 0.5 * (1 - 2.6 / 3)
    assert expected_calibration_error(confidence, correct, 2, "mass") == pytest.approx(expected)
    assert expected_calibration_error([1.0, 0.0], [1, 0]) == 0.0


def test_bins_hold_what_lies_on_their_borders_and_leave_out_what_is_empty() -> None:
    bins = reliability([0.0, 0.5, 0.500001, 1.0], [0, 1, 1, 1], 2)
    assert [b.n for b in bins] == [2, 2]
    assert bins[0].confidence == pytest.approx(0.25)
    assert [b.n for b in reliability([0.95, 0.99], [1, 1], 10)] == [2]
    sizes = [b.n for b in reliability(np.linspace(0, 1, 10), np.ones(10), 4, "mass")]
    assert sum(sizes) == 10
    assert max(sizes) - min(sizes) <= 1


def test_nll_by_hand_and_cut_where_certainty_is_wrong() -> None:
    expected = -(math.log(0.8) + math.log(0.5)) / 2
    assert negative_log_likelihood([0.8, 0.5], [1, 0]) == pytest.approx(expected)
    assert negative_log_likelihood([1.0], [0]) == pytest.approx(-math.log(1e-6))
    assert brier([0.8, 0.5], [1, 0]) == pytest.approx((0.04 + 0.25) / 2)


def test_shares_of_samples_become_claims_that_are_never_certain() -> None:
    assert smoothed([0.0, 0.5, 1.0], 4) == pytest.approx([0.1, 0.5, 0.9])
    assert smoothed([1.0], 1) == pytest.approx([0.75])


def test_risk_coverage_by_hand() -> None:
    curve = risk_coverage([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1])
    assert curve.coverage == pytest.approx([0.25, 0.5, 0.75, 1])
    assert curve.risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert curve.area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert curve.oracle == pytest.approx((0 + 0 + 1 / 3 + 2 / 4) / 4)


def test_risk_of_ties_is_the_mean_over_their_orders() -> None:
    rng = np.random.default_rng(0)
    uncertainty, errors = np.array([0.0, 1, 1, 1, 2, 2]), np.array([1.0, 0, 1, 0, 1, 1])
    areas = []
    for _ in range(4000):
        order = np.lexsort((rng.random(6), uncertainty))
        areas.append((np.cumsum(errors[order]) / np.arange(1, 7)).mean())
    assert risk_coverage(uncertainty, errors).area == pytest.approx(np.mean(areas), abs=0.005)
    assert len(risk_coverage(uncertainty, errors).coverage) == 3


def test_a_random_uncertainty_has_the_overall_risk_and_a_perfect_one_the_oracles() -> None:
    rng = np.random.default_rng(1)
    errors = (rng.random(3000) < 0.3).astype(float)
    perfect = risk_coverage(errors, errors)
    assert perfect.area == pytest.approx(perfect.oracle)
    assert risk_coverage(np.zeros(3000), errors).area == pytest.approx(errors.mean())


def test_intervals_draw_speakers_not_items() -> None:
    speakers = [s for s in "abcdefgh" for _ in range(50)]
    value = np.repeat(np.arange(8.0), 50)  # all of a speaker's items are alike

    def mean(rows) -> float:
        return float(value[rows].mean())

    found = clustered_interval(mean, speakers, seed=3, n_utterances=40)
    assert found.value == pytest.approx(3.5)
    assert (found.n_speakers, found.n_utterances) == (8, 40)
    # The standard error over 8 speakers is 0.81; over 400 items it would be 0.11.
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.81, rel=0.15)
    order = np.random.default_rng(0).permutation(400)
    value = value[order]
    again = clustered_interval(mean, [speakers[i] for i in order], seed=3)
    assert (again.low, again.high) == (found.low, found.high)


def test_no_interval_says_why() -> None:
    alone = clustered_interval(lambda rows: 1.0, ["a", "a"])
    assert alone.low is None
    assert "one speaker" in alone.reason
    undefined = clustered_interval(lambda rows: float("nan"), ["a", "b"], n_resamples=10)
    assert undefined.low is None
    assert "undefined" in undefined.reason


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: brier([1.2], [1]), ConfigError, "probabilities"),
        (lambda: brier([float("nan")], [1]), ConfigError, "probabilities"),
        (lambda: auroc([float("nan")], [1]), ConfigError, "finite"),
        (lambda: brier([0.2, 0.3], [1]), ShapeError, "one of each"),
        (lambda: brier([], []), ConfigError, "nothing to measure"),
        (lambda: brier([0.5], [2]), ConfigError, "true or false"),
        (lambda: reliability([0.5], [1], 0), ConfigError, "at least 1 bin"),
        (lambda: reliability([0.5], [1], 5, "other"), ConfigError, "equal width or mass"),
        (lambda: risk_coverage([], []), ConfigError, "something to be wrong"),
        (lambda: risk_coverage([0.5, 1], [1]), ShapeError, "one"),
        (lambda: smoothed([0.5], 0), ConfigError, "n_samples"),
        (lambda: clustered_interval(lambda rows: 1.0, []), ConfigError, "items"),
    ],
)
def test_bad_input_is_one_clear_error(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


def test_platt_scaling_moves_log_odds(tmp_path: Path) -> None:
    p = np.array([0.0, 1e-4, 0.3, 0.5, 0.99, 1.0])
    np.testing.assert_allclose(PlattScaling(1.0, 0.0)(p), np.clip(p, 1e-6, 1 - 1e-6), rtol=1e-9)
    # Odds of 9 to 1, to the power of a half, times e: 3 e to 1.
    assert PlattScaling(0.5, 1.0)(0.9) == pytest.approx(3 * math.e / (3 * math.e + 1))
    path = tmp_path / "calibration.json"
    assert PlattScaling.read(path) is None
    PlattScaling(0.5, 1.0).write(path, {"n_words": 7})
    assert PlattScaling.read(path) == PlattScaling(0.5, 1.0)
    assert json.loads(path.read_text())["n_words"] == 7


@pytest.mark.parametrize(
    "content", ["", "[]", "7", '{"slope": 1}', '{"slope": "x", "intercept": 0}', "[" * 10_000]
)
def test_a_damaged_calibration_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ConfigError, match=r"c\.json.* fit it again") as error:
        PlattScaling.read(tmp_path / "c.json")
    assert "\n" not in str(error.value)
    (tmp_path / "c.json").write_text('{"slope": NaN, "intercept": 1e999}')
    with pytest.raises(ConfigError, match="must be finite"):
        PlattScaling.read(tmp_path / "c.json")
