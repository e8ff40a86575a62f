"""Edit counts, error rates, and intervals by a speaker-clustered bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray

from hyperasr.errors import ConfigError, ShapeError

__all__ = [
    "METRICS",
    "EditCounts",
    "Interval",
    "bootstrap",
    "bootstrap_difference",
    "char_edits",
    "clipped_rate",
    "edit_counts",
    "error_rate",
    "macro_by_speaker",
    "relative_reduction",
    "score",
    "word_edits",
]

METRICS = {"wer": "word", "cer": "char"}

# Speakers drawn at once: 8 MB an array, which stays in cache better than all resamples together.
DRAWS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class EditCounts:
    """Edits of a best alignment of one hypothesis, or their sum over several.

    The unit is a word or a character. ``sum(counts, EditCounts())`` adds up a corpus.
    """

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def n_reference(self) -> int:
        """Units in the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors over reference units, a fraction that insertions can lift above 1.

        Nothing said and nothing written is 0.0. Words invented on an empty reference have no rate
        of their own (infinity); in a corpus they count as errors over the other references.
        """
        return _fraction(self.errors, self.n_reference)

    @property
    def clipped(self) -> int:
        """Errors of this utterance, at most its reference units (100 %).

        One looping hypothesis cannot outweigh a corpus then. Words invented on an empty reference
        clip to 0 and show among the insertions only. Clip utterances, not their sum.
        """
        return min(self.errors, self.n_reference)

    def __add__(self, other: EditCounts) -> EditCounts:
        if not isinstance(other, EditCounts):
            return NotImplemented
        return EditCounts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


@dataclass(frozen=True)
class Interval:
    """A measured rate or difference of rates with its confidence interval.

    Attributes:
        value: the measurement on all utterances, a fraction.
        low, high: the interval, fractions; None where one speaker (or no word) allows none.
        n_utterances, n_speakers: what it was measured on.
    """

    value: float
    low: float | None
    high: float | None
    n_utterances: int
    n_speakers: int


def word_edits(reference: str, hypothesis: str) -> EditCounts:
    """Count word edits of two normalised texts; words are separated by white space."""
    return edit_counts([reference], [hypothesis])[0]


def char_edits(reference: str, hypothesis: str) -> EditCounts:
    """Count character edits of two normalised texts; a space between words is a character."""
    return edit_counts([reference], [hypothesis], "char")[0]


def edit_counts(
    references: Sequence[str], hypotheses: Sequence[str], unit: str = "word"
) -> list[EditCounts]:
    """Count the edits of many pairs of normalised texts in one call.

    Args:
        references, hypotheses: one text an utterance, in the same order.
        unit: ``word`` or ``char``.
    Raises:
        ShapeError: the two lists differ in length.
        ConfigError: the unit is another, or a text is not a string (a reference is missing).
    """
    process: Callable[..., Any]
    if unit not in METRICS.values():
        raise ConfigError(f"edits are counted in units of 'word' or 'char', not {unit!r}")
    process = jiwer.process_words if unit == "word" else jiwer.process_characters
    _same_length("references", references, "hypotheses", hypotheses)
    if not references:
        return []
    # jiwer separates words at spaces only; a tab or a line end must separate them too.
    output = process(_single_spaced("reference", references), _single_spaced("text", hypotheses))
    return [_count(chunks) for chunks in output.alignments]


def _single_spaced(what: str, texts: Sequence[str]) -> list[str]:
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigError(
                f"{what} {i} is {text!r}, not a text; score only utterances that have one"
            )
    return [" ".join(text.split()) for text in texts]


def _count(chunks: Sequence[Any]) -> EditCounts:
    """Add up the chunks of one alignment of jiwer."""
    n = {"equal": 0, "substitute": 0, "delete": 0, "insert": 0}
    for chunk in chunks:
        # One of the two spans is empty in insertions and deletions; else they are equally long.
        n[chunk.type] += max(
            chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx
        )
    return EditCounts(n["equal"], n["substitute"], n["delete"], n["insert"])


def score(
    references: Sequence[str],
    hypotheses: Sequence[str],
    normaliser: Callable[[str], str],
    metric: str = "wer",
) -> list[EditCounts]:
    """Normalise both sides and count the edits of every utterance.

    Args:
        references, hypotheses: one raw text an utterance, in the same order.
        normaliser: such as `hyperasr.text.normaliser("spoken")`.
        metric: ``wer`` (words) or ``cer`` (characters).
    Raises:
        ShapeError: the two lists differ in length.
        ConfigError: the metric is another, or a text is not a string.
    """
    if metric not in METRICS:
        raise ConfigError(f"the metric is 'wer' or 'cer', not {metric!r}")
    _same_length("references", references, "hypotheses", hypotheses)
    pairs = [
        [normaliser(text) if isinstance(text, str) else text for text in texts]
        for texts in (references, hypotheses)
    ]
    return edit_counts(pairs[0], pairs[1], METRICS[metric])


def error_rate(counts: Sequence[EditCounts]) -> float:
    """Return the corpus rate: all errors over all reference units (a fraction).

    Raises:
        ConfigError: there are no utterances; an empty cohort has no error rate, not 0 %.
    """
    _not_empty(counts)
    return sum(counts, EditCounts()).rate


def clipped_rate(counts: Sequence[EditCounts]) -> float:
    """Return the corpus rate with the errors of each utterance clipped at its reference units.

    Raises:
        ConfigError: there are no utterances.
    """
    _not_empty(counts)
    return _fraction(sum(c.clipped for c in counts), sum(c.n_reference for c in counts))


def macro_by_speaker(counts: Sequence[EditCounts], speakers: Sequence[str]) -> float:
    """Return the mean over speakers of each one's corpus rate: every person counts the same.

    Speakers without any reference unit have no rate and are left out.

    Raises:
        ShapeError: not one speaker an utterance.
        ConfigError: there are no utterances, or none with a reference.
    """
    sums, _ = _by_speaker([counts], speakers)
    errors, units = sums[:, 0], sums[:, 1]
    if not units.any():
        raise ConfigError("no utterance has a reference; a mean over speakers needs one")
    return float((errors[units > 0] / units[units > 0]).mean())


def bootstrap(
    counts: Sequence[EditCounts],
    speakers: Sequence[str],
    *,
    n_resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the corpus rate with a speaker-clustered percentile bootstrap interval.

    Utterances of one person are alike, so whole speakers are drawn with replacement, as many as
    there are; each draw gives a corpus rate. With one speaker there is no interval (None). The
    order of the utterances does not matter.

    Args:
        counts, speakers: one of each an utterance.
        n_resamples: draws.
        seed: of the random generator.
        level: coverage, between 0 and 1.
    Raises:
        ShapeError: not one speaker an utterance.
        ConfigError: there are no utterances, or an option is out of its range.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile
        interval); Field and Welsh 2007, Bootstrapping clustered data, J. R. Stat. Soc. B 69.
    """
    _check_options(n_resamples, level)
    sums, n_speakers = _by_speaker([counts], speakers)
    draws = _resample(sums, n_resamples, seed)
    low, high = _limits(_ratio(draws[:, 0], draws[:, 1]), n_speakers, level)
    return Interval(error_rate(counts), low, high, len(counts), n_speakers)


