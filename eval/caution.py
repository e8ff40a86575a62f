"""Does caution help where a model has not been, and cost nothing where it has?

    python -m eval.caution --config eval/configs/caution.yaml

Three systems on unseen speakers: the frozen backbone, a hypernetwork, and the same hypernetwork
shrunk by the distance of each embedding to its training cloud. Typical speech and the cohorts of
training are measured with the full model; an unseen cohort with the model that
`eval.leave_one_cohort_out` trained without it, whose cloud does not hold it either. The cohorts are
simulated.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.bench import Bench, BenchConfig
from eval.scores import Scores
from hyperasr import results
from hyperasr.caution import CautionConfig, Cloud, cautious
from hyperasr.cohorts.simulate import COHORTS
from hyperasr.cohorts.views import TYPICAL
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
        unknown = sorted(set(self.folds) - set(COHORTS))
        if unknown:
            raise ConfigError(f"no cohort {unknown[0]!r} was left out; there are {COHORTS}")


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


def measured(bench: Bench, name: str, cohort: str, seen: bool, cloud: Cloud, config: Any) -> Any:
    """Return the rows of one cohort with one model: errors, differences, and trust."""
    careful = add_cautious(bench, name, cloud, config)
    wanted = [i for i in range(bench.n_rows) if bench.column("cohort")[i] == cohort]
    scores = bench.scores([BASE, name, careful], wanted)
    renamed = {BASE: BASE, name: MAIN, careful: CAREFUL}
    counts = {renamed[key]: values for key, values in scores.counts.items()}
    scores = Scores(scores.protocol, scores.metric, scores.meta, counts, scores.seed)
    pairs = [(CAREFUL, MAIN), (CAREFUL, BASE)]
    found = scores.rows(scores.pick(), cohort, "all", pairs=pairs, seen=seen)
    trust = trust_row(bench, name, cloud, config, wanted, cohort=cohort, domain="all", seen=seen)
    return [*found, trust]


def main() -> None:
    """Evaluate, write the JSON, print the tables."""
    config = read_config(CautionEvalConfig)
    bench = Bench(config.bench)
    cloud = cloud_of(config.bench.systems[MAIN], bench.backbone)
    rows: list[dict[str, Any]] = []
    for cohort in (TYPICAL, *COHORTS):
        rows += measured(bench, MAIN, cohort, True, cloud, config.caution)
    for cohort, folder in config.folds.items():
        name = f"without_{cohort}"
        bench.add(name, folder)
        fold_cloud = cloud_of(folder, bench.backbone)
        rows += measured(bench, name, cohort, False, fold_cloud, config.caution)
    command = results.command("eval.caution")
    protocol = bench.protocol
    described = f"simulated cohorts, held-out speakers, {protocol.name}"
    head = results.head(command, config, config.bench.seed, described, protocol.normaliser)
    results.write(config.out, head, rows)
    for seen, title in ((True, "cohorts of training"), (False, "a cohort never trained on")):
        errors = [r for r in rows if r.get("seen") is seen and r["metric"] != "trust"]
        if errors:
            results.print_table(errors, title=f"{protocol.metrics[0]} in percent, {title}")
            results.print_table(errors, differences=True, title=f"differences, {title}")
    for row in rows:
        if row["metric"] == "trust":
            kind = "seen" if row["seen"] else "unseen"
            print(
                f"{row['cohort']} ({kind}): adapted in full {100 * row['full']:.0f} %, not at all "
                f"{100 * row['none']:.0f} %, mean trust {row['value']:.2f}"
            )


if __name__ == "__main__":
    run_program(main)
