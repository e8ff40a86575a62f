"""Intervals and p-values against plain loops, enumeration and hand-computed cases."""

from __future__ import annotations

import itertools
import random
import time
from typing import Any

import numpy as np
import pytest

from hyperasr.errors import ConfigError, ShapeError
from hyperasr.metrics import statistics
from hyperasr.metrics.error_rates import EditCounts, error_rate
from hyperasr.metrics.statistics import Interval, SpeakerBootstrap, holm


def bootstrap(counts: list[EditCounts], speakers: list[str], **options: Any) -> Interval:
    return SpeakerBootstrap(speakers, **options).rate(counts)


def bootstrap_difference(
    a: list[EditCounts], b: list[EditCounts], speakers: list[str], **options: Any
) -> Interval:
    return SpeakerBootstrap(speakers, **options).difference(a, b)


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
    monkeypatch.setattr(statistics, "DRAWS_AT_ONCE", draws_at_once)
    counts, speakers = corpus(60, 7, seed=1)
    found = bootstrap(counts, speakers, n_resamples=200, seed=3)
    low, high = np.percentile(plain_bootstrap([counts], speakers, 200, 3), [2.5, 97.5])
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
    assert paired.high < 0
    assert paired.high - paired.low < (alone.high - alone.low) / 3
    same = bootstrap_difference(a, a, speakers)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_clusters_widen_the_interval() -> None:
    counts, speakers = corpus(400, 8, seed=5)
    by_speaker = bootstrap(counts, speakers)
    by_utterance = bootstrap(counts, [str(i) for i in range(len(counts))])
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
        covered += found.low <= 0.25 <= found.high
    assert 0.89 <= covered / 200 <= 0.99


def test_seed_decides_and_order_does_not() -> None:
    counts, speakers = corpus(60, 7, seed=1)
    first = bootstrap(counts, speakers, n_resamples=300, seed=4)
    assert bootstrap(counts, speakers, n_resamples=300, seed=4) == first
    assert bootstrap(counts, speakers, n_resamples=300, seed=5) != first
    assert bootstrap(counts[::-1], speakers[::-1], n_resamples=300, seed=4) == first


def test_ten_thousand_resamples_and_exchanges_of_many_speakers_are_fast() -> None:
    counts, speakers = corpus(5_000, 2_000, seed=0)
    start = time.process_time()
    bootstrap_difference(counts, list(reversed(counts)), speakers)
    assert time.process_time() - start < 5


def test_clipping_bounds_the_rate_of_every_draw() -> None:
    counts = [EditCounts(hits=1, insertions=30), EditCounts(3, 1), EditCounts(4)]
    speakers = ["ann", "bob", "cay"]
    clipped = bootstrap(counts, speakers, clip=True)
    assert clipped.value == 2 / 9
    assert clipped.high <= 1.0
    assert bootstrap(counts, speakers).value == 31 / 9
    same = bootstrap_difference(counts, [EditCounts(1), *counts[1:]], speakers, clip=True)
    assert same.value == pytest.approx(1 / 9)


def plain_permutation(a: list[EditCounts], b: list[EditCounts], speakers: list[str]) -> float:
    """Exchange the systems within speakers in every possible way."""
    names = sorted(set(speakers))
    measured = abs(error_rate(a) - error_rate(b))
    n_more = 0
    for exchanged in itertools.product((False, True), repeat=len(names)):
        turned = dict(zip(names, exchanged, strict=True))
        pairs = [
            (y, x) if turned[who] else (x, y) for x, y, who in zip(a, b, speakers, strict=True)
        ]
        gap = abs(error_rate([x for x, _ in pairs]) - error_rate([y for _, y in pairs]))
        n_more += gap >= measured - 1e-12
    return n_more / 2 ** len(names)


