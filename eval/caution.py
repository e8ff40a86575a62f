"""Does caution help where a model has not been, and cost nothing where it has?

    python -m eval.caution --config eval/configs/caution.yaml

Three systems on unseen speakers: the frozen backbone, a hypernetwork, and the same hypernetwork
shrunk by the distance of each embedding to its training cloud. Typical speech and the cohorts of
training are measured with the full model; an unseen cohort with the model that
`eval.leave_one_cohort_out` trained without it, whose cloud does not hold it either.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.bench import Bench, BenchConfig
from eval.printed import print_rows
from eval.scores import ATYPICAL, Group, groups_of
from hyperasr import results
from hyperasr.caution import CautionConfig, Cloud, cautious
from hyperasr.errors import ConfigError
from train.cloud import cloud_of
from train.program import read_config, run_program

BASE, MAIN, CAREFUL = "backbone", "hypernet", "hypernet_cautious"


@dataclass(frozen=True)
class CautionEvalConfig:
    """Which models, on what, how cautious."""

    bench: BenchConfig = field(default_factory=BenchConfig)
    """Test set and protocol; the system ``hypernet`` is the full model."""
    folds: dict[str, Path] = field(default_factory=dict)
    """Folder of the model trained without a cohort, by that cohort."""
    caution: CautionConfig = field(default_factory=CautionConfig)
    """When to trust."""
    out: Path = Path("results/caution.json")
    """Result file."""

    def __post_init__(self) -> None:
        if MAIN not in self.bench.systems:
            raise ConfigError(f"the bench needs a system called {MAIN!r}")


def add_cautious(bench: Bench, name: str, cloud: Cloud, config: CautionConfig) -> str:
    """Add a cautious twin of a system to the bench and return its name."""
    system = bench.find(name)[0]
    digest = hashlib.sha256(f"{system.fingerprint} {asdict(config)}".encode())
    for tensor in (cloud.mean, cloud.quantiles, cloud.variances):
        digest.update(tensor.float().numpy().tobytes())
    twin = replace(
        system,
        name=f"{name}_cautious",
        model=cautious(system.model, cloud, config),
        fingerprint=digest.hexdigest()[:16],
    )
    bench.systems[twin.name] = twin
    return twin.name


def trust_row(
    bench: Bench, name: str, cloud: Cloud, config: CautionConfig, chosen: list[int], **where: Any
) -> dict[str, Any]:
    """Say how much of the adapter is left on some rows: mean, and share of rows adapted in full."""
    embs = bench.embeddings(bench.find(name)[0])[chosen]
    trust = cloud.trust(embs, config)
    return {
        "system": CAREFUL,
        "metric": "trust",
        "value": float(trust.mean()),
        "full": float((trust == 1).float().mean()),
        "none": float((trust == 0).float().mean()),
        "distance": float(cloud.distance(embs).median()),
        "n_utterances": len(chosen),
        **where,
    }


def cohorts_of(bench: Bench) -> list[Group]:
    """Return the cohorts of the test, one by one, recorded and simulated ones apart."""
    meta = {name: bench.column(name) for name in ("cohort", "domain", "source")}
    groups = groups_of(meta, bench.config.apart)
    return [g for g in groups if g.corpus is None and g.cohort != ATYPICAL]


def measured(bench: Bench, name: str, group: Group, seen: bool, cloud: Cloud, config: Any) -> Any:
    """Return the rows of one cohort with one model: errors, differences, and trust."""
    careful = add_cautious(bench, name, cloud, config)
    wanted = list(group.chosen)
    scores = bench.scores([BASE, name, careful], wanted)
    renamed = {BASE: BASE, name: MAIN, careful: CAREFUL}
    counts = {renamed[key]: values for key, values in scores.counts.items()}
    scores = replace(scores, counts=counts)
    pairs = [(CAREFUL, MAIN), (CAREFUL, BASE)]
    where = {"cohort": group.cohort, "domain": group.domain, "seen": seen}
    found = scores.rows(range(len(wanted)), group.cohort, group.domain, pairs=pairs, seen=seen)
    return [*found, trust_row(bench, name, cloud, config, wanted, **where)]


def main() -> None:
    """Evaluate, write the JSON, print the tables."""
    config = read_config(CautionEvalConfig)
    bench = Bench(config.bench)
    cloud = cloud_of(config.bench.systems[MAIN], bench.backbone)
    rows: list[dict[str, Any]] = []
    groups = cohorts_of(bench)
    if unknown := sorted(set(config.folds) - {group.cohort for group in groups}):
        raise ConfigError(f"no recording of {config.bench.test} is of the cohort {unknown[0]!r}")
    for group in groups:
        rows += measured(bench, MAIN, group, True, cloud, config.caution)
    for cohort, folder in config.folds.items():
        name = f"without_{cohort}"
        bench.add(name, folder)
        fold_cloud = cloud_of(folder, bench.backbone)
        for group in groups:
            if group.cohort == cohort:
                rows += measured(bench, name, group, False, fold_cloud, config.caution)
    command = results.command("eval.caution")
    protocol = bench.protocol
    head = results.head(command, config, config.bench.seed, bench.described, protocol.normaliser)
    results.write(config.out, head, rows)
    for seen, title in ((True, "cohorts of training"), (False, "a cohort never trained on")):
        errors = [r for r in rows if r.get("seen") is seen and r["metric"] != "trust"]
        metric = protocol.metrics[0]
        print_rows(errors, title=f"{metric} in percent, {title}", metric=metric)
        print_rows(errors, differences=True, title=f"differences, {title}", metric=metric)
    for row in rows:
        if row["metric"] == "trust":
            kind = "seen" if row["seen"] else "unseen"
            print(
                f"{row['cohort']}, {row['domain']} ({kind}): adapted in full "
                f"{100 * row['full']:.0f} %, not at all {100 * row['none']:.0f} %, mean trust "
                f"{row['value']:.2f}"
            )


if __name__ == "__main__":
    run_program(main)
