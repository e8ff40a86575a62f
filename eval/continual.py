"""Continual adaptation: one domain after another; what is learned, and what is forgotten?

    python -m eval.continual --config eval/configs/continual.yaml

Each method is trained on one cohort after the other, alone, from where the one before left it: a
LoRA, whose factors go on being trained; VI LoRA, whose posterior is also the prior of the next (the
open question of arXiv 2509.20397 and 2510.18723); and VI LoRA that keeps its first prior. After
every stage all cohorts and typical speech are recognised. A system is called by method, number of
cohorts learned so far, and the last of them. Rows ``compared`` as ``forgotten`` hold, for each
cohort, the last stage against the one that learned it (typical speech: the first one), as
``methods`` the last stage against that of the first method.

A finished training is not repeated, an interrupted one goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.lib import results
from eval.lib.bench import Bench, BenchConfig
from eval.lib.runs import Run, short_run, train_all
from eval.lib.scores import Scores
from eval.lib.tables import print_rows
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError
from train.loop.program import read_config, run_program


@dataclass(frozen=True)
class ContinualConfig:
    """What is learned in which order, by what."""

    bench: BenchConfig = field(default_factory=BenchConfig)
    """Test set and protocol; its systems, which learned everything at once, are references."""
    sources: dict[str, Path] = field(default_factory=dict)
    """Configurations of `train.meta` by method."""
    posterior: tuple[str, ...] = ()
    """Methods, of a VI LoRA, whose posterior becomes the prior of the next stage."""
    cohorts: tuple[str, ...] = ("stuttering", "dysarthria", "parkinson", "nonnative")
    """In the order in which they are learned, at least two."""
    steps: int = 100
    """Optimiser steps of each stage, at least 1."""
    options: dict[str, str] = field(default_factory=dict)
    """Further options of `train.meta` by dotted name, for all."""
    processes: int = 2
    """Methods trained at a time, at least 1."""
    threads: int = 1
    """Threads of torch in each, at least 1."""
    runs: Path = Path("runs/continual")
    """Folder of the trainings."""
    out: Path = Path("results/continual.json")
    """Result file."""

    def __post_init__(self) -> None:
        if len(self.cohorts) < 2 or not self.sources or min(self.processes, self.threads) < 1:
            raise ConfigError(
                "continual adaptation needs at least two cohorts, one method, process and thread"
            )
        if unknown := sorted({*self.posterior} - self.sources.keys()):
            raise ConfigError(f"posterior has {unknown[0]!r}, which is not among the sources")


def chains(config: ContinualConfig) -> dict[str, list[Run]]:
    """Return each method's trainings, in their order."""
    made: dict[str, list[Run]] = {}
    for name, yaml in config.sources.items():
        own = made[name] = []
        for number, cohort in enumerate(config.cohorts, start=1):
            options: dict[str, Any] = {**config.options, "cohorts": [cohort]}
            folder = config.runs / name / f"{number}-{cohort}"
            if own:
                options["init_from"] = own[-1].best
            if own and name in config.posterior:
                before = own[-1].config.source.settings or {}
                options["source.settings"] = {**before, "prior": "posterior"}
            run = short_run(name, yaml, folder, config.steps, options)
            own.append(replace(run, system=f"{name}:{number}-{cohort}"))
    return made


def rows_of(
    config: ContinualConfig, made: dict[str, list[Run]], scores: Scores
) -> Iterator[dict[str, Any]]:
    """Yield error rates after each stage, and what was forgotten since a cohort was learned."""
    stages = {name: [run.system for run in chain] for name, chain in made.items()}
    first, *others = (own[-1] for own in stages.values())
    for group in scores.groups():
        if group.corpus is not None or group.cohort not in (*config.cohorts, TYPICAL):
            continue
        then = 0 if group.cohort == TYPICAL else config.cohorts.index(group.cohort)
        forgotten = [(own[-1], own[then]) for own in stages.values() if own[-1] != own[then]]
        methods = [(other, first) for other in others]
        for row in scores.rows(group, pairs=[*forgotten, *methods]):
            if "against" in row:
                own = (row["system"], row["against"]) in forgotten
                yield row | {"compared": "forgotten" if own else "methods"}
            else:
                yield row


def main() -> None:
    """Train every chain, evaluate every stage, write the JSON, print the tables."""
    config = read_config(ContinualConfig)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    bench = Bench(config.bench)
    known = set(bench.column("cohort"))
    if missing := [cohort for cohort in config.cohorts if cohort not in known]:
        raise ConfigError(
            f"{config.bench.test} has nobody of {missing[0]!r}; give some of {sorted(known)}"
        )
    made = chains(config)
    train_all(list(made.values()), config.processes, config.threads)
    stages = [run for chain in made.values() for run in chain]
    own = bench.beside({run.system: run.best for run in stages})
    rows = list(rows_of(config, made, own.scores(own.systems)))
    bench.save("eval.continual", config, results.with_holm(rows, ("compared",)))
    print_rows(rows, title="after each stage")
    for what in ("forgotten", "methods"):
        print_rows(rows, title=what, differences=True, compared=what)


if __name__ == "__main__":
    run_program(main)
