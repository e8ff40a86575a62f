"""Edit counts of every utterance, and the error rates that are made of them.

Intervals are in `hyperasr.metrics.statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer

from hyperasr.errors import ConfigError, ShapeError

METRICS = {"wer": jiwer.process_words, "cer": jiwer.process_characters}
"""What counts the edits of a metric."""


@dataclass(frozen=True)
class EditCounts:
    """Edits of a best alignment of one hypothesis, or their sum over several.

    The unit is a word or a character; counts are whole, save for the mean of two references that
    fit equally well (`lower_of`). ``sum(counts, EditCounts())`` adds up a corpus.
    """

    hits: float = 0
    substitutions: float = 0
    deletions: float = 0
    insertions: float = 0

    @property
    def n_reference(self) -> float:
        """Units in the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> float:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors over reference units, a fraction that insertions can lift above 1.

        Nothing said and nothing written is 0.0. Words invented on an empty reference have no rate
        of their own (infinity); in a corpus they count as errors over the other references.
        """
        return fraction(self.errors, self.n_reference)

    @property
    def clipped(self) -> float:
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


def word_edits(reference: str, hypothesis: str) -> EditCounts:
    """Count word edits of two normalised texts; words are separated by white space."""
    return edit_counts([reference], [hypothesis])[0]


def edit_counts(
    references: Sequence[str], hypotheses: Sequence[str], metric: str = "wer"
) -> list[EditCounts]:
    """Count the edits of many pairs of normalised texts in one call.

    Args:
        references, hypotheses: one text an utterance, in the same order.
        metric: ``wer`` counts words, ``cer`` characters.
    Raises:
        ShapeError: the two lists differ in length.
        ConfigError: the metric is another, or a text is not a string (a reference is missing).
    """
    if metric not in METRICS:
        raise ConfigError(f"the metric is 'wer' or 'cer', not {metric!r}")
    same_length("references", references, "hypotheses", hypotheses)
    if not references:
        return []
    # jiwer separates words at spaces only; a tab or a line end must separate them too.
    process: Any = METRICS[metric]
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
        normaliser: such as `hyperasr.metrics.normalisers.normaliser("spoken")`.
        metric: ``wer`` (words) or ``cer`` (characters).
    Raises:
        ShapeError: the two lists differ in length.
        ConfigError: the metric is another, or a text is not a string.
    """
    pairs = [
        [normaliser(text) if isinstance(text, str) else text for text in texts]
        for texts in (references, hypotheses)
    ]
    return edit_counts(pairs[0], pairs[1], metric)


def lower_of(first: Sequence[EditCounts], second: Sequence[EditCounts]) -> list[EditCounts]:
    """Choose for each utterance the reference that its hypothesis fits better.

    The better one has the lower error rate, clipped at 100 %; an empty reference has none and
    loses against any other. Of two that fit equally well neither is preferred: their counts are
    averaged, which leaves the rate and weighs the utterance by the mean of both lengths.

    Args:
        first, second: edits of the same hypotheses against two references, such as the verbatim
            and the clean one.
    Source: scoring of the Speech Accessibility Project Challenge 2, 2026 (utils/metrics of
        github.com/xiuwenz2/SAPC-template).
    """
    return [_lower(a, b) for a, b in zip(first, second, strict=True)]


def _lower(a: EditCounts, b: EditCounts) -> EditCounts:
    rates = [c.clipped / c.n_reference if c.n_reference else math.inf for c in (a, b)]
    if a == b or rates[0] < rates[1]:
        return a
    if rates[1] < rates[0]:
        return b
    both = a + b
    return EditCounts(
        both.hits / 2, both.substitutions / 2, both.deletions / 2, both.insertions / 2
    )


def fraction(errors: float, units: float) -> float:
    """Return errors over reference units; 0/0 is 0, and errors over nothing are infinite."""
    if units:
        return errors / units
    return math.inf if errors else 0.0


def same_length(name_a: str, a: Sequence[Any], name_b: str, b: Sequence[Any]) -> None:
    """Raise ShapeError unless two lists have one entry an utterance each."""
    if len(a) != len(b):
        raise ShapeError(f"{len(a)} {name_a} and {len(b)} {name_b}; give one of each an utterance")


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


def macro_by_speaker(counts: Sequence[EditCounts], speakers: Sequence[str]) -> float:
    """Return the mean over speakers of each one's corpus rate: every person counts the same.

    Speakers without any reference unit have no rate and are left out.

    Raises:
        ShapeError: not one speaker an utterance.
        ConfigError: there are no utterances, or none with a reference.
    """
    _not_empty(speakers)
    same_length("edit counts", counts, "speakers", speakers)
    sums: dict[str, EditCounts] = {name: EditCounts() for name in sorted(set(speakers))}
    for count, name in zip(counts, speakers, strict=True):
        sums[name] += count
    rates = [c.rate for c in sums.values() if c.n_reference]
    if not rates:
        raise ConfigError("no utterance has a reference; a mean over speakers needs one")
    return sum(rates) / len(rates)


def _not_empty(items: Sequence[Any]) -> None:
    if not len(items):
        raise ConfigError("there are no utterances to score; check the cohort and the split")
