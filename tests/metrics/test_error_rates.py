"""Edit counts against hand counts and jiwer, rates against hand-computed ones."""

from __future__ import annotations

import math

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperasr.errors import ConfigError, ShapeError
from hyperasr.metrics.error_rates import (
    EditCounts,
    clipped_rate,
    edit_counts,
    error_rate,
    lower_of,
    macro_by_speaker,
    score,
    word_edits,
)
from hyperasr.metrics.normalisers import normaliser

SENTENCES = st.lists(
    st.lists(st.sampled_from(["on", "off", "light", "the", "o"]), max_size=7).map(" ".join),
    min_size=2,
    max_size=12,
)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "hits", "substitutions", "deletions", "insertions"),
    [
        ("", "", 0, 0, 0, 0),
        ("turn on the light", "turn on the light", 4, 0, 0, 0),
        ("turn on the light", "turn off the light", 3, 1, 0, 0),
        ("turn on the light", "turn the light", 3, 0, 1, 0),
        ("turn on the light", "turn on on the light", 4, 0, 0, 1),
        ("turn on the light", "", 0, 0, 4, 0),
        ("", "thank you", 0, 0, 0, 2),
        ("one two three", "three two one", 1, 2, 0, 0),
        ("one\ttwo\nthree", " one two  three ", 3, 0, 0, 0),
        ("on", "on on on on", 1, 0, 0, 3),
    ],
)
def test_hand_counted_words(
    reference: str,
    hypothesis: str,
    hits: int,
    substitutions: int,
    deletions: int,
    insertions: int,
) -> None:
    expected = EditCounts(hits, substitutions, deletions, insertions)
    assert word_edits(reference, hypothesis) == expected


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("abc", "abd", EditCounts(2, 1, 0, 0)),
        ("a b", "ab", EditCounts(2, 0, 1, 0)),
        ("ab", " ab ", EditCounts(2, 0, 0, 0)),
        ("", "ab", EditCounts(0, 0, 0, 2)),
    ],
)
def test_hand_counted_characters(reference: str, hypothesis: str, expected: EditCounts) -> None:
    assert edit_counts([reference], [hypothesis], "cer")[0] == expected


