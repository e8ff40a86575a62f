"""Words and their claims: aligned by hand, fitted across speakers, measured with intervals."""

from __future__ import annotations

import numpy as np
import pytest

from eval.lib.confidence import Said, collect, fitted, platt_scaling, said, word_rows
from hyperasr.errors import ConfigError
from hyperasr.metrics.calibration import PlattScaling, auroc, negative_log_likelihood
from hyperasr.metrics.normalisers import normaliser
from hyperasr.types import Decoded


def spoken(text: str, *probabilities: float) -> Said:
    return Said(tuple(text.split()), probabilities, -1.0)


def test_words_carry_probability_disagreement_and_truth() -> None:
    words = collect(
        [spoken("turn it on", 0.9, 0.5, 0.8), spoken("", *()), spoken("red", 0.4)],
        ["turn it off", "yes", "red"],
        [["turn it on", "turn it off"], ["", ""], ["bed", "bed"]],
        ["a", "a", "b"],
    )
    assert words.utterance.tolist() == [0, 0, 0, 2]
    assert words.correct.tolist() == [True, True, False, True]
    assert words.claims["token_logprob"].tolist() == [0.9, 0.5, 0.8, 0.4]
    agree = [2.5 / 3, 2.5 / 3, 1.5 / 3, 0.5 / 3]  # (agreeing + 1/2) / (2 + 1)
    assert words.claims["disagreement"] == pytest.approx(agree)
    assert list(words.speaker) == ["a", "a", "a", "b"]
    with pytest.raises(ConfigError, match="no word"):
        collect([spoken("")], ["a"], None, ["a"])


@pytest.fixture
def many():
    """Claims of which the second says more than the first, and both together most."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1500))
    correct = 0.5 * a + 1.0 * b + rng.logistic(size=1500) > -1
    speakers = [f"s{i % 10}" for i in range(1500)]
    transcripts = [spoken("x", 1 / (1 + np.exp(-x))) for x in a]
    words = collect(transcripts, ["x" if ok else "y" for ok in correct], None, speakers)
    words.claims["disagreement"] = 1 / (1 + np.exp(-b))
    return words


def test_both_together_rank_better_than_either_and_fits_calibrate(many) -> None:
    made = fitted(many)
    wrong = ~made.correct
    area = {name: auroc(1 - p, wrong) for name, p in made.claims.items()}
    assert area["combined"] > area["disagreement"] + 0.01 > area["token_logprob"] + 0.05
    # Fits of one claim move it up and down, but rank (within a fold) as it did.
    assert area["disagreement_fitted"] == pytest.approx(area["disagreement"], abs=0.01)
    nll = {n: negative_log_likelihood(p, made.correct) for n, p in made.claims.items()}
    assert nll["combined"] < nll["disagreement_fitted"] < nll["disagreement"]


def test_platt_scaling_is_calibrated_and_undoes_what_was_done(many) -> None:
    raw = many.claims["token_logprob"]
    scaling = platt_scaling(raw, many.correct)
    fit = scaling(raw)
    assert fit.mean() == pytest.approx(many.correct.mean(), abs=1e-4)
    best = negative_log_likelihood(fit, many.correct)
    for slope, intercept in ((1.1, 0.0), (0.9, 0.0), (1.0, 0.1), (1.0, -0.1)):
        near = PlattScaling(scaling.slope * slope, scaling.intercept + intercept)
        assert negative_log_likelihood(near(raw), many.correct) > best
    # Claims that are twice as sure get half the slope.
    again = platt_scaling(PlattScaling(2.0, 0.0)(raw), many.correct)
    assert (again.slope, again.intercept) == pytest.approx(
        (scaling.slope / 2, scaling.intercept), abs=1e-3
    )
    with pytest.raises(ConfigError, match="nothing to fit"):
        platt_scaling(raw, np.ones(len(raw), dtype=bool))


def test_no_speakers_own_words_are_in_its_fit(many) -> None:
    made = fitted(many)
    own = many.speaker == "s3"
    changed = many.correct.copy()
    changed[own] = ~changed[own]
    again = fitted(type(many)(many.utterance, many.speaker, changed, many.claims))
    np.testing.assert_allclose(again.claims["combined"][own], made.claims["combined"][own])
    assert not np.allclose(again.claims["combined"][~own], made.claims["combined"][~own])


def test_nothing_is_fitted_where_there_is_nothing_to_fit() -> None:
    right = collect([spoken("a", 0.9)] * 2, ["a", "a"], None, ["s", "t"])
    assert set(fitted(right).claims) == {"token_logprob"}
    alone = collect([spoken("a", 0.9)] * 2, ["a", "b"], None, ["s", "s"])
    assert set(fitted(alone).claims) == {"token_logprob"}


def test_rows_hold_every_measure_with_an_interval(many) -> None:
    rows = word_rows(fitted(many), n_resamples=50, seed=0)
    assert len({(r["score"], r["measure"], r.get("base")) for r in rows}) == len(rows)
    by = {(r["score"], r["measure"]): r for r in rows}
    row = by["combined", "auroc"]
    assert row["low"] < row["value"] < row["high"]
    assert (row["n_words"], row["n_speakers"], row["n_utterances"]) == (1500, 10, 1500)
    gains = [r for r in rows if r["measure"] == "auroc_difference"]
    assert [(r["score"], r["base"]) for r in gains] == [
        ("disagreement", "token_logprob"),
        ("combined", "token_logprob"),
        ("combined", "token_logprob_fitted"),
    ]
    assert all(r["low"] > 0 for r in gains)
    assert sum(b["n"] for b in by["combined", "ece_mass"]["bins"]) == 1500
    assert by["combined", "aurc"]["oracle"] < by["combined", "aurc"]["value"]


def test_words_come_from_tokens_and_keep_their_probability(random_backbone) -> None:
    tokens = tuple(random_backbone.text_ids("Twenty-one, yes"))
    logprobs = tuple(-0.1 * (i + 1) for i in range(len(tokens)))
    decoded = Decoded((tokens, ()), (logprobs, ()), (True, True), (-0.5, 0.0))
    first, second = said(decoded, random_backbone, normaliser("spoken"))
    assert first.words == ("twenty", "one", "yes")
    assert first.probabilities[0] == first.probabilities[1] > first.probabilities[2]
    assert (first.score, second.words) == (-0.5, ())
    joined = tuple(random_backbone.text_ids("one hundred and two"))  # becomes 102
    decoded = Decoded((joined,), ((-0.1,) * len(joined),), (True,), (-0.1,))
    with pytest.raises(ConfigError, match="across spaces"):
        said(decoded, random_backbone, normaliser("whisper"))
