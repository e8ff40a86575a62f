"""Word edits of what was transcribed, where a manifest tells what was said."""

from __future__ import annotations

from collections.abc import Iterable

from hyperasr.metrics.error_rates import EditCounts, score
from hyperasr.metrics.normalisers import normaliser
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.transcript import Result, shown_text


class WERSummary:
    """Word edits of the results with a reference.

    Attributes:
        sums: of each system: the base where compared, then the model.
    """

    def __init__(self, options: TranscribeOptions) -> None:
        adapted = "personalised" if options.adapt else "unadapted"
        self.systems = ["unadapted", adapted] if options.compare else [adapted]
        self.mode = options.mode
        self.n_scored = 0
        self.sums = [EditCounts() for _ in self.systems]

    def add(self, result: Result) -> str | None:
        """Count one result and return its line of error rates; None without a reference."""
        counts = counts_of(result, self.mode)
        if counts is None:
            return None
        self.n_scored += 1
        self.sums = [a + b for a, b in zip(self.sums, counts, strict=True)]
        return self.line(counts)

    def total(self) -> str:
        """Return the line of all results."""
        plural = "" if self.n_scored == 1 else "s"
        return f"{self.line(self.sums)} ({self.n_scored} recording{plural} with a reference)"

    def line(self, counts: Iterable[EditCounts]) -> str:
        """Return the line of these error rates."""
        rates = zip(self.systems, counts, strict=True)
        return "WER " + ", ".join(f"{name} {percent(c)} %" for name, c in rates)


def counts_of(result: Result, mode: str = "verbatim") -> list[EditCounts] | None:
    """Return the word edits of base (where there is one) and transcript; None without reference.

    Scored is the text that the mode shows, by Whisper's own normaliser, as published tables are.
    """
    if result.reference is None or result.transcript is None:
        return None
    systems = [result.base, result.transcript] if result.base is not None else [result.transcript]
    hypotheses = [shown_text(transcript, mode) for transcript in systems]
    return score([result.reference] * len(systems), hypotheses, normaliser("whisper"))


def percent(counts: EditCounts) -> str:
    """Return an error rate in percent, with one decimal."""
    return f"{100 * counts.rate:.1f}" if counts.n_reference else "n/a"
