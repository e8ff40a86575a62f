"""Leave one cohort out: is a kind of speech recognised that nobody ever trained on?

    python -m eval.leave_one_cohort_out --config eval/configs/leave_one_cohort_out.yaml
    python -m eval.leave_one_cohort_out --config ... --processes 3

For every cohort of the data, recorded or simulated, the hypernetwork and the global LoRA are
meta-trained without it and tested on it, on unseen speakers. Beside them: the frozen backbone, the
controls, and the oracles that did see the cohort. An interrupted run goes on where it stopped. On
several machines: some of the cohorts on each with `only_train`, then the whole.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.lib import results
from eval.lib.bench import Bench, BenchConfig
from eval.lib.runs import Run, cohorts_in, fold_runs, train_all
from eval.lib.scores import ATYPICAL, Scores
from eval.lib.systems import UNADAPTED
from eval.lib.tables import print_rows
from eval.lib.testset import print_found
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError
from train.config import MetaConfig
from train.loop.program import read_config, run_program

MAIN = "hypernet"


@dataclass(frozen=True)
class LocoConfig:
    """What is trained in every fold, and what it is compared with."""

    bench: BenchConfig = field(default_factory=BenchConfig)
    """Test set and protocol; its systems saw every cohort and are the oracles."""
    sources: dict[str, Path] = field(
        default_factory=lambda: {
            "global_lora": Path("train/configs/global_lora.yaml"),
            "hypernet": Path("train/configs/hypernet.yaml"),
        }
    )
    """Configurations of `train.meta` by system name; what others start from comes first."""
    cohorts: tuple[str, ...] = ()
    """Cohorts to leave out, one at a time, each where it was recorded and where it is simulated;
    empty for all that both the trainings and the test have."""
    runs: Path = Path("runs/loco")
    """Folder of the folds' run folders."""
    processes: int = 1
    """Folds trained at the same time on this machine, at least 1."""
    only_train: bool = False
    """Train the folds and stop."""
    out: Path = Path("results/leave_one_cohort_out.json")
    """Result file."""

    def __post_init__(self) -> None:
        if self.processes < 1 or not self.sources:
            raise ConfigError(
                "leaving out needs at least one source and process, not "
                f"{len(self.sources)} and {self.processes}"
            )


def cohorts_of(config: LocoConfig) -> list[str]:
    """Return the cohorts to leave out, after printing what the trainings have.

    Raises:
        ConfigError: there is none, or the test has no recording of one.
    """
    tested = [c for c in cohorts_in(config.bench.test, config.bench.simulate) if c != TYPICAL]
    common, shown = tested, set[Path]()
    for yaml in config.sources.values():
        training = read_config(MetaConfig, ["--config", str(yaml)])
        known = training.cohorts or cohorts_in(training.train, training.simulate)
        common = [cohort for cohort in common if cohort in known]
        if training.train not in shown:
            rows = read_manifest(training.train)
            found = [(u.cohort, u.domain, u.source, u.speaker) for u in rows]
            print_found(training.train, found, training.simulate)
        shown.add(training.train)
    if missing := [cohort for cohort in config.cohorts if cohort not in tested]:
        raise ConfigError(
            f"{config.bench.test} has no cohort {missing[0]!r} to test a fold without it on; there "
            f"are {', '.join(tested) or 'none'}"
        )
    if not common and not config.cohorts:
        raise ConfigError(
            f"no cohort is both in the trainings and in {config.bench.test}: there is none to "
            "leave out"
        )
    return list(config.cohorts) or common


def fold_scores(bench: Bench, fold: list[Run], metric: str) -> Scores:
    """Score one fold on its held-out cohort and on typical speech.

    Systems that saw the cohort are called ``NAME_oracle``.
    """
    held_out = fold[0].held_out
    cohorts = bench.column("cohort")
    rows = [i for i, cohort in enumerate(cohorts) if cohort in (held_out, TYPICAL)]
    names = {name: name if name in UNADAPTED else f"{name}_oracle" for name in bench.systems}
    own = bench.beside({f"{run.system}:{held_out}": run.best for run in fold})
    new = f":{held_out}"
    names |= {name: name.replace(new, "") for name in own.names() if new in name}
    texts = {names[name]: own.decode(name, rows) for name in names}
    return own.score(texts, rows, metric=metric)


def rows_of(folds: dict[str, Scores]) -> list[dict[str, Any]]:
    """Return the rows of the result file: each held-out cohort, all of them, typical speech."""
    rows: list[dict[str, Any]] = []
    pairs = differences(list(next(iter(folds.values())).counts))
    parts = [
        scores.part([i for i, cohort in enumerate(scores.meta["cohort"]) if cohort == held_out])
        for held_out, scores in folds.items()
    ]
    together = functools.reduce(Scores.joined, parts)
    for group in together.groups():
        if group.cohort == ATYPICAL:
            rows += together.rows(group, pairs=pairs, held_out="each")
    for held_out, scores in folds.items():
        for group in scores.groups():
            if group.cohort in (held_out, TYPICAL):
                rows += scores.rows(group, pairs=pairs, held_out=held_out)
    return results.with_holm(rows, ("corpus", "metric"))


def differences(systems: list[str]) -> list[tuple[str, str]]:
    """Return the pairs to compare: the hypernetwork with everything, the LoRA with the backbone."""
    pairs = [(MAIN, other) for other in systems if other != MAIN]
    return [*pairs, ("global_lora", "backbone")]


def main() -> None:
    """Train the folds, evaluate them, write the JSON, print the tables."""
    config = read_config(LocoConfig)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    folds = [fold_runs(cohort, config.sources, config.runs) for cohort in cohorts_of(config)]
    # Before the trainings, so that what is wrong with the test is known at once.
    bench = None if config.only_train else Bench(config.bench)
    train_all(folds, config.processes)
    if bench is None:
        return
    rows: list[dict[str, Any]] = []
    for metric in bench.protocol.metrics:
        rows += rows_of({fold[0].held_out: fold_scores(bench, fold, metric) for fold in folds})
    described = f"leave one cohort out, {bench.described}"
    bench.save("eval.leave_one_cohort_out", config, rows, protocol=described)
    own = [row for row in rows if row["cohort"] != TYPICAL]
    typical = [row for row in rows if row["cohort"] == TYPICAL]
    metric = bench.protocol.metrics[0]
    print_rows(own, title="held-out cohorts", metric=metric)
    title = "typical speech, by held-out cohort"
    print_rows(typical, ("held_out",), title=title, metric=metric)
    print_rows(own, title="paired differences", differences=True, metric=metric)


if __name__ == "__main__":
    run_program(main)
