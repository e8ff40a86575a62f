"""The recogniser alone: the rows that everything is judged against.

    python -m eval.unadapted --config eval/configs/unadapted.yaml

``backbone`` is the frozen Whisper on 30 s of audio with our greedy search and its limits,
``backbone_plain`` the same weights decoded by transformers' own `generate` with its defaults. Rows:
by cohort and severity and on typical speech, of all corpora together and of each (field
``corpus``); the same for further test sets (`UnadaptedConfig.more`), of which those that hold some
recordings of another set once more have the field ``subset``.

A row with ``measure`` ``same_tokens`` says of how many typical recordings both write the same
tokens: ``value`` is the share of those in which neither came to its limit. For it our search
decodes once more with features in float32 all the way, as transformers does.

Hypotheses are kept, so that an interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.lib import results
from eval.lib.bench import Bench, BenchConfig
from eval.lib.scores import Scores, groups_of, levels_of
from eval.lib.systems import BACKBONE, PLAIN
from eval.lib.tables import BY_COHORT, print_rows
from eval.lib.testset import TestSet, sets_of
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError
from hyperasr.metrics.protocols import protocol
from train.loop.program import read_config, run_program

Row = dict[str, Any]
SAME = "same_tokens"


@dataclass(frozen=True)
class UnadaptedConfig:
    """What is decoded."""

    bench: BenchConfig = field(default_factory=lambda: BenchConfig(unadapted=(BACKBONE, PLAIN)))
    """Test set and protocol; it has no systems."""
    more: dict[str, TestSet] = field(default_factory=dict)
    """Further test sets by name."""
    out: Path = Path("results/unadapted.json")
    """Result file."""

    def __post_init__(self) -> None:
        if self.bench.systems:
            raise ConfigError("nothing that was trained is run here; leave bench.systems out")


def error_rows(scores: Scores, **fields: Any) -> list[Row]:
    """Return errors and differences by cohort and severity, of all corpora and of each."""
    pairs = [(name, BACKBONE) for name in scores.counts if name != BACKBONE]
    rows: list[Row] = []
    for group in scores.groups():
        rows += scores.group_rows(group, pairs=pairs, **fields)
        if group.cohort != TYPICAL:
            for level, chosen in levels_of(scores.meta["severity"], group.chosen).items():
                own = replace(group, chosen=tuple(chosen))
                rows += scores.group_rows(own, pairs=pairs, severity=level, **fields)
    return rows


def same_rows(bench: Bench, **fields: Any) -> list[Row]:
    """Return on how many typical recordings both decoders write the same tokens."""
    meta = {name: bench.column(name) for name in ("cohort", "domain", "source")}
    groups = [g for g in groups_of(meta, bench.config.apart) if g.cohort == TYPICAL]
    typical = sorted({i for group in groups for i in group.chosen})
    ours, theirs = bench.decoded(f"{BACKBONE}:float32", typical), bench.decoded(PLAIN, typical)
    ended = [a and b for a, b in zip(ours.finished, theirs.finished, strict=True)]
    same = [a == b for a, b in zip(ours.tokens, theirs.tokens, strict=True)]
    place = {row: i for i, row in enumerate(typical)}
    rows = []
    for group in groups:
        compared = [place[i] for i in group.chosen if ended[place[i]]]
        n_same = sum(same[i] for i in compared)
        about = {"measure": SAME, "system": BACKBONE, "base": PLAIN}
        about |= {"cohort": group.cohort, "domain": group.domain, **group.fields}
        measured = {
            "value": n_same / len(compared) if compared else None,
            "n_same": n_same,
            "n_limited": len(group.chosen) - len(compared),
            "n_utterances": len(group.chosen),
        }
        rows.append({**about, **measured, **fields})
    return rows


def rows_of(bench: Bench, **fields: Any) -> list[Row]:
    """Return all rows of one test set."""
    compares = PLAIN in bench.systems
    if compares:
        exact = bench.systems[BACKBONE].exact()
        bench.systems[exact.name] = exact
    rows: list[Row] = []
    for metric in bench.protocol.metrics:
        scores = bench.scores(bench.config.unadapted, metric=metric)
        rows += error_rows(scores, **fields)
    rows = results.with_holm(rows, ("corpus", "metric", "severity"))
    return rows + (same_rows(bench, **fields) if compares else [])


def show(rows: Sequence[Row]) -> None:
    """Print the tables of every place: the headline, each corpus, each further set."""
    for corpus, subset in dict.fromkeys((r.get("corpus"), r.get("subset")) for r in rows):
        own = [r for r in rows if (r.get("corpus"), r.get("subset")) == (corpus, subset)]
        metric = next(r["metric"] for r in own if "metric" in r)
        name = ", ".join(part for part in (corpus, subset) if part) or "all corpora"
        for columns, what in ((BY_COHORT, ""), ((*BY_COHORT, "severity"), ", by severity")):
            title = f"{metric} in percent, {name}{what}"
            print_rows(own, columns, title=title, corpus=corpus, subset=subset, metric=metric)
        for row in own:
            if row.get("measure") == SAME:
                n = row["n_utterances"] - row["n_limited"]
                print(
                    f"{name}: the same tokens as transformers' generate in {row['n_same']} of {n} "
                    f"typical recordings; {row['n_limited']} more came to a limit"
                )


def main() -> None:
    """Decode, write the JSON, print the tables."""
    config = read_config(UnadaptedConfig)
    rows: list[Row] = []
    backbone = None
    for settings, fields in sets_of(config.bench, config.more):
        bench = Bench(settings, backbone)
        backbone = bench.backbone
        rows += rows_of(bench, **fields)
    rules = protocol(config.bench.protocol)
    results.save(
        "eval.unadapted",
        config,
        rows,
        seed=config.bench.seed,
        protocol=f"unadapted, held-out speakers, {rules.name}",
        normaliser=rules.normaliser,
    )
    show(rows)


if __name__ == "__main__":
    run_program(main)
