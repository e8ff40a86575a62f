"""What a corpus reader found, and what it skipped and why."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

__all__ = ["Report"]

_N_EXAMPLES = 3


@dataclass
class Report:
    """What was found and what was skipped.

    Attributes:
        n_rows: rows given out; duration_s: their sum, of those whose length is known.
        cohorts: rows by cohort; speakers: cohort by speaker.
        skipped: number by reason; examples: the first few of each reason.
        notes: what the user should know, by number of times.
    """

    n_rows: int = 0
    duration_s: float = 0.0
    cohorts: dict[str, int] = field(default_factory=dict)
    speakers: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def n_skipped(self) -> int:
        """Number of cases that were skipped, over all reasons."""
        return sum(self.skipped.values())

    def skip(self, reason: str, example: str | os.PathLike[str]) -> None:
        """Count one case that is left out; the first few of a reason are kept as examples."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        kept = self.examples.setdefault(reason, [])
        if len(kept) < _N_EXAMPLES:
            kept.append(str(example).encode("utf-8", "backslashreplace").decode())

    def note(self, what: str) -> None:
        """Count something that was dealt with and that the user should know."""
        self.notes[what] = self.notes.get(what, 0) + 1

    def absorb(self, other: Report, example: str) -> None:
        """Add the skipped cases of another report under one neutral example.

        For corpora whose paths hold names of people.
        """
        for reason, n in other.skipped.items():
            for _ in range(n):
                self.skip(reason, example)

    def lines(self) -> list[str]:
        """Return the report for people, one line a fact."""
        hours = f", {self.duration_s / 3600:.2f} h" if self.duration_s else ""
        cohorts = ", ".join(f"{n} {cohort}" for cohort, n in sorted(self.cohorts.items()))
        lines = [
            f"{self.n_rows} utterances{hours} of {len(self.speakers)} speakers"
            + (f" ({cohorts})" if cohorts else "")
        ]
        for reason, n in sorted(self.skipped.items(), key=lambda item: -item[1]):
            lines.append(f"skipped {n}: {reason} (such as {'; '.join(self.examples[reason])})")
        lines += [f"note, {n} times: {what}" for what, n in sorted(self.notes.items())]
        return lines
