"""The comparison of all methods on equal terms: every source, every cohort, and what it costs.

    python -m eval.comparison --config eval/configs/comparison.yaml

Error rates on each cohort, recorded or simulated, and on typical speech, differences against the
global LoRA (Holm-adjusted over each table) and against the frozen backbone, forgetting in BLoRA's
terms (`eval.lib.forgetting`), parameters trained and generated, training time and peak memory.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.lib import results
from eval.lib.bench import Bench, BenchConfig
from eval.lib.forgetting import DEGRADATION, GAIN, TARGET_LOSS, forgetting_rows
from eval.lib.scores import Scores, targets
from eval.lib.systems import BACKBONE, System
from eval.lib.tables import BY_COHORT, print_rows
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError
from train.loop.program import read_config, run_program

log = logging.getLogger("eval.comparison")


@dataclass(frozen=True)
class ComparisonConfig:
    """Which systems to compare, and with which LoRA."""

    bench: BenchConfig = field(default_factory=BenchConfig)
    """Systems, test set and protocol."""
    against: str = "global_lora"
    """The system that every other one is compared with."""
    lora_of: dict[str, str] = field(default_factory=dict)
    """For a system, the LoRA that forgetting is measured against: the same rank and targets. Those
    not named are measured against `against`."""
    individual: dict[str, Path] = field(default_factory=dict)
    """Folders `best` of `train.individual` by system name. Each is compared on what it recognises,
    in rows of their own (field ``subset``), with those that recognise the same and with all other
    systems."""
    out: Path = Path("results/comparison.json")
    """Result file."""

    def __post_init__(self) -> None:
        known = [*self.bench.systems, BACKBONE]
        named = [self.against, *self.lora_of, *self.lora_of.values()]
        if missing := [name for name in named if name not in known]:
            raise ConfigError(
                f"{missing[0]!r} is to be compared with but is not among the systems "
                f"({', '.join(known)})"
            )


def error_rows(config: ComparisonConfig, scores: Scores, systems: Iterable[str]) -> list[dict]:
    """Return error rates and differences by cohort, of all corpora and of each.

    Forgetting is measured of `systems`, which leaves out the controls.
    """
    pairs = [(name, config.against) for name in scores.counts if name != config.against]
    pairs += [(name, BACKBONE) for name in scores.counts if name not in (BACKBONE, config.against)]
    pairs += [(config.against, BACKBONE)] if config.against != BACKBONE else []
    pairs += [pair for pair in config.lora_of.items() if pair not in pairs]
    rows: list[dict[str, Any]] = []
    groups = scores.groups()
    for group in groups:
        rows += scores.rows(group, pairs=pairs)
        if group.cohort != TYPICAL:
            continue
        target = {g.domain: scores.part(g.chosen) for g in targets(groups, group.corpus)}
        typical = scores.part(group.chosen)
        for name in systems:
            if name != BACKBONE and target:
                lora = config.lora_of.get(name, config.against)
                rows += forgetting_rows(typical, target, name, lora, **group.fields)
    # A table shows all differences against one system.
    return results.with_holm(rows, ("against", "corpus", "metric"))


def individual_rows(config: ComparisonConfig, bench: Bench, metric: str) -> list[dict[str, Any]]:
    """Return the rows of people who enrolled: their own LoRA beside the other systems.

    Each individual system has rows of its own, on what it recognises: how many utterances a person
    enrols with decides who can take part at all.
    """
    own = bench.beside(config.individual)
    recognised = {name: own.rows_of(name) for name in config.individual}
    rows: list[dict[str, Any]] = []
    for name, wanted in recognised.items():
        peers = [n for n, rows_of in recognised.items() if rows_of == wanted and n != name]
        others = [*bench.systems, *peers]
        scores = own.scores([*others, name], wanted, metric=metric)
        pairs = [(name, other) for other in others]
        for group in scores.groups():
            rows += scores.rows(group, pairs=pairs, subset=name)
    return results.with_holm(rows, ("subset", "corpus", "metric"))


def cost_row(system: System, n_backbone: int) -> dict[str, Any]:
    """Return a row with parameters (counted) and what the run folder's log says of the training.

    Seconds a step are the median over the log, so that a pause does not count, and the seconds in
    all are as many such steps; whatever ran beside the training is in them. What a run started from
    is named and not added. `n_backbone` are the parameters of the frozen backbone.
    """
    row: dict[str, Any] = {"system": system.name, "cost": "training"}
    for what, n in (("trained", system.n_trained), ("generated", system.n_generated)):
        row |= {f"n_{what}": n, f"share_{what}": n / n_backbone}
    if system.folder is None:
        return row
    try:
        text = (system.folder.parent / "log.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        steps = max(line["step"] for line in lines)
        step_s = statistics.median(line["step_s"] for line in lines)
        row |= {"steps": steps, "step_s": step_s, "seconds": steps * step_s}
        for name in ("peak_rss_mib", "peak_device_mib"):
            if held := [line[name] for line in lines if name in line]:
                row[name] = max(held)
    except (OSError, ValueError, KeyError, TypeError):
        log.warning("%s: no log of its training in %s", system.name, system.folder.parent)
    start = system.training.get("config", {}).get("init_from")
    return row | ({"started_from": str(start)} if start else {})


def main() -> None:
    """Evaluate, write the JSON, print the tables."""
    config = read_config(ComparisonConfig)
    bench = Bench(config.bench)
    first, *others = bench.protocol.metrics
    rows: list[dict[str, Any]] = []
    for metric in (first, *others):
        scores = bench.scores(bench.names(), metric=metric)
        # Shares of characters say the same as those of words.
        rows += error_rows(config, scores, bench.systems if metric == first else ())
        rows += individual_rows(config, bench, metric)
    n_backbone = bench.backbone.n_parameters
    rows += [cost_row(system, n_backbone) for system in bench.systems.values()]
    bench.save("eval.comparison", config, rows)
    print_rows(rows, title=f"{first} in percent", metric=first)
    title = f"minus {config.against}; * Holm-adjusted p < 0.05"
    print_rows(rows, title=title, differences=True, against=config.against, metric=first)
    print_rows(
        rows,
        ("metric", "domain"),
        title="forgetting, in percent",
        differences=True,
        metric=[DEGRADATION, GAIN, TARGET_LOSS],
    )
    for name in config.individual:
        title = f"people who enrolled, {name}, {first} in percent"
        print_rows(rows, BY_COHORT, title=title, subset=name, metric=first)
    print_rows(rows, title="cost", show="cost")


if __name__ == "__main__":
    run_program(main)