def plain_distance(a: list[str], b: list[str]) -> int:
    """Levenshtein distance, as in the text book."""
    rows = [[i + j for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            rows[i][j] = min(
                rows[i - 1][j] + 1,
                rows[i][j - 1] + 1,
                rows[i - 1][j - 1] + (a[i - 1] != b[j - 1]),
            )
    return rows[-1][-1]


@given(texts=SENTENCES)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_edits_are_minimal_and_counts_fit_the_texts(texts: list[str]) -> None:
    references, hypotheses = texts[::2], texts[1::2] + [""] * (len(texts) % 2)
    for metric, split in (("wer", str.split), ("cer", list)):
        batched = edit_counts(references, hypotheses, metric)
        for reference, hypothesis, counts in zip(references, hypotheses, batched, strict=True):
            a, b = split(reference), split(hypothesis)
            assert counts.errors == plain_distance(a, b)
            assert counts.n_reference == len(a)
            assert counts.hits + counts.substitutions + counts.insertions == len(b)
            assert counts == edit_counts([reference], [hypothesis], metric)[0]


@given(texts=SENTENCES)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_rates_equal_those_of_jiwer(texts: list[str]) -> None:
    references = [text or "on" for text in texts]
    hypotheses = texts[1:] + texts[:1]
    assert error_rate(edit_counts(references, hypotheses)) == jiwer.wer(references, hypotheses)
    assert error_rate(edit_counts(references, hypotheses, "cer")) == jiwer.cer(
        references, hypotheses
    )


def test_rate_of_empty_references() -> None:
    assert EditCounts().rate == 0.0
    assert EditCounts(insertions=2).rate == math.inf
    # In a corpus the invented words count, over the words of the others.
    assert error_rate([EditCounts(insertions=2), EditCounts(hits=8)]) == 2 / 8


def test_counts_add_up() -> None:
    counts = [EditCounts(1, 2, 3, 4), EditCounts(10, 20, 30, 40)]
    total = sum(counts, EditCounts())
    assert total == EditCounts(11, 22, 33, 44)
    assert (total.n_reference, total.errors, total.rate) == (66, 99, 1.5)
    with pytest.raises(TypeError):
        EditCounts() + 1  # type: ignore[operator]


def test_clipping_is_by_utterance() -> None:
    looping, good = EditCounts(hits=2, insertions=50), EditCounts(hits=7, substitutions=1)
    assert looping.clipped == 2
    assert error_rate([looping, good]) == 51 / 10
    assert clipped_rate([looping, good]) == 3 / 10


def test_macro_counts_every_speaker_the_same() -> None:
    counts = [EditCounts(9, 1), EditCounts(9, 1), EditCounts(0, 4), EditCounts(insertions=3)]
    speakers = ["ann", "ann", "bob", "silent"]
    assert macro_by_speaker(counts, speakers) == pytest.approx((0.1 + 1.0) / 2)
    with pytest.raises(ConfigError, match="no utterance has a reference"):
        macro_by_speaker([EditCounts()], ["ann"])


@pytest.mark.parametrize(
    ("verbatim", "clean", "hypothesis", "expected"),
    [
        # The clean one fits: 0 of 2 words wrong, against 1 of 3.
        ("i- i want", "i want", "i want", EditCounts(2)),
        # The verbatim one fits.
        ("the the light", "the light", "the the light", EditCounts(3)),
        # The rate decides, not the number: 1 of 4 (25 %) against 1 of 2 (50 %).
        ("a b c d", "a b", "a b c", EditCounts(3, 0, 1, 0)),
        # Both entirely wrong: 100 % each; the mean of 3 and 1 words.
        ("a b c", "a", "x y z q", EditCounts(0, 2, 0, 2)),
        # The same text twice is counted once, and stays whole.
        ("a b", "a b", "a", EditCounts(1, 0, 1, 0)),
        # An empty reference has no rate and loses, even where nothing was written.
        ("um", "", "", EditCounts(0, 0, 1, 0)),
        ("", "", "noise", EditCounts(0, 0, 0, 1)),
        ("", "", "", EditCounts()),
    ],
)
def test_the_reference_that_fits_better_counts(verbatim, clean, hypothesis, expected) -> None:
    against = [edit_counts([text], [hypothesis]) for text in (verbatim, clean)]
    assert lower_of(*against) == [expected]
    assert lower_of(*reversed(against)) == [expected]


def test_references_that_fit_equally_well_keep_rate_and_clipping() -> None:
    # 1 of 3 and 2 of 6: the same rate, neither is preferred.
    (both,) = lower_of([EditCounts(2, 1, 0, 0)], [EditCounts(4, 0, 2, 0)])
    assert both == EditCounts(3, 0.5, 1, 0)
    assert both.rate == pytest.approx(1 / 3)
    (wrong,) = lower_of([EditCounts(0, 1, 0, 4)], [EditCounts(0, 3, 0, 0)])
    assert (wrong.clipped, wrong.n_reference) == (2, 2)


def test_score_normalises_both_sides() -> None:
    references, hypotheses = ["Um, the light!"], ["the LIGHT"]
    assert score(references, hypotheses, normaliser("spoken")) == [EditCounts(2, 0, 1, 0)]
    assert score(references, hypotheses, normaliser("whisper")) == [EditCounts(2, 0, 0, 0)]
    assert score(references, hypotheses, normaliser("whisper"), "cer") == [EditCounts(9)]


def test_what_cannot_be_scored_says_so() -> None:
    with pytest.raises(ShapeError, match="2 references and 1 hypotheses"):
        edit_counts(["a", "b"], ["a"])
    with pytest.raises(ShapeError, match="2 references and 1 hypotheses"):
        score(["a", "b"], ["a"], str)
    with pytest.raises(ConfigError, match="'wer' or 'cer', not 'mer'"):
        score(["a"], ["a"], str, "mer")
    with pytest.raises(ConfigError, match="reference 1 is None"):
        score(["a", None], ["a", "b"], str)  # type: ignore[list-item]
    for empty in (error_rate, clipped_rate):
        with pytest.raises(ConfigError, match="no utterances"):
            empty([])
    assert edit_counts([], []) == []
