"""Does a recogniser write what is heard? Repetitions and the like of simulated stuttering.

    python -m eval.verbatim --config eval/configs/verbatim.yaml

Simulation knows what it put between the words that were meant. Rows, for each system: ``recall`` of
``repetitions``, ``part_words`` and ``fillers`` (how many are written, ``n`` of how many);
``invented`` ones on typical speech, for each word that was said; and the word error rates of what
is written against what is heard (``verbatim``), and of the clean text made of it against what was
meant (``clean``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import jiwer

from eval.lib.bench import Bench, BenchConfig
from eval.lib.systems import BACKBONE
from eval.lib.tables import print_lines
from hyperasr.cohorts.views import TYPICAL
from hyperasr.metrics.error_rates import error_rate, score
from hyperasr.metrics.normalisers import normaliser
from hyperasr.metrics.uncertainty import word_correctness
from hyperasr.transcription.disfluency import FILLERS, apply_edits, clean_edits
from train.loop.program import read_config, run_program

KINDS = ("repetitions", "part_words", "fillers")
_FILLERS = frozenset(FILLERS["en"].split())


@dataclass(frozen=True)
class VerbatimConfig:
    """Which systems, on whom."""

    bench: BenchConfig = field(default_factory=BenchConfig)
    """Systems and test set, of which simulated stuttering and typical speech count."""
    out: Path = Path("results/verbatim.json")
    """Result file."""


def written(meant: str, heard: str, hypothesis: str) -> tuple[Counter[str], Counter[str]]:
    """Count what stands between the words that were meant, and how much of it is written.

    Of a word that is said several times over, what is written beyond the word itself counts.

    Args:
        meant, heard: of one utterance, without punctuation; a part-word ends with a hyphen.
        hypothesis: what a system wrote, likewise.
    Returns:
        By kind, all of them and those in the hypothesis.
    """
    words = heard.split()
    between = set(_inserted(meant.split(), words))
    hits = word_correctness(hypothesis, heard)  # of part-words, as they are
    all_of: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for _, group in groupby(range(len(words)), key=lambda i: words[i]):
        run = list(group)
        extra = [i for i in run if i in between]
        if extra:
            kind = kind_of(words[run[0]])
            all_of[kind] += len(extra)
            n_meant = len(run) - len(extra)
            found[kind] += max(0, sum(hits[i] for i in run) - n_meant)
    return all_of, found


def kind_of(word: str) -> str:
    """Return what a word between the words that were meant is, one of `KINDS`."""
    if word.endswith("-"):
        return "part_words"
    return "fillers" if word in _FILLERS else "repetitions"


def invented(reference: str, hypothesis: str) -> int:
    """Count the repetitions, part-words and fillers of a hypothesis that nobody said."""
    words = hypothesis.split()
    count = 0
    for i in _inserted(reference.split(), words):
        beside = [words[j] for j in (i - 1, i + 1) if 0 <= j < len(words)]
        count += kind_of(words[i]) != "repetitions" or words[i] in beside
    return count


def _inserted(reference: Sequence[str], words: Sequence[str]) -> list[int]:
    """Return the places of the words that are not in the reference."""
    chunks = jiwer.process_words(" ".join(reference), " ".join(words)).alignments[0]
    inserted = [chunk for chunk in chunks if chunk.type == "insert"]
    return [i for c in inserted for i in range(c.hyp_start_idx, c.hyp_end_idx)]


def rows_of(
    system: str,
    cohorts: Sequence[str],
    meant: Sequence[str],
    heard: Sequence[str],
    hypotheses: Sequence[str],
) -> list[dict[str, Any]]:
    """Return the rows of a system, from what was meant, what is heard and what it wrote."""
    rules = normaliser("verbatim")
    all_of: Counter[str] = Counter()
    found: Counter[str] = Counter()
    n_invented = n_words = 0
    for cohort, *texts in zip(cohorts, meant, heard, hypotheses, strict=True):
        own, said, wrote = map(rules, texts)
        if cohort == TYPICAL:
            n_invented += invented(own, wrote)
            n_words += len(own.split())
        else:
            pair = written(own, said, wrote)
            all_of, found = all_of + pair[0], found + pair[1]
    rows: list[dict[str, Any]] = [
        {"measure": "recall", "kind": k, "value": found[k] / all_of[k], "n": all_of[k]}
        for k in KINDS
        if all_of[k]
    ]
    if n_words:
        rows.append({"measure": "invented", "value": n_invented / n_words, "n": n_words})
    clean = [" ".join(apply_edits(w, clean_edits(w))) for w in map(str.split, hypotheses)]
    for cohort in sorted(set(cohorts)):
        at = [i for i, other in enumerate(cohorts) if other == cohort]
        for measure, rules, references, texts in (
            ("verbatim", normaliser("verbatim"), heard, hypotheses),
            ("clean", normaliser("spoken"), meant, clean),
        ):
            pairs = [references[i] for i in at], [texts[i] for i in at]
            value = error_rate(score(*pairs, rules, "wer"))
            rows.append({"measure": measure, "cohort": cohort, "value": value, "n": len(at)})
    return [{"system": system, **row} for row in rows]


def main() -> None:
    """Decode what is not decoded yet, count, write the JSON, print the table."""
    config = read_config(VerbatimConfig)
    bench = Bench(replace(config.bench, simulate=("stuttering",), unadapted=(BACKBONE,)))
    cohorts = bench.column("cohort")
    chosen = [i for i, cohort in enumerate(cohorts) if cohort in ("stuttering", TYPICAL)]
    columns = (cohorts, bench.column("text"), bench.verbatim())
    about = [[column[i] for i in chosen] for column in columns]
    rows = []
    for name in bench.systems:
        rows += rows_of(name, *about, bench.decode(name, chosen))
    described = "what is written of simulated stuttering, and invented on typical speech"
    bench.save("eval.verbatim", config, rows, protocol=described)
    lines = [
        (
            row["system"],
            row["measure"],
            row.get("kind", row.get("cohort", "")),
            f"{100 * row['value']:.1f}",
        )
        for row in rows
    ]
    print_lines("verbatim", ("system", "measure", "of", "%"), lines)


if __name__ == "__main__":
    run_program(main)
