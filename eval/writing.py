"""Does an adapted recogniser still write as Whisper does? Marks and capitals on typical speech.

    python -m eval.writing --config eval/configs/zero_shot.yaml --out results/writing.json

What the unadapted backbone writes on 30 s is the reference: of the words that both write, aligned,
which carry a mark (. , ? ! : ;) behind them, and which begin with a capital. Rows: for each adapted
system and ``measure`` (``marks``, ``capitals``) precision, recall and their F1 (``value``), and how
many of the reference's words are in both (``n_words``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import jiwer

from eval.lib.bench import Bench, BenchConfig
from eval.lib.systems import BACKBONE, UNADAPTED
from eval.lib.tables import print_lines
from hyperasr.cohorts.views import TYPICAL
from train.loop.program import read_config, run_program

_MARKS = ".,?!:;"


@dataclass(frozen=True)
class WritingConfig:
    """Which systems, on whom."""

    bench: BenchConfig = field(default_factory=BenchConfig)
    """Systems and test set, of which typical speech counts."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further test sets of the same configuration file; they are not looked at."""
    out: Path = Path("results/writing.json")
    """Result file."""


@dataclass(frozen=True)
class Agreement:
    """Counts of what two texts mark alike.

    Attributes:
        both, hypothesis, reference: words marked in both, in the hypothesis, in the reference.
    """

    both: int = 0
    hypothesis: int = 0
    reference: int = 0

    def __add__(self, other: Agreement) -> Agreement:
        sums = [getattr(self, f.name) + getattr(other, f.name) for f in fields(self)]
        return Agreement(*sums)

    def measures(self) -> dict[str, float | None]:
        """Return F1 (``value``), precision and recall; None of nothing."""
        total = self.hypothesis + self.reference
        return {
            "value": 2 * self.both / total if self.reference else None,
            "precision": self.both / self.hypothesis if self.hypothesis else None,
            "recall": self.both / self.reference if self.reference else None,
        }


def compare(reference: str, hypothesis: str) -> tuple[Agreement, Agreement, int]:
    """Return the agreement in marks and in capitals, over the words that both texts have.

    Args:
        reference, hypothesis: as they were written.
    Returns:
        Marks, capitals, number of words compared.
    """
    ours, theirs = _words(reference), _words(hypothesis)
    if not ours or not theirs:
        return Agreement(), Agreement(), 0
    aligned = jiwer.process_words(
        " ".join(key for key, _, _ in ours), " ".join(key for key, _, _ in theirs)
    ).alignments[0]
    pairs = [
        pair
        for chunk in aligned
        if chunk.type == "equal"
        for pair in zip(
            ours[chunk.ref_start_idx : chunk.ref_end_idx],
            theirs[chunk.hyp_start_idx : chunk.hyp_end_idx],
            strict=True,
        )
    ]
    marks = [(a[1], b[1]) for a, b in pairs]
    capitals = [("A" if a[2] else "", "A" if b[2] else "") for a, b in pairs]
    return _agreement(marks), _agreement(capitals), len(pairs)


def _words(text: str) -> list[tuple[str, str, bool]]:
    """Return each word's letters in lower case, the mark behind it, whether it has a capital."""
    found = []
    for word in text.split():
        bare = word.strip("\"'()[]-").rstrip(_MARKS)
        key = "".join(c for c in bare.lower() if c.isalnum() or c == "'")
        mark = word.rstrip("\"')]")[-1:]
        if key:
            found.append((key, mark if mark in _MARKS else "", bare[:1].isupper()))
    return found


def _agreement(pairs: Iterable[tuple[str, str]]) -> Agreement:
    both = hypothesis = reference = 0
    for ours, theirs in pairs:
        both += bool(ours) and ours == theirs
        reference += bool(ours)
        hypothesis += bool(theirs)
    return Agreement(both, hypothesis, reference)


def rows_of(
    system: str, references: Sequence[str], hypotheses: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the two rows of a system."""
    marks, capitals, n_words = Agreement(), Agreement(), 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        own_marks, own_capitals, n = compare(reference, hypothesis)
        marks, capitals, n_words = marks + own_marks, capitals + own_capitals, n_words + n
    about = {"system": system, "base": BACKBONE, "cohort": TYPICAL}
    size = {"n_words": n_words, "n_utterances": len(references)}
    return [
        {**about, "measure": name, **own.measures(), **size, "n_marked": own.reference}
        for name, own in (("marks", marks), ("capitals", capitals))
    ]


def main() -> None:
    """Decode what is not decoded yet, compare, write the JSON, print the table."""
    config = read_config(WritingConfig)
    bench = Bench(replace(config.bench, unadapted=(BACKBONE,)))
    typical = [i for i, cohort in enumerate(bench.column("cohort")) if cohort == TYPICAL]
    references = bench.decode(BACKBONE, typical)
    rows = []
    for name in bench.systems:
        if name not in UNADAPTED:
            rows += rows_of(name, references, bench.decode(name, typical))
    described = "marks and capitals on typical speech, against the unadapted backbone on 30 s"
    bench.save("eval.writing", config, rows, protocol=described)
    lines = [
        (
            row["system"],
            row["measure"],
            *("-" if row[n] is None else f"{row[n]:.3f}" for n in ("precision", "recall", "value")),
        )
        for row in rows
    ]
    print_lines("marks and capitals", ("system", "measure", "precision", "recall", "F1"), lines)


if __name__ == "__main__":
    run_program(main)
