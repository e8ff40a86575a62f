"""Each matrix type adapted alone, at the same budget: is what moves most what helps most?

Short trainings of a static LoRA on one matrix type, its rank chosen so that its weights come to a
given share of the backbone's; and one on all matrix types together, from which the matrix types are
ranked by how far they move. Trainings are those of `train.meta`, each in a folder of its own:
a finished one is not repeated, an interrupted one goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.lib.bench import Bench
from eval.lib.runs import Run, short_run, train_all
from eval.lib.scores import targets
from hyperasr.adapters.base import MAX_RANK
from hyperasr.adapters.lora import TARGET_NAMES, TargetShape
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError
from train.tune import best_of

__all__ = ["ALL", "AblationConfig", "Trial", "plan_trials", "ranking_rows", "score_trials", "train"]

ALL = "all"
SYSTEM = "static_lora"
Row = dict[str, Any]


@dataclass(frozen=True)
class AblationConfig:
    """Which matrix types, at which budgets, trained how."""

    meta: Path = Path("train/configs/global_lora.yaml")
    """Configuration of `train.meta` from which data and batch size are taken."""
    targets: tuple[str, ...] = TARGET_NAMES
    """Matrix types, adapted one at a time."""
    budgets: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2)
    """Trained weights as shares of the backbone's, each in (0, 1)."""
    steps: int = 200
    """Optimiser steps of each training."""
    lrs: tuple[float, ...] = (0.003,)
    """Learning rates to try; the best on the development speakers counts."""
    rank_together: int = 1
    """Rank of the training on all matrix types together."""
    processes: int = 1
    """Trainings at a time, at least 1."""
    threads: int = 1
    """Threads of torch in each, at least 1."""
    runs: Path = Path("runs/matrix_ablation")
    """Folder of the trainings."""
    options: dict[str, str] = field(default_factory=dict)
    """Further options of `train.meta` by dotted name."""

    def __post_init__(self) -> None:
        unknown = [t for t in self.targets if t not in TARGET_NAMES]
        if unknown or not self.targets:
            raise ConfigError(f"targets are {self.targets}; choose from {', '.join(TARGET_NAMES)}")
        if not self.budgets or not all(0 < b < 1 for b in self.budgets):
            raise ConfigError(f"budgets are {self.budgets}; give shares in (0, 1), 0.001 is 0.1 %")
        if not 1 <= self.rank_together <= MAX_RANK:
            raise ConfigError(f"rank_together is {self.rank_together}; it must be in 1..{MAX_RANK}")


@dataclass(frozen=True)
class Trial:
    """One matrix type at one budget.

    Attributes:
        target: matrix type, or ``all``.
        budget: share of the backbone's weights that was asked for; None for all together.
        rank: chosen to meet it; 0 where not even rank 1 does.
        n_weights: what the factors of that rank come to (of rank 1 where the rank is 0).
        share: the same over the backbone's weights.
        note: why the budget is not met or not used up; empty where it is.
    """

    target: str
    budget: float | None
    rank: int
    n_weights: int
    share: float
    note: str = ""

    @property
    def name(self) -> str:
        """Name of the training and its folder; budgets that give the same rank share one."""
        return f"{self.target}-r{self.rank}"


def plan_trials(
    shapes: Mapping[str, TargetShape], n_backbone: int, config: AblationConfig
) -> list[Trial]:
    """Choose for each matrix type and budget the highest rank that does not exceed the budget.

    Args:
        shapes: of every matrix type.
        n_backbone: weights of the backbone.
        config: targets and budgets.
    """
    trials = []
    for target in config.targets:
        shape = shapes[target]
        one = shape.n_weights(1)
        limit = min(MAX_RANK, shape.d_in, shape.d_out)
        for budget in sorted(config.budgets):
            wanted = int(budget * n_backbone / one * (1 + 1e-12))
            rank = min(wanted, limit)
            note = ""
            if rank == 0:
                note = f"rank 1 takes {100 * one / n_backbone:.3g} %"
            elif rank < wanted:
                note = f"rank {wanted} is above {limit}, the highest"
            n = shape.n_weights(max(1, rank))
            trials.append(Trial(target, budget, rank, n, n / n_backbone, note))
    rank = config.rank_together
    n = sum(shapes[target].n_weights(rank) for target in config.targets)
    return [*trials, Trial(ALL, None, rank, n, n / n_backbone)]


