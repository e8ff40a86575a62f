"""How sure a rate or a difference is: speaker-clustered bootstrap, permutation test, Holm.

Utterances of one person are alike, so whole speakers are drawn, never utterances.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hyperasr.errors import ConfigError
from hyperasr.metrics.error_rates import EditCounts, fraction, same_length

# Speakers drawn at once: 8 MB an array, which stays in cache better than all resamples together.
DRAWS_AT_ONCE = 1_000_000
# Exchanges of two systems' results that are all tried. Few of them decide a small p, which random
# draws would hit by chance.
_ALL_TRIED = 2**16
PERCENTILES = 2.5, 97.5
"""Between which an interval lies: 95 %."""
ONE_SPEAKER = "one speaker: no interval"
NO_WORDS = "a speaker without reference words: no interval"

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A measured rate or difference of rates with its confidence interval.

    Attributes:
        value: the measurement on all utterances, a fraction.
        low, high: the interval, fractions; None where there is none.
        n_utterances, n_speakers: what it was measured on.
        reason: why there is no interval; None where there is one.
        p: of a difference, the two-sided p-value of a speaker-clustered permutation test.
    """

    value: float
    low: float | None
    high: float | None
    n_utterances: int
    n_speakers: int
    reason: str | None = None
    p: float | None = None


