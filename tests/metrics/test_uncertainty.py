"""Consensus and word disagreement against alignments made by hand and by brute force."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperasr.errors import ConfigError
from hyperasr.metrics.error_rates import word_edits
from hyperasr.metrics.uncertainty import consensus, disagreement, word_correctness, word_matches

texts = st.lists(st.sampled_from("abc"), max_size=5).map(" ".join)


def test_consensus_and_disagreement_by_hand() -> None:
    samples = ["turn it on", "turn it on", "turn it off", "turn on", "burn it on now"]
    found = consensus(samples)
    assert found.index == 0
    assert found.text == "turn it on"
    assert found.expected_edits == pytest.approx((0 + 0 + 1 + 1 + 2) / 5)
    assert found.disagreement == pytest.approx((1 / 5, 1 / 5, 1 / 5))
    assert found.missing == pytest.approx(1 / 5)  # "now"


def test_one_sample_is_its_own_consensus_without_doubt() -> None:
    found = consensus(["a  b"])
    assert (found.text, found.disagreement, found.expected_edits) == ("a b", (0.0, 0.0), 0.0)


def test_the_middle_wins_over_the_first() -> None:
    assert consensus(["a b c d", "x b c d", "x b c y"]).index == 1


def test_ties_go_to_the_score_and_then_to_the_first() -> None:
    assert consensus(["a", "b"]).index == 0
    assert consensus(["a", "b"], [-2.0, -1.0]).index == 1
    assert consensus(["a", "b", "b"], [0.0, -9.0, -1.0]).index == 2  # edits count before scores


def test_silence_is_a_transcript_like_any_other() -> None:
    found = consensus(["", "", "hello"])
    assert (found.text, found.disagreement) == ("", ())
    assert found.missing == pytest.approx(1 / 3)
    assert consensus(["hello", "hello", ""]).disagreement == pytest.approx((1 / 3,))


@given(st.lists(texts, min_size=1, max_size=6))
def test_consensus_is_the_minimum_over_all_samples(samples) -> None:
    found = consensus(samples)
    expected = [sum(word_edits(b, a).errors for b in samples) / len(samples) for a in samples]
    assert found.expected_edits == pytest.approx(min(expected))
    assert found.index == expected.index(min(expected))
    assert all(0 <= d <= 1 - 1 / len(samples) for d in found.disagreement)


@given(texts, st.lists(texts, min_size=1, max_size=5))
def test_disagreement_is_the_mean_of_single_alignments(text, samples) -> None:
    shares, missing = disagreement(text, samples)
    single = [word_matches(text, sample) for sample in samples]
    for i, share in enumerate(shares):
        assert share == pytest.approx(sum(not same[i] for same, _ in single) / len(samples))
    assert missing == pytest.approx(sum(n for _, n in single) / len(samples))


@given(texts, texts)
def test_matches_are_the_hits_of_a_best_alignment(a, b) -> None:
    same, beyond = word_matches(a, b)
    words, others = a.split(), b.split()
    assert len(same) == len(words)
    # Some choice of as many words of b, in order, is exactly what matched.
    kept = [w for w, ok in zip(words, same, strict=True) if ok]
    chosen = itertools.combinations(others, len(kept))
    assert any(list(c) == kept for c in chosen)
    counts = word_edits(a, b)
    assert sum(same) == counts.hits
    assert beyond == counts.insertions


def test_words_are_right_where_the_alignment_says_so() -> None:
    assert word_correctness("turn the light on", "turn light off") == [True, True, False]
    assert word_correctness("", "uh") == [False]
    assert word_correctness("a b", "") == []
    assert word_correctness("a b", "a x b") == [True, False, True]


@pytest.mark.parametrize(
    "call", [lambda: consensus([]), lambda: consensus(["a"], []), lambda: disagreement("a", [])]
)
def test_bad_input_is_one_clear_error(call) -> None:
    with pytest.raises(ConfigError, match="sample"):
        call()
