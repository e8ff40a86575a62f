"""A grid of short trainings, beside a reference that is trained as long.

    python -m eval.sweep --config eval/configs/blora_sweep.yaml
    python -m eval.sweep --config eval/configs/vi_lora_sweep.yaml
    python -m eval.sweep --config eval/configs/matrix_sweep.yaml
    python -m eval.sweep --config eval/configs/budget_sweep.yaml

What is varied: the weight of the divergence and the prior of a variational LoRA, against the LoRA
of the same matrices; or which type of matrix is adapted at which budget, against all of them
together. What is measured, on speakers nobody trained on, is the error on atypical speech (all
cohorts that are simulated, or recorded where none is), and in BLoRA's terms (`eval.lib.forgetting`)
what it costs on typical speech. Of matrix types also: do those that move most in the training of
all of them (``ranking``: size of the update, angles between W and W + delta W) help most when
adapted alone (``ranking_check``: Spearman's correlation with the error, negative where they do)?

A finished training is not repeated, an interrupted one goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from eval.lib.adaptation import AngleSettings, size_rows, weight_rows
from eval.lib.bench import Bench, BenchConfig
from eval.lib.forgetting import DEGRADATION, GAIN, TARGET_LOSS, forgetting_rows
from eval.lib.runs import Run, short_run, train_all
from eval.lib.scores import ATYPICAL, SIMULATED, Scores, targets
from eval.lib.systems import BACKBONE
from eval.lib.tables import Table, print_lines, with_interval
from hyperasr.adapters.base import MAX_RANK
from hyperasr.adapters.lora import TargetShape, target_shapes
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError
from hyperasr.whisper.backbone import Backbone
from train.loop.program import read_config, run_program

log = logging.getLogger("eval.sweep")
Value = float | str
Row = dict[str, Any]
# What a sweep varies along a line, and from line to line. Rows of a point have both as fields.
ALONG = {"beta": "\N{GREEK SMALL LETTER BETA}", "kl_weight": "KL weight", "budget": "budget"}
LINES = {"sigma": "prior \N{GREEK SMALL LETTER SIGMA}", "prior": "prior", "target": "matrices"}
# What a value sets: options of `train.meta`, and settings of its source; a budget sets the rank.
AXES: dict[str, Callable[[Any], tuple[dict[str, Any], dict[str, Any]]]] = {
    "beta": lambda v: ({"objective.beta": v}, {}),
    "sigma": lambda v: ({}, {"prior": "fixed", "prior_sigma": v}),
    "prior": lambda v: ({}, {"prior": v}),
    # Without rounding 1 - 0.1 is not the 0.9 of the configuration.
    "kl_weight": lambda v: ({"objective.beta": v, "objective.nll_weight": round(1 - v, 9)}, {}),
    "target": lambda v: ({"source.targets": [v]}, {}),
    # alpha = rank: the update is scaled by 1 whatever the rank, so that one rate suits all.
    "rank": lambda v: ({}, {"rank": v, "alpha": v}),
}


@dataclass(frozen=True)
class SweepConfig:
    """What is varied, trained how, against what."""

    bench: BenchConfig = field(default_factory=BenchConfig)
    """Test set and protocol; its systems, if any, are further references."""
    meta: Path = Path("train/configs/blora.yaml")
    """Configuration of `train.meta` of every point."""
    reference: Path = Path("train/configs/lora_qk.yaml")
    """Configuration of `train.meta` of the LoRA of the same rank and targets, or of all matrix
    types together; its name in tables is that of the file."""
    grid: dict[str, tuple[Value, ...]] = field(default_factory=dict)
    """Values of ``beta`` or ``kl_weight`` (the weight of the divergence; that of the cross-entropy
    is then 1 minus it) and of ``sigma`` (width of a fixed prior) or ``prior``; or of ``target``
    (matrix types, adapted one at a time) and ``budget`` (trained weights as a share of the
    backbone's, which gives the rank)."""
    steps: int = 300
    """Optimiser steps of each training, at least 1."""
    processes: int = 2
    """Trainings at a time, at least 1."""
    threads: int = 1
    """Threads of torch in each, at least 1."""
    options: dict[str, str] = field(default_factory=dict)
    """Further options of `train.meta` by dotted name, for points and reference."""
    runs: Path = Path("runs/blora_sweep")
    """Folder of the trainings."""
    out: Path = Path("results/blora_sweep.json")
    """Result file."""

    def __post_init__(self) -> None:
        along, lines = (self.grid.keys() & known for known in (ALONG, LINES))
        if [len(self.grid), len(along), len(lines)] != [2, 1, 1] or not all(self.grid.values()):
            raise ConfigError(
                f"grid is {self.grid}; give at least one value of one of {', '.join(ALONG)} and "
                f"one of {', '.join(LINES)}"
            )
        if min(self.steps, self.processes, self.threads) < 1:
            raise ConfigError("steps, processes and threads must be at least 1")
        if ("budget" in self.grid) != ("target" in self.grid):
            raise ConfigError("grid has a budget without a target, or a target without a budget")
        if not all(0 < float(share) < 1 for share in self.grid.get("budget", ())):
            raise ConfigError(
                f"budgets are {self.grid['budget']}; give shares in (0, 1), 0.001 is 0.1 %"
            )
        if twice := [axis for axis, values in self.grid.items() if len(set(values)) < len(values)]:
            raise ConfigError(f"grid.{twice[0]} has a value twice: {self.grid[twice[0]]}")

    @property
    def lora(self) -> str:
        """Name of the reference LoRA."""
        return self.reference.stem


def plan(config: SweepConfig) -> list[Run]:
    """Return the trainings: the reference, then every point of the grid whose budget can be met.

    Raises:
        ConfigError: a configuration file that cannot be read, or values that `train.meta` refuses.
    """
    lora = short_run(
        config.lora, config.reference, config.runs / config.lora, config.steps, config.options
    )
    base = short_run("", config.meta, config.runs, config.steps, config.options).config
    shapes: Mapping[str, TargetShape] = {}
    n_backbone = 0
    if "target" in config.grid:
        backbone = Backbone.from_pretrained(base.backbone)
        shapes = target_shapes(backbone.whisper, map(str, config.grid["target"]))
        n_backbone = backbone.n_parameters
    runs = [lora]
    for values in product(*config.grid.values()):
        point = dict(zip(config.grid, values, strict=True))
        name = "-".join(f"{a}-{v if isinstance(v, str) else f'{v:g}'}" for a, v in point.items())
        if "budget" in point:
            rank = rank_of(float(point["budget"]), shapes[str(point["target"])], n_backbone)
            if rank is None:
                log.warning("%s: no rank in 1..%d uses up the budget; left out", name, MAX_RANK)
                continue
            point["rank"] = rank
        options: dict[str, Any] = dict(config.options)
        settings = dict(base.source.settings or {})
        for axis, value in point.items():
            more, own = AXES[axis](value) if axis in AXES else ({}, {})
            options |= more
            settings |= own
        options["source.settings"] = settings
        system = f"{base.source.kind}:{name}"
        run = short_run(system, config.meta, config.runs / name, config.steps, options)
        runs.append(replace(run, point=point))
    return runs


def rank_of(budget: float, shape: TargetShape, n_backbone: int) -> int | None:
    """Return the highest rank that does not exceed a budget, so that the next one would.

    None where rank 1 exceeds it, or the highest possible rank does not use it up. The budget is a
    share of the backbone's weights.
    """
    rank = int(budget * n_backbone / shape.n_weights(1) * (1 + 1e-12))
    return rank if 1 <= rank <= min(MAX_RANK, shape.d_in, shape.d_out) else None


def sweep_rows(scores: Scores, runs: Sequence[Run], config: SweepConfig) -> list[Row]:
    """Return errors and forgetting of every system; rows of a point of `runs` say which one."""
    points = {run.system: run.point for run in runs}
    groups = [group for group in scores.groups() if group.corpus is None]
    target, typical = targets(groups)[:1], [g for g in groups if g.cohort == TYPICAL]
    rows = [row for group in (*target, *typical) for row in scores.rows(group)]
    new = {group.domain: scores.part(group.chosen) for group in target}
    for group in typical if target else ():
        old = scores.part(group.chosen)
        for name in scores.counts:
            if name != BACKBONE:
                rows += forgetting_rows(old, new, name, config.lora)
    return [{**row, **points.get(row["system"], {})} for row in rows]


def ranking_rows(sizes: Sequence[Row], errors: Sequence[Row]) -> list[Row]:
    """Rank matrix types by how far they move, and hold the ranking against their errors.

    Args:
        sizes: of the training on all matrix types together, from `eval.lib.adaptation`.
        errors: of `sweep_rows`.
    Returns:
        A ``ranking`` row for each matrix type and measure of adaptation; and for each budget at
        which at least four matrix types were trained a ``ranking_check``: Spearman's correlation of
        the measure with the error on atypical speech.
    """
    from scipy.stats import spearmanr

    measures: dict[str, dict[str, list[float]]] = {}
    for row in sizes:
        name = row["measure"]
        if name == "weight_angle":
            name = f"weight_angle_{row['space']}_{row['rank']}"
        if name != "effective_rank":
            measures.setdefault(name, {}).setdefault(row["target"], []).append(row["value"])
    rates: dict[float, dict[str, float]] = {}
    for row in errors:
        if "budget" in row and row.get("cohort", TYPICAL) != TYPICAL and "against" not in row:
            rates.setdefault(row["budget"], {})[row["target"]] = row["value"]
    rows: list[Row] = []
    for name, by_target in measures.items():
        means = {target: sum(v) / len(v) for target, v in by_target.items()}
        about = {"by": name}
        for place, target in enumerate(sorted(means, key=lambda t: -means[t]), start=1):
            at = {"target": target, "place": place, "value": means[target]}
            rows.append({"measure": "ranking", **about, **at})
        for budget, own in sorted(rates.items()):
            both = [target for target in means if target in own]
            if len(both) >= 4:
                test = spearmanr([means[t] for t in both], [own[t] for t in both])
                at = {"budget": budget, "value": float(test.statistic), "p": float(test.pvalue)}
                rows.append({"measure": "ranking_check", **about, **at, "n_targets": len(both)})
    return rows


def points_table(rows: Sequence[Row]) -> Table:
    """Return a line for each reference and point of a sweep: errors, forgetting, what it costs.

    Fractions are in percent, with their 95 % intervals.

    Raises:
        ConfigError: rows of another program.
    """
    rows = [row for row in rows if "measure" not in row]
    varied = [next((a for a in known if any(a in r for r in rows)), "") for known in (LINES, ALONG)]
    errors = [row for row in rows if "against" not in row]
    target = next((row for row in errors if row["cohort"] != TYPICAL), None)
    if not all(varied) or target is None:
        raise ConfigError("no row is of a point of a sweep; it was made by another program")
    cohort, domain = target["cohort"], target["domain"]
    called = f"{domain} cohorts" if cohort == ATYPICAL else f"{cohort}, {domain}"
    unit = str(target["metric"]).upper()
    columns = {
        cohort: f"{unit}, {called}",
        TYPICAL: f"{unit}, typical speech",
        DEGRADATION: "backward degradation",
        GAIN: "backward gain",
        TARGET_LOSS: "target loss",
    }
    systems: dict[str, dict[str, Row]] = {}
    for row in rows:
        place = row["metric"] if "against" in row else row["cohort"]
        systems.setdefault(row["system"], {})[place] = row
    lines = []
    for name, own in systems.items():
        point = next(iter(own.values()))
        cells = [with_interval(own[place], 1, 100) if place in own else "" for place in columns]
        setting = (_setting(point.get(axis)) for axis in varied)
        lines.append((name.partition(":")[0], *setting, *cells))
    header = ("system", LINES[varied[0]], ALONG[varied[1]], *columns.values())
    return Table(header, tuple(lines), 3)


def _setting(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, int | float) else str(value).replace("_", " ")


def main() -> None:
    """Train, evaluate, write the JSON, print the table."""
    config = read_config(SweepConfig)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    runs = plan(config)
    # Before the trainings, so that a missing test set is known at once.
    bench = Bench(config.bench)
    train_all([[run] for run in runs], config.processes, config.threads)
    bench = bench.beside({run.system: run.best for run in runs})
    # What is recorded of other cohorts says nothing here where any are simulated, see `targets`.
    simulated = any(view.domain == SIMULATED for view in bench.views)
    chosen = [
        i
        for i, view in enumerate(bench.views)
        if view.domain == SIMULATED or view.cohort == TYPICAL or not simulated
    ]
    scores = bench.scores(bench.systems, chosen)
    rows = sweep_rows(scores, runs, config)
    if "target" in config.grid:
        together = bench.systems[config.lora].model
        factors, whisper = together.factors(), together.backbone.whisper
        moved = size_rows(factors, whisper, None, 1)
        moved += weight_rows(factors, whisper, None, AngleSettings())
        rows += ranking_rows(moved, rows)
    trained = {run.system: list(run.arguments) for run in runs}
    bench.save("eval.sweep", config, rows, trainings=trained)
    table = points_table(rows)
    print_lines("percent; of speakers nobody trained on", table.header, table.lines)
    for row in rows:
        if row.get("measure") == "ranking_check":
            print(f"{row['by']} and the error at budget {row['budget']:g}: {row['value']:+.2f}")


if __name__ == "__main__":
    run_program(main)
