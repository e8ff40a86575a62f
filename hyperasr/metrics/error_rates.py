"""Error rates from edit counts: corpus, clipped, by speaker; errors of each kind apart.

The face of three rooms: counts (`hyperasr.metrics.edits`), rates (here) and intervals
(`hyperasr.metrics.statistics`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyperasr.errors import ConfigError
from hyperasr.metrics.edits import (
    METRICS,
    EditCounts,
    char_edits,
    edit_counts,
    fraction,
    lower_of,
    same_length,
    score,
    word_edits,
)
from hyperasr.metrics.statistics import Interval, bootstrap, bootstrap_difference, holm

__all__ = [
    "METRICS",
    "EditCounts",
    "Interval",
    "bootstrap",
    "bootstrap_difference",
    "by_speaker",
    "char_edits",
    "clipped_rate",
    "edit_counts",
    "error_rate",
    "holm",
    "lower_of",
    "macro_by_speaker",
    "score",
    "shares",
    "word_edits",
]


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
    return fraction(sum(c.clipped for c in counts), sum(c.n_reference for c in counts))


def shares(counts: Sequence[EditCounts]) -> dict[str, float]:
    """Return substitutions, deletions and insertions, each over all reference units.

    The three add up to the corpus rate. Most of what adaptation removes in stuttering are
    insertions, so one figure hides what happened.

    Raises:
        ConfigError: there are no utterances.
    """
    _not_empty(counts)
    total = sum(counts, EditCounts())
    return {
        name: fraction(getattr(total, name), total.n_reference)
        for name in ("substitutions", "deletions", "insertions")
    }


def by_speaker(counts: Sequence[EditCounts], speakers: Sequence[str]) -> dict[str, EditCounts]:
    """Add up the edits of each speaker; speakers in the order of their names.

    Raises:
        ShapeError: not one speaker an utterance.
    """
    same_length("edit counts", counts, "speakers", speakers)
    sums: dict[str, EditCounts] = {name: EditCounts() for name in sorted(set(speakers))}
    for count, name in zip(counts, speakers, strict=True):
        sums[name] += count
    return sums


def macro_by_speaker(counts: Sequence[EditCounts], speakers: Sequence[str]) -> float:
    """Return the mean over speakers of each one's corpus rate: every person counts the same.

    Speakers without any reference unit have no rate and are left out.

    Raises:
        ShapeError: not one speaker an utterance.
        ConfigError: there are no utterances, or none with a reference.
    """
    _not_empty(speakers)
    rates = [c.rate for c in by_speaker(counts, speakers).values() if c.n_reference]
    if not rates:
        raise ConfigError("no utterance has a reference; a mean over speakers needs one")
    return sum(rates) / len(rates)


def _not_empty(items: Sequence[Any]) -> None:
    if not len(items):
        raise ConfigError("there are no utterances to score; check the cohort and the split")
