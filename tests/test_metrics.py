"""Edit counts against hand counts and jiwer, intervals against plain loops."""

from __future__ import annotations

import math
import random
import time

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperasr import metrics
from hyperasr.errors import ConfigError, ShapeError
from hyperasr.metrics import (
    EditCounts,
    bootstrap,
    bootstrap_difference,
    char_edits,
    clipped_rate,
    edit_counts,
    error_rate,
    macro_by_speaker,
    relative_reduction,
    score,
    word_edits,
)
from hyperasr.text import normaliser

SENTENCES = st.lists(
    st.lists(st.sampled_from(["on", "off", "light", "the", "o"]), max_size=7).map(" ".join),
    min_size=2,
    max_size=12,
)


def corpus(n_utt: int, n_speakers: int, seed: int) -> tuple[list[EditCounts], list[str]]:
    """Make edit counts whose rate differs from speaker to speaker."""
    rng = random.Random(seed)
    hard = [rng.random() for _ in range(n_speakers)]
    counts, speakers = [], []
    for _ in range(n_utt):
        who = rng.randrange(n_speakers)
        n, wrong = rng.randint(1, 9), 0
        wrong = sum(rng.random() < hard[who] for _ in range(n))
        counts.append(EditCounts(n - wrong, wrong, 0, rng.randint(0, 1)))
        speakers.append(f"speaker {who}")
    return counts, speakers


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
    assert char_edits(reference, hypothesis) == expected


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
    for unit, split in (("word", str.split), ("char", list)):
        batched = edit_counts(references, hypotheses, unit)
        for reference, hypothesis, counts in zip(references, hypotheses, batched, strict=True):
            a, b = split(reference), split(hypothesis)
            assert counts.errors == plain_distance(a, b)
            assert counts.n_reference == len(a)
            assert counts.hits + counts.substitutions + counts.insertions == len(b)
            assert counts == edit_counts([reference], [hypothesis], unit)[0]