class SpeakerBootstrap:
    """Draws of whole speakers, made once for all systems that were scored on the same utterances.

    Each of `n_resamples` draws takes as many speakers as there are, with replacement, and gives a
    corpus rate; the interval is between the percentiles of these rates. One seed gives one result
    for one set of utterances, however they are ordered.

    Args:
        speakers: of each utterance; every list of counts must have one for each (`ShapeError`).
        n_resamples: draws.
        seed: of the random generator.
        clip: errors of an utterance count up to its reference units (100 %) only.
    Raises:
        ConfigError: there are no utterances, or an option is out of its range.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile
        interval); Field and Welsh 2007, Bootstrapping clustered data, J. R. Stat. Soc. B 69.
    """

    def __init__(
        self,
        speakers: Sequence[str],
        *,
        n_resamples: int = 10_000,
        seed: int = 0,
        clip: bool = False,
    ) -> None:
        if n_resamples < 1:
            raise ConfigError(f"a bootstrap needs at least 1 resample, not {n_resamples}")
        if not len(speakers):
            raise ConfigError("there are no utterances to score; check the cohort and the split")
        self.speakers = speakers
        self.n_resamples, self.seed, self.clip = n_resamples, seed, clip
        # In the order of their names, so that the order of utterances does not matter.
        names, self._index = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
        self.n_speakers = len(names)

    def rate(self, counts: Sequence[EditCounts]) -> Interval:
        """Return the corpus rate of one system with its interval."""
        sums = self._sums(counts)
        value = fraction(*map(float, sums.sum(0)))
        return self._interval(value, _ratio(self._draws @ sums))

    def difference(self, a: Sequence[EditCounts], b: Sequence[EditCounts]) -> Interval:
        """Return the corpus rate of system a minus that of system b, with a paired interval.

        Both are scored on the same utterances, in the same order, and every draw of speakers
        serves both: what makes a speaker hard cancels. Below 0 system a is the better one.
        """
        sums = self._sums(a), self._sums(b)
        with np.errstate(invalid="ignore"):
            rates = _ratio(self._draws @ sums[0]) - _ratio(self._draws @ sums[1])
        values = [fraction(*map(float, s.sum(0))) for s in sums]
        return self._interval(values[0] - values[1], rates, self._permuted(*sums))

    def resampled(self, counts: Sequence[EditCounts]) -> _Floats:
        """Return the corpus rate of every draw (n_resamples,), for statistics of several systems.

        Draw k is of the same speakers for every system.
        """
        return _ratio(self._draws @ self._sums(counts))

    def _sums(self, counts: Sequence[EditCounts]) -> _Floats:
        """Sum errors and reference units by speaker (n_speakers, 2); exact, whole or half."""
        same_length("edit counts", counts, "speakers", self.speakers)
        errors = [c.clipped if self.clip else c.errors for c in counts]
        columns = (errors, [c.n_reference for c in counts])
        return np.stack(
            [np.bincount(self._index, weights=c, minlength=self.n_speakers) for c in columns], 1
        )

    @cached_property
    def _draws(self) -> _Floats:
        """How often each speaker came in every draw of n_speakers (n_resamples, n_speakers).

        A count for each speaker turns adding up into one matrix product for all columns.
        """
        rng, size = np.random.default_rng(self.seed), self.n_speakers
        step, blocks = max(1, DRAWS_AT_ONCE // size), []
        for start in range(0, self.n_resamples, step):
            n = min(step, self.n_resamples - start)
            cells = rng.integers(size, size=(n, size)) + size * np.arange(n)[:, None]
            times = np.bincount(cells.ravel(), minlength=n * size).reshape(n, size)
            blocks.append(times.astype(np.float64))
        return np.concatenate(blocks)

    def _permuted(self, a: _Floats, b: _Floats) -> float | None:
        """Return the p-value of exchanging the two systems' results within whole speakers.

        If the systems are alike, each speaker's two results could as well be the other way round.
        p is the share of exchanges that give at least the measured difference. All of them are
        tried with up to 16 speakers; with more, as many as there are resamples are drawn and the
        measured one counts among them, so that p is never 0.

        Source: Good 2000, Permutation Tests, 2nd ed.; Phipson and Smyth 2010, Permutation p-values
            should never be zero, Stat. Appl. Genet. Mol. Biol. 9.
        """
        if self.n_speakers < 2:
            return None
        exact = 2**self.n_speakers <= _ALL_TRIED
        measured = _gap(a.sum(0)[None], b.sum(0)[None])[0]
        n_more, n_all = (0, 0) if exact else (1, 1)
        for exchanged in self._exchanges(exact):
            moved = exchanged @ (b - a)
            gaps = _gap(a.sum(0) + moved, b.sum(0) - moved)
            # Sums in another order differ in the last bit; equal differences must count as equal.
            n_more += int((gaps >= measured * (1 - 1e-9) - 1e-12).sum())
            n_all += len(gaps)
        return n_more / n_all

    def _exchanges(self, exact: bool) -> Iterator[_Floats]:
        """Yield which speakers are exchanged (n, n_speakers), 0 or 1."""
        size = self.n_speakers
        if exact:
            yield (np.arange(2**size)[:, None] >> np.arange(size) & 1).astype(np.float64)
            return
        rng, step = np.random.default_rng([self.seed, 1]), max(1, DRAWS_AT_ONCE // size)
        for start in range(0, self.n_resamples, step):
            n = min(step, self.n_resamples - start)
            yield rng.integers(2, size=(n, size)).astype(np.float64)

    def _interval(self, value: float, rates: _Floats, p: float | None = None) -> Interval:
        """Put the percentiles of the draws around a value, or the reason why there are none."""
        n_utterances, n_speakers = len(self.speakers), self.n_speakers
        with np.errstate(invalid="ignore"):
            low, high = np.percentile(rates, PERCENTILES)
        if n_speakers < 2:
            return Interval(value, None, None, n_utterances, n_speakers, ONE_SPEAKER)
        if not (np.isfinite(low) and np.isfinite(high)):
            return Interval(value, None, None, n_utterances, n_speakers, NO_WORDS)
        return Interval(value, float(low), float(high), n_utterances, n_speakers, p=p)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust the p-values of one family of comparisons, so that none is significant by number.

    Args:
        p_values: of every comparison of a table; None where there is no test, which then is not
            part of the family.
    Returns:
        Adjusted p-values in the same order, at most 1.
    Raises:
        ConfigError: a p-value outside [0, 1].
    Source: Holm 1979, A simple sequentially rejective multiple test procedure, Scand. J. Stat. 6.
    """
    tested = [(p, i) for i, p in enumerate(p_values) if p is not None]
    wrong = [p for p, _ in tested if not 0 <= p <= 1]
    if wrong:
        raise ConfigError(f"a p-value is in [0, 1], not {wrong[0]}")
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(sorted(tested)):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = largest
    return adjusted


def _ratio(sums: _Floats) -> _Floats:
    """Errors over units with 0/0 = 0, as `EditCounts.rate`; (n, 2) -> (n,)."""
    errors, units = sums[:, 0], sums[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((errors == 0) & (units == 0), 0.0, errors / units)


def _gap(a: _Floats, b: _Floats) -> _Floats:
    """Absolute difference of two rates; one that cannot be told is as large as any."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.abs(_ratio(a) - _ratio(b)), nan=np.inf)
