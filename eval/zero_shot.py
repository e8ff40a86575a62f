"""Zero-shot transcription of speakers nobody trained on: every system on the same recordings.

    python -m eval.zero_shot --config eval/configs/zero_shot.yaml

With default_model.yaml those that ship, with beam.yaml the same with a beam of five, with
unadapted.yaml the recogniser alone: the frozen Whisper on 30 s of audio with our greedy search and
its limits (``backbone``), and the same weights decoded by transformers' own `generate`
(``backbone_plain``).

Rows: by cohort, recorded or simulated, by severity, on typical speech; of all corpora together and
of each apart (field ``corpus``); the same for further test sets. Systems that listen to an
embedding are also run with the controls of `eval.lib.embedding_controls`.

A row with ``measure`` ``excess_recovered`` says how much of the error that atypical speech adds a
system takes away again: (unadapted - system) / (unadapted - unadapted on typical speech), where
unadapted is the row without training that is best on that cohort.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.lib import results
from eval.lib.bench import Bench, BenchConfig
from eval.lib.embedding_controls import CONTROLS
from eval.lib.scores import ATYPICAL, Scores, levels_of
from eval.lib.systems import BACKBONE, UNADAPTED
from eval.lib.tables import print_rows
from eval.lib.testset import TestSet, sets_of
from hyperasr.cohorts.views import TYPICAL
from train.loop.program import read_config, run_program

EXCESS = "excess_recovered"
_PLACE = ("system", "cohort", "domain", "corpus", "n_utterances", "n_speakers")
MAIN = "hypernet"  # the system that every other one is compared with
BOTH = ("hypernet_encoder_decoder", "hypernet_one_pass")  # and those that have pairs of their own


@dataclass(frozen=True)
class ZeroShotConfig:
    """Which systems to compare, on what."""

    bench: BenchConfig = field(default_factory=BenchConfig)
    """Systems, test set and protocol."""
    more: dict[str, TestSet] = field(default_factory=dict)
    """Further test sets by name, whose rows come after those of the first."""
    out: Path = Path("results/zero_shot.json")
    """Result file."""


def rows_of(scores: Scores, *, severities: bool = True) -> list[dict[str, Any]]:
    """Return all rows of the result file for one metric, by severity too as far as it is known."""
    pairs = differences(scores.counts)
    rows: list[dict[str, Any]] = []
    for group in scores.groups():
        rows += scores.rows(group, pairs=pairs)
        if group.corpus or group.cohort in (ATYPICAL, TYPICAL) or not severities:
            continue
        for level, chosen in levels_of(scores.meta["severity"], group.chosen).items():
            rows += scores.rows(replace(group, chosen=tuple(chosen)), pairs=pairs, severity=level)
    return rows


def excess_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how much of the excess error each adapted system recovers, by cohort and corpus.

    Groups without typical speech beside them have no excess. The rows are of one metric.
    """
    errors = [r for r in rows if "against" not in r and "severity" not in r and "value" in r]
    groups: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in errors:
        place = (row.get("corpus"), row["cohort"], row["domain"])
        groups.setdefault(place, {})[row["system"]] = row
    found = []
    for (corpus, cohort, _), of_systems in groups.items():
        typical = next((g for p, g in groups.items() if p[:2] == (corpus, TYPICAL)), None)
        plain = [name for name in of_systems if name in UNADAPTED]
        if cohort == TYPICAL or typical is None or not plain:
            continue
        best = min(plain, key=lambda name: of_systems[name]["value"])
        excess = of_systems[best]["value"] - typical[best]["value"]
        for name, row in of_systems.items():
            if name not in UNADAPTED:
                gain = of_systems[best]["value"] - row["value"]
                kept = {k: v for k, v in row.items() if k in _PLACE}
                value = gain / excess if excess > 0 else None
                found.append({"measure": EXCESS, **kept, "base": best, "value": value})
    return found


def differences(systems: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs that the paper's claims rest on, as far as the systems are there."""
    known = list(systems)
    if set(known) <= set(UNADAPTED):
        return [(name, BACKBONE) for name in known if name != BACKBONE]
    controls = {name: [f"{name}_{control}" for control in CONTROLS] for name in BOTH}
    apart = [MAIN, *(name for names in controls.values() for name in names)]
    pairs = [(MAIN, other) for other in known if other not in apart]
    pairs += [("global_lora", "backbone"), BOTH[::-1]]
    for name, own in controls.items():
        others = ("backbone", MAIN, "global_lora_encoder_decoder", *own)
        pairs += [(name, other) for other in others]
    return [(a, b) for a, b in pairs if a in known and b in known]


def main() -> None:
    """Evaluate, write the JSON, print the tables."""
    config = read_config(ZeroShotConfig)
    benches: list[Bench] = []
    rows: list[dict[str, Any]] = []
    for settings in sets_of(config.bench, config.more):
        bench = Bench(settings, benches[0].backbone if benches else None)
        benches.append(bench)
        first, *others = bench.protocol.metrics
        own = rows_of(bench.scores(bench.names(), metric=first))
        rows += own + excess_rows(own)
        for metric in others:
            rows += rows_of(bench.scores(bench.names(), metric=metric), severities=False)
    # Each printed table of differences is one family of comparisons, of whatever test sets.
    rows = results.with_holm(rows, ("corpus", "metric", "severity"))
    bench = benches[0]
    first = bench.protocol.metrics[0]
    bench.save("eval.zero_shot", config, rows)
    print_rows(rows, title=f"{first} in percent", metric=first)
    for corpus in dict.fromkeys(row["corpus"] for row in rows if "corpus" in row):
        print_rows(rows, title=f"{first} in percent, {corpus}", corpus=corpus, metric=first)
    print_rows(rows, title="paired differences", differences=True, metric=first)


if __name__ == "__main__":
    run_program(main)
