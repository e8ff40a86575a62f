"""Do no harm: typical speech, and cohorts that a source was not trained for, before and after.

    python -m eval.retention --config eval/configs/retention.yaml

*Before* is the frozen backbone, *after* every source. A source that was trained without some
cohorts (the folds of `eval.leave_one_cohort_out`, one cohort's LoRA) is also tested on those; the
field ``trained_for`` says whether a row's speech was in the training.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.lib import results
from eval.lib.bench import Bench, BenchConfig
from eval.lib.runs import cohorts_in
from eval.lib.scores import ATYPICAL, Group, Scores, in_order
from eval.lib.systems import BACKBONE, System
from eval.lib.tables import print_rows
from hyperasr.cohorts.simulate import COHORTS
from hyperasr.cohorts.views import TYPICAL
from train.loop.program import read_config, run_program

log = logging.getLogger("eval.retention")

OTHERS = "other_cohorts"


@dataclass(frozen=True)
class RetentionConfig:
    """Which sources to test for harm."""

    bench: BenchConfig = field(default_factory=BenchConfig)
    """Systems, test set and protocol."""
    folds: Path | None = Path("runs/loco")
    """Folder of the folds of `eval.leave_one_cohort_out`, tested too where it is there; None for
    none."""
    out: Path = Path("results/retention.json")
    """Result file."""


def fold_systems(folder: Path | None) -> dict[str, Path]:
    """Return the models of the folds by name, such as ``hypernet:without-stuttering``."""
    found = sorted(folder.glob("*/*/best/config.json")) if folder else []
    if folder and not found:
        log.warning("no folds in %s; sources of single cohorts are tested alone", folder)
    paths = [path.parent for path in found]
    return {f"{p.parent.name}:without-{p.parent.parent.name}": p for p in paths}


def trained_for(system: System) -> tuple[str, ...]:
    """Return the cohorts a system was trained on, ``typical`` among them; none for the backbone.

    Where its notes name none it saw those of its training manifest, if that is still there, and
    what was simulated.
    """
    if system.folder is None:
        return ()
    if system.group is not None:
        return (system.group,)
    notes = system.training.get("config", {})
    notes = notes.get("data", notes)
    if notes.get("cohorts"):
        return tuple(notes["cohorts"])
    manifest, simulate = Path(notes.get("train") or ""), notes.get("simulate", COHORTS)
    if manifest.is_file():
        return tuple(cohorts_in(manifest, simulate))
    return (*simulate, TYPICAL)


def rows_of(scores: Scores, trained: dict[str, tuple[str, ...]]) -> list[dict[str, Any]]:
    """Return the rows of the result file for one metric.

    Args:
        scores: of the backbone and every source.
        trained: the cohorts each was trained on.
    """
    sources = [name for name in scores.counts if name != BACKBONE]
    rows: list[dict[str, Any]] = []
    groups = [g for g in scores.groups() if g.cohort != ATYPICAL]
    for group in groups:
        made = scores.group_rows(group, pairs=[(name, BACKBONE) for name in sources])
        rows += [{**row, "trained_for": group.cohort in trained[row["system"]]} for row in made]
    for corpus, domain in dict.fromkeys((g.corpus, g.domain) for g in groups):
        own = [g for g in groups if (g.corpus, g.domain) == (corpus, domain)]
        for name in sources:
            others = [g for g in own if g.cohort not in (TYPICAL, *trained[name])]
            together = Group(OTHERS, domain, tuple(i for g in others for i in g.chosen), corpus)
            rows += scores.group_rows(
                together,
                systems=(name,),
                pairs=[(name, BACKBONE)],
                cohorts=in_order(g.cohort for g in others),
                trained_for=False,
            )
    return results.with_holm(rows, ("corpus", "metric"))


def names_of(bench: Bench) -> list[str]:
    """List the backbone, every source with its controls, and sources by cohort held to each cohort.

    Models of the folds come without controls: `eval.leave_one_cohort_out` has them.
    """
    names = []
    for name in bench.names():
        base = bench.find(name)[0]
        if name not in bench.systems and ":" in base.name:
            continue
        names.append(name)
        names += [f"{name}@{group}" for group in base.groups]
    return names


def main() -> None:
    """Evaluate, write the JSON, print the tables."""
    config = read_config(RetentionConfig)
    bench = Bench(config.bench).beside(fold_systems(config.folds))
    names = names_of(bench)
    trained = {name: trained_for(bench.find(name)[0]) for name in names}
    first = bench.protocol.metrics[0]
    rows: list[dict[str, Any]] = []
    for metric in bench.protocol.metrics:
        rows += rows_of(bench.scores(names, metric=metric), trained)
    bench.save("eval.retention", config, rows, protocol=f"before and after, {bench.described}")
    typical: dict[str, Any] = {"cohort": TYPICAL, "metric": first}
    print_rows(rows, title=f"typical speech, {first} in percent", **typical)
    title = "typical speech, after minus before"
    print_rows(rows, title=title, differences=True, **typical)
    untrained = [
        row for row in rows if not row["trained_for"] and row["cohort"] not in (OTHERS, TYPICAL)
    ]
    title = "cohorts it was not trained for, after minus before"
    print_rows(untrained, title=title, differences=True, metric=first)


if __name__ == "__main__":
    run_program(main)