@given(texts=SENTENCES)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_rates_equal_those_of_jiwer(texts: list[str]) -> None:
    references = [text or "on" for text in texts]
    hypotheses = texts[1:] + texts[:1]
    assert error_rate(edit_counts(references, hypotheses)) == jiwer.wer(references, hypotheses)
    assert error_rate(edit_counts(references, hypotheses, "char")) == jiwer.cer(
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


def test_score_normalises_both_sides() -> None:
    references, hypotheses = ["Um, the light!"], ["the LIGHT"]
    assert score(references, hypotheses, normaliser("spoken")) == [EditCounts(2, 0, 1, 0)]
    assert score(references, hypotheses, normaliser("whisper")) == [EditCounts(2, 0, 0, 0)]
    assert score(references, hypotheses, normaliser("whisper"), "cer") == [EditCounts(9)]


def plain_bootstrap(
    systems: list[list[EditCounts]], speakers: list[str], n_resamples: int, seed: int
) -> list[float]:
    """Draw speakers one resample at a time and pool all their utterances."""
    rng = np.random.default_rng(seed)
    names = sorted(set(speakers))
    rates = []
    for _ in range(n_resamples):
        drawn = [names[i] for i in rng.integers(len(names), size=len(names))]
        pooled = [
            sum(
                (
                    c
                    for name in drawn
                    for c, who in zip(counts, speakers, strict=True)
                    if who == name
                ),
                EditCounts(),
            ).rate
            for counts in systems
        ]
        rates.append(pooled[0] - sum(pooled[1:]))
    return rates


@pytest.mark.parametrize("draws_at_once", [10, 1_000_000])
def test_bootstrap_is_the_plain_loop(draws_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "DRAWS_AT_ONCE", draws_at_once)
    counts, speakers = corpus(60, 7, seed=1)
    found = bootstrap(counts, speakers, n_resamples=200, seed=3, level=0.9)
    low, high = np.percentile(plain_bootstrap([counts], speakers, 200, 3), [5, 95])
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert (found.value, found.n_utterances) == (error_rate(counts), 60)
    assert found.n_speakers == len(set(speakers)) == 7


def test_paired_bootstrap_is_the_plain_loop() -> None:
    a, speakers = corpus(60, 7, seed=1)
    b = [EditCounts(max(c.hits - 1, 0), c.substitutions + min(c.hits, 1)) for c in a]
    found = bootstrap_difference(a, b, speakers, n_resamples=200, seed=3)
    low, high = np.percentile(plain_bootstrap([a, b], speakers, 200, 3), [2.5, 97.5])
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.value == error_rate(a) - error_rate(b)


def test_pairing_cancels_what_makes_a_speaker_hard() -> None:
    a, speakers = corpus(400, 20, seed=2)
    b = [EditCounts(c.hits, c.substitutions, 0, c.insertions + 1) for c in a]
    alone = bootstrap(a, speakers)
    paired = bootstrap_difference(a, b, speakers)
    assert paired.high is not None
    assert paired.low is not None
    assert alone.high is not None
    assert alone.low is not None
    assert paired.high < 0
    assert paired.high - paired.low < (alone.high - alone.low) / 3
    same = bootstrap_difference(a, a, speakers)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_clusters_widen_the_interval() -> None:
    counts, speakers = corpus(400, 8, seed=5)
    by_speaker = bootstrap(counts, speakers)
    by_utterance = bootstrap(counts, [str(i) for i in range(len(counts))])
    assert by_speaker.high is not None
    assert by_speaker.low is not None
    assert by_utterance.high is not None
    assert by_utterance.low is not None
    assert by_speaker.low < by_speaker.value < by_speaker.high
    assert by_speaker.high - by_speaker.low > 2 * (by_utterance.high - by_utterance.low)


def test_the_interval_covers() -> None:
    """In 95 % of experiments a 95 % interval of 40 speakers holds the truth, give or take."""
    rng = np.random.default_rng(0)
    covered = 0
    for experiment in range(200):
        counts, speakers = [], []
        for who, rate in enumerate(rng.beta(2, 6, size=40)):
            wrong = int(rng.binomial(50, rate))
            counts.append(EditCounts(50 - wrong, wrong))
            speakers.append(str(who))
        found = bootstrap(counts, speakers, n_resamples=500, seed=experiment)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.25 <= found.high
    assert 0.89 <= covered / 200 <= 0.99


def test_seed_decides_and_order_does_not() -> None:
    counts, speakers = corpus(60, 7, seed=1)
    first = bootstrap(counts, speakers, n_resamples=300, seed=4)
    assert bootstrap(counts, speakers, n_resamples=300, seed=4) == first
    assert bootstrap(counts, speakers, n_resamples=300, seed=5) != first
    assert bootstrap(counts[::-1], speakers[::-1], n_resamples=300, seed=4) == first


def test_one_speaker_has_no_interval() -> None:
    found = bootstrap([EditCounts(3, 1), EditCounts(4)], ["ann", "ann"])
    assert (found.value, found.low, found.high, found.n_speakers) == (1 / 8, None, None, 1)
    paired = bootstrap_difference([EditCounts(3, 1)], [EditCounts(4)], ["ann"])
    assert (paired.value, paired.low, paired.high) == (1 / 4, None, None)


def test_speakers_without_a_word_give_no_infinite_limits() -> None:
    found = bootstrap([EditCounts(insertions=1), EditCounts(4)], ["silent", "ann"])
    assert (found.value, found.low, found.high) == (1 / 4, None, None)


def test_ten_thousand_resamples_of_many_speakers_are_fast() -> None:
    counts, speakers = corpus(5_000, 2_000, seed=0)
    start = time.process_time()
    bootstrap(counts, speakers)
    assert time.process_time() - start < 5


def test_relative_reduction() -> None:
    assert relative_reduction(0.5, 0.125) == 0.75
    assert relative_reduction(0.2, 0.3) == pytest.approx(-0.5)
    assert relative_reduction(0.0, 0.0) == 0.0
    assert relative_reduction(0.0, 0.1) == -math.inf


def test_what_cannot_be_scored_says_so() -> None:
    one = [EditCounts(1)]
    with pytest.raises(ShapeError, match="2 references and 1 hypotheses"):
        edit_counts(["a", "b"], ["a"])
    with pytest.raises(ShapeError, match="2 references and 1 hypotheses"):
        score(["a", "b"], ["a"], str)
    with pytest.raises(ConfigError, match="'word' or 'char', not 'phone'"):
        edit_counts(["a"], ["a"], "phone")
    with pytest.raises(ConfigError, match="'wer' or 'cer', not 'mer'"):
        score(["a"], ["a"], str, "mer")
    with pytest.raises(ConfigError, match="reference 1 is None"):
        score(["a", None], ["a", "b"], str)  # type: ignore[list-item]
    for empty in (error_rate, clipped_rate):
        with pytest.raises(ConfigError, match="no utterances"):
            empty([])
    with pytest.raises(ConfigError, match="no utterances"):
        bootstrap([], [])
    with pytest.raises(ShapeError, match="1 edit counts and 2 speakers"):
        bootstrap(one, ["ann", "bob"])
    with pytest.raises(ShapeError, match="1 counts of a and 2 counts of b"):
        bootstrap_difference(one, one * 2, ["ann"])
    with pytest.raises(ConfigError, match="at least 1 resample"):
        bootstrap(one, ["ann"], n_resamples=0)
    with pytest.raises(ConfigError, match="between 0 and 1, not 95"):
        bootstrap(one, ["ann"], level=95)
    assert edit_counts([], []) == []
