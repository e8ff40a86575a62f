"""Degradation, gain and target loss: by hand, and where there is nothing to tell."""

from __future__ import annotations

import numpy as np
import pytest

from eval.lib.forgetting import DEGRADATION, GAIN, TARGET_LOSS, forgetting_rows
from eval.lib.scores import Scores
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.metrics.protocols import protocol


def scores(n_speakers: int = 12, **errors: int) -> Scores:
    """Each speaker says 20 words; a system makes so many errors with each, one more with some."""
    counts = {
        name: [EditCounts(20 - n - k % 2, n + k % 2) for k in range(n_speakers)]
        for name, n in errors.items()
    }
    meta = {"speaker": [f"s{k}" for k in range(n_speakers)]}
    return Scores(protocol("spoken"), "wer", meta, counts)


def test_by_hand() -> None:
    typical = scores(backbone=2, lora=6, blora=3)
    target = scores(backbone=12, lora=4, blora=5)
    rows = forgetting_rows(typical, {"simulated": target}, "blora", "lora", corpus="x")
    found = {row["metric"]: row for row in rows}
    # 3.5 of 20 words minus 2.5; the LoRA lost 4 words of 20, of which three quarters are avoided.
    assert found[DEGRADATION]["value"] == pytest.approx(1 / 20)
    assert found[DEGRADATION]["against"] == "backbone"
    assert found[GAIN]["value"] == pytest.approx(0.75)
    assert (found[GAIN]["low"], found[GAIN]["high"]) == pytest.approx((0.75, 0.75))
    # 5.5 against 4.5 errors in the new domain.
    assert found[TARGET_LOSS]["value"] == pytest.approx(1 / 4.5)
    low, high = found[TARGET_LOSS]["low"], found[TARGET_LOSS]["high"]
    assert low <= 1 / 4.5 <= high
    assert {row["corpus"] for row in rows} == {"x"}
    assert {row["n_speakers"] for row in rows} == {12}
    assert {row["protocol"] for row in rows} == {"spoken"}
    assert {row["metric"]: row["domain"] for row in rows} == {
        DEGRADATION: "recorded",
        GAIN: "recorded",
        TARGET_LOSS: "simulated",
    }
    (own,) = forgetting_rows(typical, {"simulated": target}, "lora", "lora")
    assert own["metric"] == DEGRADATION
    both = {"simulated": target, "recorded": typical}
    losses = [
        (row["domain"], row["value"])
        for row in forgetting_rows(typical, both, "blora", "lora")
        if row["metric"] == TARGET_LOSS
    ]
    assert losses == [
        ("simulated", pytest.approx(1 / 4.5)),
        ("recorded", pytest.approx(3.5 / 6.5 - 1)),
    ]


def test_intervals_are_those_of_drawing_speakers() -> None:
    rng = np.random.default_rng(0)
    names = ("backbone", "lora", "blora")
    wrong = rng.integers([0, 3, 1], [3, 12, 6], size=(15, 3))
    counts = {
        name: [EditCounts(20 - int(w), int(w)) for w in wrong[:, k]] for k, name in enumerate(names)
    }
    meta = {"speaker": [f"{k:02d}" for k in range(15)]}
    typical = Scores(protocol("spoken"), "wer", meta, counts, seed=5)
    rows = forgetting_rows(typical, {"recorded": typical}, "blora", "lora")
    draws = np.random.default_rng(5).integers(15, size=(10_000, 15))
    rates = wrong[draws].sum(1) / (20 * 15)
    drops = rates[:, 1:] - rates[:, :1]
    gains = 1 - drops[:, 1] / drops[:, 0]
    expected = {
        DEGRADATION: drops[:, 1],
        GAIN: gains,
        TARGET_LOSS: rates[:, 2] / rates[:, 1] - 1,
    }
    for row in rows:
        limits = np.percentile(expected[row["metric"]], [2.5, 97.5])
        assert (row["low"], row["high"]) == pytest.approx(tuple(limits))


def test_a_lora_that_forgets_nothing_leaves_no_gain() -> None:
    typical = scores(backbone=6, lora=6, blora=3)
    rows = forgetting_rows(typical, {"recorded": typical}, "blora", "lora")
    gain = next(row for row in rows if row["metric"] == GAIN)
    assert gain["value"] is None
    assert "does not degrade" in gain["reason"]


def test_a_lora_that_may_not_forget_gives_no_interval() -> None:
    # One speaker of six carries the whole degradation: many draws are without them.
    counts = {
        "backbone": [EditCounts(20)] * 6,
        "lora": [EditCounts(10, 10), *[EditCounts(20)] * 5],
        "blora": [EditCounts(15, 5), *[EditCounts(20)] * 5],
    }
    meta = {"speaker": list("abcdef")}
    typical = Scores(protocol("spoken"), "wer", meta, counts)
    rows = forgetting_rows(typical, {"recorded": typical}, "blora", "lora")
    gain = next(row for row in rows if row["metric"] == GAIN)
    assert gain["value"] == pytest.approx(0.5)
    assert gain["low"] is None
    assert "not clearly above zero" in gain["reason"]
    loss = next(row for row in rows if row["metric"] == TARGET_LOSS)
    assert loss["low"] is None  # a draw in which the LoRA makes no error
    assert "no errors to compare with" in loss["reason"]


def test_one_speaker_has_no_interval() -> None:
    typical = scores(1, backbone=2, lora=6, blora=3)
    for row in forgetting_rows(typical, {"recorded": typical}, "blora", "lora"):
        assert row["low"] is None
        assert row["reason"] == "one speaker: no interval"