def run_of(trial: Trial, lr: float, config: AblationConfig) -> Run:
    """Return the training of a trial."""
    targets = list(config.targets) if trial.target == ALL else [trial.target]
    # alpha = rank: the update is scaled by 1 whatever the rank, so that one rate suits all.
    settings = {"by": "global", "rank": trial.rank, "alpha": trial.rank}
    options = {
        "source.kind": "static",
        "source.targets": targets,
        "source.settings": settings,
        "loop.lr": lr,
        **config.options,
    }
    folder = config.runs / trial.name / f"lr-{lr:g}"
    return short_run(trial.name, config.meta, folder, config.steps, options)


def train(trials: Sequence[Trial], config: AblationConfig) -> dict[str, Path]:
    """Train what is not trained yet; returns the best model's folder by name of the trial.

    Raises:
        ConfigError: a training failed.
    """
    runs = {
        trial.name: [run_of(trial, lr, config) for lr in config.lrs]
        for trial in trials
        if trial.rank
    }
    chains = [[run] for tried in runs.values() for run in tried]
    train_all(chains, config.processes, OMP_NUM_THREADS=str(config.threads))
    return {
        name: min(tried, key=lambda run: best_of(run.config.out)["score"]).best
        for name, tried in runs.items()
    }


def score_trials(
    bench: Bench, trials: Sequence[Trial], models: Mapping[str, Path], rows: Sequence[int]
) -> list[Row]:
    """Return error rows of every trial on the same test rows, and differences to the backbone.

    Rows are of atypical speech, all cohorts together or the only one, and of typical speech.
    Budgets that cannot be met have a row without a value, and the reason in it.
    """
    own = bench.beside({f"{SYSTEM}:{name}": folder for name, folder in models.items()})
    names = ["backbone", *(f"{SYSTEM}:{name}" for name in models)]
    scores = own.scores(names, rows)
    pairs = [(name, "backbone") for name in names[1:]]
    groups = scores.groups()
    typical = [g for g in groups if g.cohort == TYPICAL and g.corpus is None]
    made: list[Row] = []
    for group in (*targets(groups)[:1], *typical):
        by_name: dict[str, list[Row]] = {}
        for row in scores.group_rows(group, pairs=pairs):
            by_name.setdefault(row["system"], []).append(row)
        made += by_name.get("backbone", [])
        for trial in trials:
            columns = ("target", "budget", "rank", "share", "n_weights")
            about = {name: getattr(trial, name) for name in columns}
            about |= {"note": trial.note} if trial.note else {}
            found = by_name.get(f"{SYSTEM}:{trial.name}", [])
            if not found:
                nothing = {"system": f"{SYSTEM}:{trial.target}", "cohort": group.cohort}
                nothing |= {"domain": group.domain, "metric": scores.metric}
                found = [{**nothing, "value": None}]
            made += [{**row, **about} for row in found]
    return made


def ranking_rows(sizes: Sequence[Row], errors: Sequence[Row]) -> list[Row]:
    """Rank matrix types by how far they move, and hold the ranking against their errors.

    Args:
        sizes: rows of `eval.lib.movement` of the training on all matrix types together.
        errors: of `score_trials`.
    Returns:
        A ``ranking`` row for each matrix type and measure of adaptation; and for each budget at
        which at least four matrix types were trained a ``ranking_check``: Spearman's correlation of
        the measure with the error on atypical speech, negative where what moves most helps most.
    """
    from scipy.stats import spearmanr

    measures: dict[str, dict[str, list[float]]] = {}
    for row in sizes:
        if row["cohort"] != "all" or row["measure"] not in ("relative_norm", "weight_angle"):
            continue
        name = row["measure"]
        if name == "weight_angle":
            name = f"weight_angle_{row['space']}_{row['rank']}"
        measures.setdefault(name, {}).setdefault(row["target"], []).append(row["value"])
    rows: list[Row] = []
    for name, by_target in measures.items():
        means = {target: sum(v) / len(v) for target, v in by_target.items()}
        order = sorted(means, key=lambda target: -means[target])
        rows += [
            {"measure": "ranking", "by": name, "target": t, "place": place, "value": means[t]}
            for place, t in enumerate(order, start=1)
        ]
        for budget in sorted({r["budget"] for r in errors if r.get("budget") is not None}):
            rates = {
                r["target"]: r["value"]
                for r in errors
                if r.get("budget") == budget
                and r["cohort"] != TYPICAL
                and "against" not in r
                and r["value"] is not None
                and not r.get("note")
            }
            both = [target for target in means if target in rates]
            if len(both) < 4:
                continue
            test = spearmanr([means[t] for t in both], [rates[t] for t in both])
            row = {"measure": "ranking_check", "by": name, "budget": budget}
            row |= {"value": float(test.statistic), "p": float(test.pvalue)}
            rows.append({**row, "n_targets": len(both)})
    return rows