def bootstrap_difference(
    counts_a: Sequence[EditCounts],
    counts_b: Sequence[EditCounts],
    speakers: Sequence[str],
    *,
    n_resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the corpus rate of system a minus that of system b, with a paired interval.

    Both systems are scored on the same utterances, in the same order, and every draw of speakers
    serves both: what makes a speaker hard cancels. Below 0 system a is the better one. Options,
    errors and source as in `bootstrap`.
    """
    _check_options(n_resamples, level)
    _same_length("counts of a", counts_a, "counts of b", counts_b)
    sums, n_speakers = _by_speaker([counts_a, counts_b], speakers)
    draws = _resample(sums, n_resamples, seed)
    with np.errstate(invalid="ignore"):
        rates = _ratio(draws[:, 0], draws[:, 1]) - _ratio(draws[:, 2], draws[:, 3])
    low, high = _limits(rates, n_speakers, level)
    value = error_rate(counts_a) - error_rate(counts_b)
    return Interval(value, low, high, len(counts_a), n_speakers)


def relative_reduction(base: float, system: float) -> float:
    """Return the share of the base's error that the system removes; negative where it adds.

    A base without error leaves nothing to remove: 0.0 if the system has none, else -infinity.
    """
    if base == 0:
        return 0.0 if system == 0 else -math.inf
    return (base - system) / base


def _by_speaker(
    systems: Sequence[Sequence[EditCounts]], speakers: Sequence[str]
) -> tuple[NDArray[np.float64], int]:
    """Sum errors and reference units by speaker: (n_speakers, 2 * n_systems), and n_speakers.

    Speakers are in the order of their names, so that a seed gives one result for one set of
    utterances however they are ordered. The sums are exact: whole numbers in float64.
    """
    _not_empty(speakers)
    columns = []
    for counts in systems:
        _same_length("edit counts", counts, "speakers", speakers)
        columns.append([c.errors for c in counts])
        columns.append([c.n_reference for c in counts])
    names, index = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    sums = [np.bincount(index, weights=column, minlength=len(names)) for column in columns]
    return np.stack(sums, axis=1), len(names)


def _resample(sums: NDArray[np.float64], n_resamples: int, seed: int) -> NDArray[np.float64]:
    """Draw n_speakers rows with replacement and add them up, n_resamples times."""
    rng = np.random.default_rng(seed)
    n_speakers = len(sums)
    step = max(1, DRAWS_AT_ONCE // n_speakers)
    draws = []
    for start in range(0, n_resamples, step):
        n = min(step, n_resamples - start)
        drawn = rng.integers(n_speakers, size=(n, n_speakers))
        # How often each speaker was drawn, then one matrix product for all columns.
        cells = drawn + n_speakers * np.arange(n)[:, None]
        times = np.bincount(cells.ravel(), minlength=n * n_speakers).reshape(n, n_speakers)
        draws.append(times.astype(np.float64) @ sums)
    return np.concatenate(draws)


def _ratio(errors: NDArray[np.float64], units: NDArray[np.float64]) -> NDArray[np.float64]:
    """Errors over units with 0/0 = 0, as `EditCounts.rate`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((errors == 0) & (units == 0), 0.0, errors / units)


def _limits(
    rates: NDArray[np.float64], n_speakers: int, level: float
) -> tuple[float | None, float | None]:
    tail = 100 * (1 - level) / 2
    with np.errstate(invalid="ignore"):
        low, high = np.percentile(rates, [tail, 100 - tail])
    if n_speakers < 2 or not (np.isfinite(low) and np.isfinite(high)):
        return None, None
    return float(low), float(high)


def _fraction(errors: int, units: int) -> float:
    if units:
        return errors / units
    return math.inf if errors else 0.0


def _check_options(n_resamples: int, level: float) -> None:
    if n_resamples < 1:
        raise ConfigError(f"a bootstrap needs at least 1 resample, not {n_resamples}")
    if not 0 < level < 1:
        raise ConfigError(f"the level of an interval is between 0 and 1, not {level}")


def _not_empty(items: Sequence[Any]) -> None:
    if not len(items):
        raise ConfigError("there are no utterances to score; check the cohort and the split")


def _same_length(name_a: str, a: Sequence[Any], name_b: str, b: Sequence[Any]) -> None:
    if len(a) != len(b):
        raise ShapeError(f"{len(a)} {name_a} and {len(b)} {name_b}; give one of each an utterance")
