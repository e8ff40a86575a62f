"""A grid of short trainings of a variational LoRA, beside the LoRA of the same matrices.

    python -m eval.sweep --config eval/configs/blora_sweep.yaml
    python -m eval.sweep --config eval/configs/vi_lora_sweep.yaml

What is varied is the weight of the divergence and the prior; what is measured, on speakers nobody
trained on, is the error on atypical speech (all cohorts that are simulated, or recorded where none
is), and in BLoRA's terms (`eval.lib.forgetting`) what it costs on typical speech. The reference
LoRA is trained as long as the points. A finished training is not repeated, an interrupted one goes
on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from eval.lib.bench import Bench, BenchConfig
from eval.lib.forgetting import GAIN, TARGET_LOSS, forgetting_rows
from eval.lib.runs import Run, short_run, train_all
from eval.lib.scores import Scores, targets
from eval.lib.systems import BACKBONE
from eval.lib.tables import ALONG, LINES, REACHED, points_table, print_lines
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError
from train.loop.program import read_config, run_program

__all__ = ["Goal", "SweepConfig", "Trial", "plan", "sweep_rows"]

Value = float | str
Row = dict[str, Any]


# What a value sets: options of `train.meta`, and settings of its source.
AXES: dict[str, Callable[[Any], tuple[dict[str, Any], dict[str, Any]]]] = {
    "beta": lambda v: ({"objective.beta": v}, {}),
    "sigma": lambda v: ({}, {"prior": "fixed", "prior_sigma": v}),
    "prior": lambda v: ({}, {"prior": v}),
    # Without rounding 1 - 0.1 is not the 0.9 of the configuration.
    "kl_weight": lambda v: ({"objective.beta": v, "objective.nll_weight": round(1 - v, 9)}, {}),
}


@dataclass(frozen=True)
class Goal:
    """What a point should reach against the reference LoRA."""

    gain: float = 0.54
    """Backward gain, at least; BLoRA's claim."""
    target_loss: float = 0.04
    """Target loss, at most; BLoRA's claim."""


@dataclass(frozen=True)
class SweepConfig:
    """What is varied, trained how, against what."""

    bench: BenchConfig = field(default_factory=BenchConfig)
    """Test set and protocol; its systems, if any, are further references."""
    meta: Path = Path("train/configs/blora.yaml")
    """Configuration of `train.meta` of every point."""
    reference: Path = Path("train/configs/lora_qk.yaml")
    """Configuration of `train.meta` of the LoRA of the same rank and targets; its name in tables is
    that of the file."""
    grid: dict[str, tuple[Value, ...]] = field(default_factory=dict)
    """Values of ``beta`` or ``kl_weight`` (the weight of the divergence; that of the cross-entropy
    is then 1 minus it) and of ``sigma`` (width of a fixed prior) or ``prior``."""
    steps: int = 300
    """Optimiser steps of each training, at least 1."""
    processes: int = 2
    """Trainings at a time, at least 1."""
    threads: int = 1
    """Threads of torch in each, at least 1."""
    options: dict[str, str] = field(default_factory=dict)
    """Further options of `train.meta` by dotted name, for points and reference."""
    goal: Goal | None = None
    """What to say of each point whether it reaches it."""
    runs: Path = Path("runs/blora_sweep")
    """Folder of the trainings."""
    only_train: bool = False
    """Train what is not trained yet, and evaluate nothing."""
    out: Path = Path("results/blora_sweep.json")
    """Result file."""

    def __post_init__(self) -> None:
        chosen = [[axis for axis in self.grid if axis in known] for known in (ALONG, LINES)]
        if unknown := [axis for axis in self.grid if axis not in AXES]:
            raise ConfigError(f"grid has no axis {unknown[0]!r}; there are {', '.join(AXES)}")
        if [len(axes) for axes in chosen] != [1, 1] or not all(self.grid.values()):
            raise ConfigError(
                f"grid is {self.grid}; give at least one value of one of {', '.join(ALONG)} and "
                f"one of {', '.join(LINES)}"
            )
        if twice := [axis for axis, values in self.grid.items() if len(set(values)) < len(values)]:
            raise ConfigError(f"grid.{twice[0]} has a value twice: {self.grid[twice[0]]}")

    @property
    def lora(self) -> str:
        """Name of the reference LoRA."""
        return self.reference.stem


