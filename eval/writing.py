"""Does an adapted recogniser still write as Whisper does? Marks and capitals on typical speech.

    python -m eval.writing --config eval/configs/typical.yaml --out results/writing.json

What the unadapted backbone writes on 30 s is the reference: of the words that both write, aligned,
which carry a mark (. , ? ! : ;) behind them, and which begin with a capital. Rows: for each adapted
system and ``measure`` (``marks``, ``capitals``) precision, recall and their F1 (``value``), and how
many of the reference's words are in both (``n_words``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
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
    out: Path = Path("results/writing.json")
    """Result file."""


def compare(reference: str, hypothesis: str) -> tuple[Counter[str], Counter[str], int]:
    """Return the agreement in marks and in capitals, over the words that both texts have.

    Args:
        reference, hypothesis: as they were written.
    Returns:
        Of marks and of capitals the words marked in the ``reference``, in the ``hypothesis``, and
        in ``both`` alike; the number of words compared.
    """
    ours, theirs = _words(reference), _words(hypothesis)
    aligned = jiwer.process_words(*(" ".join(word for word, *_ in side) for side in (ours, theirs)))
    pairs = [
        pair
        for chunk in aligned.alignments[0]
        if chunk.type == "equal"
        for pair in zip(
            ours[chunk.ref_start_idx : chunk.ref_end_idx],
            theirs[chunk.hyp_start_idx : chunk.hyp_end_idx],
            strict=True,
        )
    ]
    marks, capitals = (_agreement((a[i], b[i]) for a, b in pairs) for i in (1, 2))
    return marks, capitals, len(pairs)


def _words(text: str) -> list[tuple[str, str, str]]:
    """Return each word's letters in lower case, the mark behind it, "A" where it has a capital."""
    found = []
    for word in text.split():
        bare = word.strip("\"'()[]-").rstrip(_MARKS)
        key = "".join(c for c in bare.lower() if c.isalnum() or c == "'")
        mark = word.rstrip("\"')]")[-1:]
        if key:
            capital = "A" if bare[:1].isupper() else ""
            found.append((key, mark if mark in _MARKS else "", capital))
    return found


def _agreement(pairs: Iterable[tuple[str, str]]) -> Counter[str]:
    count: Counter[str] = Counter()
    for ours, theirs in pairs:
        here = {"reference": bool(ours), "hypothesis": bool(theirs)}
        count.update(here, both=bool(ours) and ours == theirs)
    return count


def rows_of(
    system: str, references: Sequence[str], hypotheses: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the two rows of a system; F1 (``value``), precision and recall are None of nothing."""
    compared = [compare(r, h) for r, h in zip(references, hypotheses, strict=True)]
    rows = []
    for name, counts in (
        ("marks", sum((marks for marks, _, _ in compared), Counter())),
        ("capitals", sum((capitals for _, capitals, _ in compared), Counter())),
    ):
        both, ours, theirs = (counts[n] for n in ("both", "reference", "hypothesis"))
        row = {"system": system, "base": BACKBONE, "cohort": TYPICAL, "measure": name}
        row |= {"value": 2 * both / (ours + theirs) if ours else None}
        row |= {"precision": both / theirs if theirs else None}
        row |= {"recall": both / ours if ours else None, "n_words": sum(n for *_, n in compared)}
        rows.append(row | {"n_utterances": len(references), "n_marked": ours})
    return rows


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
