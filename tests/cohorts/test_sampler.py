"""The balanced sampler: cohorts and speakers weigh the same, and a batch is its number."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from hyperasr.cohorts.sampler import BalancedSampler
from hyperasr.errors import ConfigError

# 4 speakers x 3 cohorts with very different numbers of rows.
SIZES = {
    ("stuttering", "a"): 1,
    ("stuttering", "b"): 40,
    ("parkinson", "a"): 7,
    ("typical", "a"): 3,
    ("typical", "c"): 100,
    ("typical", "d"): 5,
}
ROWS = [key for key, n in SIZES.items() for _ in range(n)]


@pytest.fixture
def sampler() -> BalancedSampler:
    return BalancedSampler([c for c, _ in ROWS], [s for _, s in ROWS], seed=1)


def test_every_cohort_weighs_the_same_in_every_batch(sampler: BalancedSampler) -> None:
    for number in range(20):
        counts = Counter(ROWS[row][0] for row in sampler.batch(number, 12))
        assert set(counts.values()) == {4}


def test_a_remainder_goes_round(sampler: BalancedSampler) -> None:
    extra = Counter(
        Counter(ROWS[row][0] for row in sampler.batch(number, 4)).most_common(1)[0][0]
        for number in range(600)
    )
    for count in extra.values():
        assert count == pytest.approx(200, abs=50)  # four deviations of a binomial


def test_speakers_weigh_the_same_within_a_cohort(sampler: BalancedSampler) -> None:
    drawn = Counter(ROWS[row] for number in range(400) for row in sampler.batch(number, 30))
    for (cohort, speaker), count in drawn.items():
        n_speakers = len({s for c, s in SIZES if c == cohort})
        assert count == pytest.approx(4_000 / n_speakers, rel=0.1), (cohort, speaker)
    assert set(drawn) == set(SIZES)


def test_every_row_of_a_speaker_is_as_likely(sampler: BalancedSampler) -> None:
    rows = [i for i, key in enumerate(ROWS) if key == ("parkinson", "a")]
    drawn = Counter(row for number in range(700) for row in sampler.batch(number, 3))
    counts = [drawn[row] for row in rows]
    assert sum(counts) == 700
    assert min(counts) > 60
    assert max(counts) < 140


def test_a_batch_is_its_number_and_the_seed(sampler: BalancedSampler) -> None:
    again = BalancedSampler([c for c, _ in ROWS], [s for _, s in ROWS], seed=1)
    other = BalancedSampler([c for c, _ in ROWS], [s for _, s in ROWS], seed=2)
    later = sampler.batch(7, 16)
    assert sampler.batch(3, 16) == again.batch(3, 16)
    assert again.batch(7, 16) == later, "whatever was drawn before"
    assert later != sampler.batch(3, 16)
    assert later != other.batch(7, 16)


def test_nothing_to_sample() -> None:
    with pytest.raises(ConfigError, match="no rows"):
        BalancedSampler([], [])


def test_batches_dealt_by_length_are_balanced_over_eight_and_hardly_padded() -> None:
    rng = random.Random(3)
    cohorts = [rng.choice("xyz") for _ in range(600)]
    speakers = [rng.choice("abcdef") for _ in range(600)]
    lengths = [rng.randint(50, 900) for _ in range(600)]
    plain = BalancedSampler(cohorts, speakers, seed=1)
    dealt = BalancedSampler(cohorts, speakers, seed=1, lengths=lengths)
    eight = [dealt.batch(number, 24) for number in range(8, 16)]
    assert eight == [dealt.batch(number, 24) for number in range(8, 16)]
    rows = [row for batch in eight for row in batch]
    assert sorted(rows) == sorted(plain.batch(1, 24 * 8))  # the same draw, dealt out differently
    counts = Counter(cohorts[row] for row in rows)
    assert max(counts.values()) - min(counts.values()) <= 1
    padded = sum(max(lengths[r] for r in batch) * len(batch) for batch in eight)
    unsorted = sum(max(lengths[r] for r in plain.batch(number, 24)) * 24 for number in range(8, 16))
    assert padded / sum(lengths[r] for r in rows) < 1.2
    assert unsorted / sum(lengths[r] for r in rows) > 1.5