@dataclass(frozen=True)
class Trial:
    """One training of the sweep.

    Attributes:
        run: the training; its system is the name in tables.
        point: what it sets of the grid; empty for the reference.
    """

    run: Run
    point: Mapping[str, Value] = field(default_factory=dict)


def plan(config: SweepConfig) -> list[Trial]:
    """Return the trainings: the reference, then every point of the grid.

    Raises:
        ConfigError: a configuration file that cannot be read, or values that `train.meta` refuses.
    """
    lora = short_run(
        config.lora, config.reference, config.runs / config.lora, config.steps, config.options
    )
    base = short_run("", config.meta, config.runs, config.steps, config.options).config.source
    trials = [Trial(lora)]
    for values in product(*config.grid.values()):
        point = dict(zip(config.grid, values, strict=True))
        name = "-".join(f"{a}-{v if isinstance(v, str) else f'{v:g}'}" for a, v in point.items())
        options: dict[str, Any] = dict(config.options)
        settings = dict(base.settings or {})
        for axis, value in point.items():
            more, own = AXES[axis](value)
            options |= more
            settings |= own
        options["source.settings"] = settings
        run = short_run(
            f"{base.kind}:{name}", config.meta, config.runs / name, config.steps, options
        )
        trials.append(Trial(run, point))
    return trials


def sweep_rows(scores: Scores, trials: Sequence[Trial], config: SweepConfig) -> list[Row]:
    """Return errors and forgetting of every system; rows of a point say which one.

    Args:
        scores: of the backbone, further references, and all trials.
        trials: of `plan`.
        config: of the program.
    """
    points = {trial.run.system: dict(trial.point) for trial in trials}
    groups = [group for group in scores.groups() if group.corpus is None]
    target, typical = targets(groups)[:1], [g for g in groups if g.cohort == TYPICAL]
    rows = [row for group in (*target, *typical) for row in scores.group_rows(group)]
    new = {group.domain: scores.part(group.chosen) for group in target}
    for group in typical if target else ():
        old = scores.part(group.chosen)
        for name in scores.counts:
            if name != BACKBONE:
                found = forgetting_rows(old, new, name, config.lora)
                rows += _with_goal(found, config.goal) if points.get(name) else found
    return [{**row, **points.get(row["system"], {})} for row in rows]


def _with_goal(rows: Sequence[Row], goal: Goal | None) -> list[Row]:
    """Say in the row of the gain whether a point reaches the goal; no gain reaches nothing."""
    if goal is None:
        return list(rows)
    values = {row["metric"]: row["value"] for row in rows}
    gain, loss = values[GAIN], values[TARGET_LOSS]
    reached = None not in (gain, loss) and gain >= goal.gain and loss <= goal.target_loss
    return [row | ({REACHED: reached} if row["metric"] == GAIN else {}) for row in rows]


def print_points(rows: Sequence[Row]) -> None:
    """Print a line for each point, and the points that reach the goal."""
    table = points_table(rows)
    print_lines("percent; of speakers nobody trained on", table.header, table.lines)
    said = [row for row in rows if REACHED in row]
    if said:
        names = [row["system"] for row in said if row[REACHED]]
        print(f"goal reached by {', '.join(names) or 'no point'}")


def main() -> None:
    """Train, evaluate, write the JSON, print the table."""
    config = read_config(SweepConfig)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    trials = plan(config)
    # Before the trainings, so that a missing test set is known at once.
    bench = None if config.only_train else Bench(config.bench)
    chains = [[trial.run] for trial in trials]
    train_all(chains, config.processes, OMP_NUM_THREADS=str(config.threads))
    if bench is None:
        return
    bench = bench.beside({trial.run.system: trial.run.best for trial in trials})
    scores = bench.scores(bench.names(controls=False))
    rows = sweep_rows(scores, trials, config)
    trained = {trial.run.system: list(trial.run.arguments) for trial in trials}
    bench.save("eval.sweep", config, rows, trainings=trained)
    print_points(rows)


if __name__ == "__main__":
    run_program(main)
