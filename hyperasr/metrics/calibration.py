"""How well confidence tells right from wrong: ranking, calibration, and what abstaining buys.

`PlattScaling` makes calibrated probabilities of those of a model.

A confidence is the claimed probability that something (a word) is correct, in [0, 1]; an
uncertainty is any number that is higher where errors are expected. Intervals draw whole speakers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperasr.errors import ConfigError, ShapeError
from hyperasr.metrics.statistics import ONE_SPEAKER, PERCENTILES, Interval
from hyperasr.util.files import atomic_write_text

BINNINGS = ("width", "mass")
CALIBRATION_FILE = "calibration.json"
"""In a folder of adapters: how the probabilities of their words are calibrated."""
# A claim of 0 or 1 that is wrong would cost infinitely many nats.
LEAST_PROBABILITY = 1e-6
NO_STATISTIC = "undefined in some resamples (one class only): no interval"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """What is claimed with about the same confidence, and how much of it is right."""

    confidence: float
    """Mean confidence."""
    accuracy: float
    """Share that is correct."""
    n: int
    """How many."""


@dataclass(frozen=True)
class RiskCoverage:
    """Error among what is kept when the most uncertain is left out.

    Attributes:
        coverage: share of the items that are kept, ascending, the last is 1; (n_levels,).
        risk: errors an item of what is kept; (n_levels,).
        area: mean risk over all coverages, each item adding one (AURC). Lower is better.
        oracle: the area if the uncertainty ranked the same errors perfectly.
    """

    coverage: Floats
    risk: Floats
    area: float
    oracle: float


@dataclass(frozen=True)
class PlattScaling:
    """Make a calibrated probability: 1 / (1 + exp(-(slope * log odds + intercept))).

    Source: Platt 1999, Probabilistic outputs for support vector machines, in Advances in large
        margin classifiers, on the log odds of a probability instead of a margin.
    """

    slope: float
    intercept: float

    def __call__(self, probability: ArrayLike) -> Floats:
        """Return calibrated probabilities of others, of the same shape; both in [0, 1]."""
        odds = self.slope * log_odds(probability) + self.intercept
        # The logistic function, without scipy.special, which is slow to import.
        return np.asarray((1 + np.tanh(odds / 2)) / 2)

    @classmethod
    def read(cls, path: Path) -> PlattScaling | None:
        """Read what `write` wrote; None where there is no file.

        Raises:
            ConfigError: the file is damaged.
        """
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            made = cls(float(values["slope"]), float(values["intercept"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(
                f"{path} is damaged ({error!r}); fit it again or delete it"
            ) from error
        if not (math.isfinite(made.slope) and math.isfinite(made.intercept)):
            raise ConfigError(f"{path}: slope and intercept must be finite; fit it again")
        return made

    def write(self, path: Path, notes: dict[str, Any]) -> None:
        """Write it as JSON, with notes on how it was fitted."""
        atomic_write_text(path, json.dumps(asdict(self) | notes, indent=2) + "\n")


def log_odds(probability: ArrayLike) -> Floats:
    """Return log(p / (1 - p)), of probabilities cut to [1e-6, 1 - 1e-6]."""
    p = np.clip(np.asarray(probability, float), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.asarray(np.log(p) - np.log1p(-p))


def auroc(uncertainty: ArrayLike, is_error: ArrayLike) -> float:
    """Return the chance that an error is more uncertain than a correct one; ties count half.

    nan where there are no errors or nothing but errors, which leaves nothing to rank.

    Source: Hanley and McNeil 1982, The meaning and use of the area under a ROC curve, Radiology
        143 (the Mann-Whitney statistic).
    """
    from scipy.stats import rankdata

    values, errors = _pair(uncertainty, is_error, bounded=False)
    n_error = int(errors.sum())
    n_correct = len(errors) - n_error
    if not n_error or not n_correct:
        return float("nan")
    ranks = rankdata(values)
    return float((ranks[errors].sum() - n_error * (n_error + 1) / 2) / (n_error * n_correct))


def reliability(
    confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15, binning: str = "width"
) -> list[Bin]:
    """Group claims by confidence; empty bins are left out.

    Args:
        confidence: (n,) in [0, 1].
        correct: (n,) true or false.
        n_bins: at least 1.
        binning: ``width`` cuts [0, 1] into equal lengths, closed above (0 falls into the first);
            ``mass`` gives all bins the same number of claims but for one, equal confidences
            in the order of the data being cut where the number says.
    Raises:
        ConfigError: no claims, a confidence outside [0, 1], or an unknown binning.
        ShapeError: not one outcome a claim.
    """
    claims, right = _pair(confidence, correct)
    if n_bins < 1 or binning not in BINNINGS:
        raise ConfigError(f"give at least 1 bin of equal width or mass, not {n_bins} {binning!r}")
    if binning == "width":
        number = np.clip(np.ceil(claims * n_bins).astype(int) - 1, 0, n_bins - 1)
    else:
        number = np.empty(len(claims), dtype=int)
        number[np.argsort(claims, kind="stable")] = np.arange(len(claims)) * n_bins // len(claims)
    chosen = [number == b for b in range(n_bins)]
    return [
        Bin(float(claims[in_bin].mean()), float(right[in_bin].mean()), int(in_bin.sum()))
        for in_bin in chosen
        if in_bin.any()
    ]


def expected_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15, binning: str = "width"
) -> float:
    """Return the gap between confidence and accuracy, mean over claims; see `reliability`.

    Source: Naeini, Cooper and Hauskrecht 2015, Obtaining well calibrated probabilities using
        Bayesian binning, AAAI; Guo et al. 2017, On calibration of modern neural networks, ICML
        (15 bins of equal width); Nixon et al. 2019, Measuring calibration in deep learning, CVPR
        workshops (equal mass).
    """
    bins = reliability(confidence, correct, n_bins, binning)
    gaps = [b.n * abs(b.confidence - b.accuracy) for b in bins]
    return sum(gaps) / sum(b.n for b in bins)


def negative_log_likelihood(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Return the mean of -log of the probability claimed for what happened, in nats.

    Claims are cut to [1e-6, 1 - 1e-6]: one wrong claim of certainty costs 13.8 nats, not infinity.
    """
    claims, right = _pair(confidence, correct)
    p = np.clip(claims, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return float(-np.log(np.where(right, p, 1 - p)).mean())


def brier(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Return the mean squared gap between claim and outcome.

    Source: Brier 1950, Verification of forecasts expressed in terms of probability, Monthly
        Weather Review 78.
    """
    claims, right = _pair(confidence, correct)
    return float(np.square(claims - right).mean())


def smoothed(share: ArrayLike, n_samples: int) -> Floats:
    """Turn shares of K samples into claims that are never 0 or 1: (K share + 1/2) / (K + 1).

    The mean of the posterior under Jeffreys' prior, Beta(1/2, 1/2).
    """
    if n_samples < 1:
        raise ConfigError(f"n_samples is {n_samples}; it must be at least 1")
    return (n_samples * np.asarray(share, dtype=np.float64) + 0.5) / (n_samples + 1)


def risk_coverage(uncertainty: ArrayLike, errors: ArrayLike) -> RiskCoverage:
    """Return what error remains when the most uncertain items are left out.

    Among items of equal uncertainty errors are spread evenly, as over all their orders.

    Args:
        uncertainty: (n,) of each item, such as a word.
        errors: (n,) errors in it, 0 or 1 of a word.
    Raises:
        ConfigError: no items, or values that are not finite.
        ShapeError: lists of different lengths.
    Source: El-Yaniv and Wiener 2010, On the foundations of noise-free selective classification,
        JMLR 11; Geifman, Uziel and El-Yaniv 2019, Bias-reduced uncertainty estimation for deep
        neural classifiers, ICLR (the area).
    """
    values, wrong = (np.asarray(x, dtype=np.float64) for x in (uncertainty, errors))
    if values.shape != wrong.shape or values.ndim != 1:
        raise ShapeError(
            f"{values.shape} uncertainties, {wrong.shape} errors; give one of each an item"
        )
    if not (len(values) and np.isfinite(values).all() and np.isfinite(wrong).all()):
        raise ConfigError("risk needs finite uncertainties and errors, and something to be wrong")
    return RiskCoverage(*_curve(values, wrong), _curve(wrong, wrong)[2])


def _curve(values: Floats, wrong: Floats) -> tuple[Floats, Floats, float]:
    """Coverage and risk after each level of uncertainty, and the mean risk over the items."""
    _, level, n_tied = np.unique(values, return_inverse=True, return_counts=True)
    n_kept, errors = np.cumsum(n_tied), np.bincount(level, wrong)
    errors_kept = np.cumsum(errors)
    # Item by item, each of a level with the mean of its errors.
    each = np.cumsum(np.repeat(errors / n_tied, n_tied))
    n = len(values)
    area = float((each / np.arange(1, n + 1)).mean())
    return n_kept / n, errors_kept / n_kept, area


def clustered_interval(
    statistic: Callable[[NDArray[np.int64]], float],
    speakers: Sequence[str],
    *,
    n_utterances: int | None = None,
    n_resamples: int = 1_000,
    seed: int = 0,
) -> Interval:
    """Return any statistic with a percentile interval over draws of whole speakers.

    Args:
        statistic: of item numbers (with repetitions, as drawn); nan where it is not defined.
        speakers: of each item.
        n_utterances: what the items come from, for the record; None for as many as items.
        n_resamples: draws, at least 1.
        seed: of the random generator.
    Returns:
        The statistic of all items. There is no interval, and the reason instead, for one speaker,
        and where more than one draw in a hundred leaves the statistic undefined.
    Raises:
        ConfigError: no items, or an option out of range.
    Source: as `hyperasr.metrics.statistics.SpeakerBootstrap`.
    """
    if not len(speakers) or n_resamples < 1:
        raise ConfigError(
            f"an interval needs items ({len(speakers)}) and at least 1 resample ({n_resamples})"
        )
    names, index = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    # By speaker and then as given: one result however the speakers are ordered.
    items = [np.flatnonzero(index == s) for s in range(len(names))]
    n = len(speakers) if n_utterances is None else n_utterances
    value = statistic(np.concatenate(items))
    if len(names) < 2:
        return Interval(value, None, None, n, len(names), ONE_SPEAKER)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(names), size=(n_resamples, len(names)))
    values = np.array([statistic(np.concatenate([items[s] for s in row])) for row in drawn])
    defined = values[np.isfinite(values)]
    if len(defined) < 0.99 * n_resamples:
        return Interval(value, None, None, n, len(names), NO_STATISTIC)
    low, high = np.percentile(defined, PERCENTILES)
    return Interval(value, float(low), float(high), n, len(names))


def _pair(
    claims: ArrayLike, outcomes: ArrayLike, bounded: bool = True
) -> tuple[Floats, NDArray[np.bool_]]:
    values, happened = np.asarray(claims, dtype=np.float64), np.asarray(outcomes)
    if values.ndim != 1 or values.shape != happened.shape:
        raise ShapeError(
            f"{values.shape} claims and {happened.shape} outcomes; give one of each an item"
        )
    if not len(values):
        raise ConfigError("there is nothing to measure calibration on; check which rows were left")
    inside = np.isfinite(values).all() and (
        not bounded or bool(((values >= 0) & (values <= 1)).all())
    )
    if not inside:
        wanted = "probabilities in [0, 1]" if bounded else "finite numbers"
        raise ConfigError(f"claims must be {wanted}; at least one is not")
    if not np.isin(happened, (0, 1)).all():
        raise ConfigError("outcomes must be true or false")
    return values, happened.astype(bool)