def test_permutation_test_is_the_enumeration(monkeypatch: pytest.MonkeyPatch) -> None:
    a, speakers = corpus(60, 6, seed=1)
    b = [
        EditCounts(c.hits, c.substitutions, 0, c.insertions + (i % 3 == 0)) for i, c in enumerate(a)
    ]
    found = bootstrap_difference(a, b, speakers)
    assert found.p == pytest.approx(plain_permutation(a, b, speakers))
    # More speakers than can all be exchanged: an estimate of the same number, never 0.
    monkeypatch.setattr(statistics, "_ALL_TRIED", 2**5)
    drawn = bootstrap_difference(a, b, speakers, n_resamples=60)
    assert drawn.p == pytest.approx(found.p, abs=0.1)
    assert drawn.p >= 1 / 61


def test_permutation_test_by_hand() -> None:
    # Five speakers, each better under a: 2 of 32 exchanges (none, all) are as far apart.
    a, b = [EditCounts(10)] * 5, [EditCounts(9, 1)] * 5
    assert bootstrap_difference(a, b, list("abcde")).p == 2 / 32
    assert bootstrap_difference(a, a, list("abcde")).p == 1.0
    # One against four: |+1-4| = 3 or more in 2 * (1 + 5) of 32 exchanges.
    mixed = [EditCounts(10, 0), *[EditCounts(9, 1)] * 4]
    against = [EditCounts(9, 1), *[EditCounts(10, 0)] * 4]
    assert bootstrap_difference(mixed, against, list("abcde")).p == 12 / 32


def test_p_values_are_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(0)
    p_values = []
    for experiment in range(200):
        rates = rng.beta(2, 6, size=(12, 1))
        wrong = rng.binomial(30, rates, size=(12, 2))
        a, b = ([EditCounts(30 - int(w), int(w)) for w in column] for column in wrong.T)
        speakers = [str(i) for i in range(12)]
        found = bootstrap_difference(a, b, speakers, n_resamples=400, seed=experiment)
        p_values.append(found.p)
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.1
    assert 0.4 <= np.mean(p_values) <= 0.6


def test_one_speaker_gives_the_reason_in_place_of_an_interval() -> None:
    found = bootstrap([EditCounts(3, 1), EditCounts(4)], ["ann", "ann"])
    assert (found.value, found.low, found.high, found.n_speakers) == (1 / 8, None, None, 1)
    paired = bootstrap_difference([EditCounts(3, 1)], [EditCounts(4)], ["ann"])
    assert (paired.value, paired.low, paired.high, paired.p) == (1 / 4, None, None, None)
    assert found.reason == "one speaker: no interval"
    silent = bootstrap([EditCounts(insertions=1), EditCounts(4)], ["silent", "ann"])
    assert (silent.value, silent.low, silent.high) == (1 / 4, None, None)
    assert "without reference words" in (silent.reason or "")
    whole = bootstrap([EditCounts(3, 1), EditCounts(4)], ["ann", "bob"])
    assert whole.reason is None
    assert whole.n_speakers == 2


def test_holm_by_hand() -> None:
    # Sorted: .01 * 4, .02 * 3, .03 * 2 -> .06 (not below its predecessor), .5 * 1.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.2, None, 0.04]) == [pytest.approx(0.2), None, pytest.approx(0.08)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([None]) == [None]
    with pytest.raises(ConfigError, match="p-value is in"):
        holm([1.5])


def test_what_cannot_be_drawn_says_so() -> None:
    one = [EditCounts(1)]
    with pytest.raises(ConfigError, match="no utterances"):
        bootstrap([], [])
    with pytest.raises(ShapeError, match="1 edit counts and 2 speakers"):
        bootstrap(one, ["ann", "bob"])
    with pytest.raises(ShapeError, match="2 edit counts and 1 speakers"):
        bootstrap_difference(one, one * 2, ["ann"])
    with pytest.raises(ConfigError, match="at least 1 resample"):
        bootstrap(one, ["ann"], n_resamples=0)
