"""Consensus and word disagreement against alignments made by hand and by brute force."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperasr.metrics.error_rates import word_edits
from hyperasr.metrics.uncertainty import consensus, disagreement, word_correctness

texts = st.lists(st.sampled_from("abc"), max_size=5).map(" ".join)


def agreed(*samples: str) -> str:
    return consensus(samples, [0.0] * len(samples))


def test_consensus_and_disagreement_by_hand() -> None:
    samples = ["turn it on", "turn it on", "turn it off", "turn on", "burn it on now"]
    assert agreed(*samples) == "turn it on"
    assert disagreement("turn it on", samples) == pytest.approx((1 / 5, 1 / 5, 1 / 5))


def test_one_sample_is_its_own_consensus_without_doubt() -> None:
    assert agreed("a  b") == "a b"
    assert disagreement("a b", ["a  b"]) == (0.0, 0.0)


def test_the_middle_wins_over_the_first() -> None:
    assert agreed("a b c d", "x b c d", "x b c y") == "x b c d"


def test_ties_go_to_the_score_and_then_to_the_first() -> None:
    assert agreed("a", "b") == "a"
    assert consensus(["a", "b"], [-2.0, -1.0]) == "b"
    assert consensus(["a", "b", "b"], [0.0, -9.0, -1.0]) == "b"  # edits count before scores


def test_silence_is_a_transcript_like_any_other() -> None:
    assert agreed("", "", "hello") == ""
    assert disagreement("", ["", "", "hello"]) == ()
    assert disagreement("hello", ["hello", "hello", ""]) == pytest.approx((1 / 3,))


@given(st.lists(texts, min_size=1, max_size=6))
def test_consensus_is_the_minimum_over_all_samples(samples) -> None:
    expected = [sum(word_edits(b, a).errors for b in samples) for a in samples]
    assert agreed(*samples) == samples[expected.index(min(expected))]


@given(texts, st.lists(texts, min_size=1, max_size=5))
def test_disagreement_is_the_mean_of_single_alignments(text, samples) -> None:
    single = [word_correctness(sample, text) for sample in samples]
    for i, share in enumerate(disagreement(text, samples)):
        assert share == pytest.approx(sum(not same[i] for same in single) / len(samples))


@given(texts, texts)
def test_matches_are_the_hits_of_a_best_alignment(a, b) -> None:
    same = word_correctness(b, a)
    words, others = a.split(), b.split()
    assert len(same) == len(words)
    # Some choice of as many words of b, in order, is exactly what matched.
    kept = [w for w, ok in zip(words, same, strict=True) if ok]
    chosen = itertools.combinations(others, len(kept))
    assert any(list(c) == kept for c in chosen)
    assert sum(same) == word_edits(a, b).hits


def test_words_are_right_where_the_alignment_says_so() -> None:
    assert word_correctness("turn the light on", "turn light off") == [True, True, False]
    assert word_correctness("", "uh") == [False]
    assert word_correctness("a b", "") == []
    assert word_correctness("a b", "a x b") == [True, False, True]
