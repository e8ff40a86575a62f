"""Which weights adapt, and whose adaptations are alike: principal angles between subspaces.

    python -m eval.subspace_angles --config eval/configs/subspace_angles.yaml

Rows, by field ``measure``: ``angle`` between updates of utterances and of cohorts (see
`eval.lib.adaptation`); ``weight_angle`` between the leading subspaces of W and W + delta W;
``relative_norm`` and ``effective_rank`` of the updates. Angles are in degrees: ``value`` the mean
of all k angles, ``largest`` the largest one. The field ``part`` tells whole updates from what they
differ by from the update of the mean embedding (``deviation``). Cohorts are recorded or simulated,
as ``domain`` says (``with_domain`` of the other one); tested speakers are unseen. Which matrices
are best to adapt: `eval.sweep`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from eval.lib.adaptation import (
    AngleSettings,
    Who,
    first_of_each,
    size_rows,
    update_rows,
    weight_rows,
)
from eval.lib.bench import Bench, BenchConfig
from eval.lib.scores import RECORDED, labels
from eval.lib.systems import System
from eval.lib.tables import print_lines
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError
from hyperasr.metrics.subspace import contrast
from hyperasr.types import LoRAFactors
from train.loop.program import read_config, run_program

log = logging.getLogger("eval.subspace_angles")

Row = dict[str, Any]
COLUMNS = (  # of the printed table: from the utterance to the cohort, each from near to far
    *("utterance same person", "utterance same voice", "utterance same cohort"),
    *("utterance other cohort", "cohort split half", "cohort other cohort", "chance"),
)


@dataclass(frozen=True)
class AnglesConfig:
    """Which systems and which utterances."""

    bench: BenchConfig = field(default_factory=BenchConfig)
    """Systems, test set and protocol."""
    angles: AngleSettings = field(default_factory=AngleSettings)
    """Ranks and draws."""
    per_person: int = 4
    """Utterances of each simulated person, at least 2 to compare within a person."""
    out: Path = Path("results/subspace_angles.json")
    """Result file."""

    def __post_init__(self) -> None:
        if self.per_person < 2:
            raise ConfigError(f"per_person is {self.per_person}; it must be at least 2")


@torch.inference_mode()
def factors_of(
    bench: Bench, system: System, rows: Sequence[int]
) -> tuple[LoRAFactors, Who | None, LoRAFactors | None]:
    """Return a system's factors, whose they are, and those of the mean embedding.

    A source that listens has factors for each row; one by cohort for each cohort; a shared one has
    no owners (None). Of a Gaussian source the means are taken. A cohort that is both recorded and
    simulated counts as two.

    Raises:
        ConfigError: a source whose factors belong to people who are not in the test.
    """
    model = system.model
    if system.conditioned:
        emb = bench.embeddings(system)[list(rows)]
        cohorts = labels(bench.column("cohort"), bench.column("domain"))
        columns = (bench.column("speaker"), bench.column("person"), cohorts)
        who = Who(*([column[i] for i in rows] for column in columns))
        mean: Any = model.source.emb_mean
        return model.factors(emb), who, model.factors(mean.view(1, -1))
    if system.groups:
        groups = list(system.groups)
        return model.factors(groups=groups), Who(groups, groups, groups), None
    by = (model.source_config.settings or {}).get("by", "global")
    if by != "global":
        raise ConfigError(f"{system.name} has factors by {by}; nobody of the test has any")
    return model.factors(), None, None


def system_rows(bench: Bench, system: System, config: AnglesConfig) -> list[Row]:
    """Return all rows of one system."""
    chosen = first_of_each(bench.column("person"), config.per_person)
    factors, who, mean = factors_of(bench, system, chosen)
    model = system.model
    whisper = model.backbone.whisper
    # Updates have no more dimensions than their rank.
    rank = model.source.rank
    ranks = tuple(k for k in config.angles.ranks if k <= rank)
    if not ranks:
        raise ConfigError(
            f"{system.name}: its updates have rank {rank}; ask for lower angles.ranks"
        )
    if ranks != config.angles.ranks:
        log.warning("%s: rank %d; only subspaces of %s dimensions", system.name, rank, ranks)
    settings = replace(config.angles, ranks=ranks)
    try:
        rows = size_rows(factors, whisper, who, settings.n_resamples)
        rows += weight_rows(factors, whisper, who, settings)
        if who is not None:
            found = update_rows(factors, who, settings)
            # Where a cohort has one update, people and utterances have none of their own.
            rows += [r for r in found if not system.groups or r["level"] == "cohort"]
        rows = [{"system": system.name, "part": "whole", **row} for row in rows]
        if mean is not None and who is not None:
            apart = contrast(factors, mean)
            more = size_rows(apart, whisper, who, settings.n_resamples)
            more += update_rows(apart, who, settings)
            rows += [{"system": system.name, "part": "deviation", **row} for row in more]
    except ConfigError as error:
        raise ConfigError(f"{system.name}: {error}") from error
    return with_domains(rows, bench.column("cohort"), bench.column("domain"))


def with_domains(rows: Sequence[Row], cohorts: Sequence[str], domains: Sequence[str]) -> list[Row]:
    """Return rows, whose cohorts are `labels` of the test set's cohorts and domains or several of
    them together, that also say whether their cohorts are recorded or simulated."""
    known = dict(zip(labels(cohorts, domains), domains, strict=True)) | {TYPICAL: RECORDED}
    places = (("cohort", "domain"), ("with_cohort", "with_domain"))
    return [
        row | {domain: known[row[name]] for name, domain in places if row.get(name) in known}
        for row in rows
    ]


def print_angles(rows: Iterable[Row]) -> None:
    """Print the mean angles of every relation, mean over layers and cohorts, beside chance."""
    lines: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for row in rows:
        if row.get("measure") == "angle":
            key = tuple(row[name] for name in ("system", "part", "target", "space", "rank"))
            cells = lines.setdefault(key, {})
            name = f"{row['level']} {row['relation'].replace('_', ' ')}"
            cells.setdefault(name, []).append(row["value"])
            if "null" in row:
                cells.setdefault("chance", []).append(row["null"])
    names = [name for name in COLUMNS if any(name in cells for cells in lines.values())]
    shown = []
    for key, cells in lines.items():
        means = (cells.get(name) for name in names)
        numbers = ("" if m is None else f"{sum(m) / len(m):.1f}" for m in means)
        shown.append((*map(str, key), *numbers))
    header = ("system", "part", "target", "space", "k", *names)
    print_lines("mean principal angle in degrees, mean over layers and cohorts", header, shown)


def main() -> None:
    """Measure, write the JSON, print the tables."""
    config = read_config(AnglesConfig)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    bench = Bench(config.bench)
    rows: list[Row] = []
    for system in bench.systems.values():
        if system.adapt:
            log.info("%s: angles", system.name)
            rows += system_rows(bench, system, config)
    bench.save("eval.subspace_angles", config, rows, seed=config.angles.seed)
    print_angles(rows)


if __name__ == "__main__":
    run_program(main)
