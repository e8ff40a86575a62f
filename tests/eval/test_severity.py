"""Worst group, gap and slope, from counts small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest

from eval.lib.scores import Scores
from eval.severity import gap_rows, level_rows, slope_rows, weighted_slope
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.metrics.protocols import protocol


@pytest.fixture
def scores() -> Scores:
    """Six speakers; errors of 10 words rise with severity, faster without the hypernetwork."""
    meta: dict[str, list] = {
        k: [] for k in ("id", "speaker", "cohort", "domain", "severity", "source", "person")
    }
    counts: dict[str, list[EditCounts]] = {"backbone": [], "hypernet": []}
    for speaker in "abcdef":
        for cohort, extra in (("stuttering", 2), ("parkinson", 0), ("typical", 0)):
            for level in (0.25, 0.5, 0.75, 1.0) if cohort != "typical" else (0.0,):
                domain = "simulated" if level else "recorded"
                values = (f"{speaker}{len(meta['id'])}", speaker, cohort, domain, level, "libri")
                for key, value in zip(meta, (*values, f"{speaker}-{cohort}"), strict=True):
                    meta[key].append(value)
                for system, slope in (("backbone", 8), ("hypernet", 4)):
                    errors = round(slope * level) + (extra if level else 0)
                    counts[system].append(EditCounts(hits=10 - errors, substitutions=errors))
    return Scores(protocol("spoken"), "wer", meta, counts)


def test_levels_have_errors_and_differences(scores) -> None:
    rows = level_rows(scores)
    by = {(r["system"], r.get("against"), r["cohort"], r.get("severity")): r for r in rows}
    assert len(by) == len(rows)
    assert by["backbone", None, "stuttering", 1.0]["value"] == pytest.approx(1.0)
    assert by["hypernet", "backbone", "parkinson", 0.5]["value"] == pytest.approx(-0.2)
    assert by["hypernet", "backbone", "parkinson", 0.5]["n_speakers"] == 6
    assert by["backbone", None, "atypical", 0.25]["value"] == pytest.approx(0.3)


def test_the_worst_group_and_its_gap_by_hand(scores) -> None:
    rows = {(r["system"], r["measure"]): r for r in gap_rows(scores, 200)}
    worst = rows["backbone", "worst_group"]
    assert (worst["worst"], worst["best"]) == ("stuttering", "typical")
    # Mean over severities: 2, 4, 6, 8 and 2 more of 10.
    assert worst["value"] == rows["backbone", "gap"]["value"] == pytest.approx(0.7)
    assert rows["hypernet", "gap_difference"]["value"] == pytest.approx(0.45 - 0.7)
    # All speakers are alike here, so nothing varies over the draws.
    assert rows["hypernet", "gap"]["low"] == pytest.approx(0.45)
    assert rows["hypernet", "gap"]["high"] == pytest.approx(0.45)


def test_gaps_are_those_of_every_draw_counted_one_by_one(scores) -> None:
    rng = np.random.default_rng(3)
    noisy = [EditCounts(hits=10 - e, substitutions=e) for e in rng.integers(0, 11, len(scores))]
    made = Scores(scores.protocol, "wer", scores.meta, {"backbone": noisy})
    row = next(r for r in gap_rows(made, 3000) if r["measure"] == "gap")
    groups = {c: made.pick(cohort=c) for c in ("stuttering", "parkinson", "typical")}
    speakers = np.array(scores.meta["speaker"])
    errors = np.array([c.errors for c in noisy])
    gaps = []
    for _ in range(3000):
        drawn = rng.choice(list("abcdef"), 6)
        rates = []
        for members in groups.values():
            rows = [i for s in drawn for i in members if speakers[i] == s]
            rates.append(errors[rows].mean() / 10)
        gaps.append(max(rates) - min(rates))
    low, high = np.percentile(gaps, [2.5, 97.5])
    assert row["low"] == pytest.approx(low, abs=0.02)
    assert row["high"] == pytest.approx(high, abs=0.02)


def typical_of(scores: Scores, speakers: str) -> Scores:
    """Return scores in which only some are typical, without a single hit; half right otherwise."""
    keep = [
        i
        for i in range(len(scores))
        if scores.meta["cohort"][i] != "typical" or scores.meta["speaker"][i] in speakers
    ]
    meta = {k: [v[i] for i in keep] for k, v in scores.meta.items()}
    counts = [
        EditCounts(substitutions=10) if c == "typical" else EditCounts(hits=5, substitutions=5)
        for c in meta["cohort"]
    ]
    return Scores(scores.protocol, "wer", meta, {"backbone": counts, "hypernet": counts})


def test_draws_without_a_group_do_not_count_it_as_perfect(scores) -> None:
    """Only speakers a and b are typical: a draw without both must not read 0 there."""
    made = typical_of(scores, "ab")
    row = next(r for r in gap_rows(made, 500) if r["measure"] == "gap")
    assert (row["low"], row["high"]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_a_group_of_one_speaker_has_no_interval_and_says_why(scores) -> None:
    rows = gap_rows(typical_of(scores, "a"), 500)
    assert {r["measure"] for r in rows} > {"gap", "worst_group", "gap_difference"}
    for row in rows:
        assert (row["low"], row["high"]) == (None, None)
        assert row["reason"] == "typical has one speaker: no interval"
    gap = next(r for r in rows if r["measure"] == "gap")
    assert gap["value"] == pytest.approx(0.5)


def test_slopes_by_hand_and_against_polyfit(scores) -> None:
    rows = {(r["system"], r["cohort"], r["measure"]): r for r in slope_rows(scores, 50)}
    assert rows["backbone", "parkinson", "slope"]["value"] == pytest.approx(0.8)
    assert rows["hypernet", "stuttering", "slope"]["value"] == pytest.approx(0.4)
    assert rows["backbone", "parkinson", "spearman_with_severity"]["value"] == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    x, units = rng.random(40), rng.integers(1, 9, 40).astype(float)
    errors = rng.random(40) * units
    expected = np.polyfit(x, errors / units, 1, w=np.sqrt(units))[0]
    assert weighted_slope(x, errors, units) == pytest.approx(expected)
    assert np.isnan(weighted_slope(np.ones(3), np.ones(3), np.ones(3)))
