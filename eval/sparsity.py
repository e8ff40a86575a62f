"""How sparse is what was learned: updates and factors of every system, target and layer.

    python -m eval.sparsity --config eval/configs/sparsity.yaml

Definitions are in `hyperasr.metrics.sparsity`. Of a source that listens, the factors of some
utterances of unseen speakers are measured and averaged; of a Gaussian source the means.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eval.lib.adaptation import first_of_each
from eval.lib.bench import Bench, BenchConfig
from eval.lib.systems import System
from eval.lib.tables import print_lines
from eval.subspace_angles import factors_of
from hyperasr.metrics.sparsity import delta_sparsity, factor_sparsity, mean_sparsity
from train.loop.program import read_config, run_program

Row = dict[str, Any]
MATRICES = ("delta_weight", "A", "B")


@dataclass(frozen=True)
class SparsityConfig:
    """Which systems."""

    bench: BenchConfig = field(default_factory=BenchConfig)
    """Systems and test set."""
    per_person: int = 1
    """Utterances of each simulated person."""
    out: Path = Path("results/sparsity.json")
    """Result file."""


def system_rows(bench: Bench, system: System, per_person: int) -> list[Row]:
    """Return a row for each target, layer and matrix of one system, mean over its factors.

    Raises:
        ConfigError: factors that are not finite.
    """
    chosen = first_of_each(bench.column("person"), per_person)
    factors = factors_of(bench, system, chosen)[0]
    rows: list[Row] = []
    for target, pair in factors.targets.items():
        for layer in range(pair.A.shape[0]):
            for matrix in MATRICES:
                if matrix == "delta_weight":
                    values = delta_sparsity(factors, target, layer)
                else:
                    values = factor_sparsity(factors, target, layer, matrix)
                about = {"measure": "sparsity", "system": system.name, "target": target}
                about |= {"layer": layer, "matrix": matrix, "n_factors": len(values)}
                rows.append(about | asdict(mean_sparsity(values)))
    return rows


def print_sparsity(rows: list[Row]) -> None:
    """Print the sparsity of the updates, mean over layers."""
    names = ("below", "adaptive", "top_energy", "hoyer", "effective_rank")
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["matrix"] == "delta_weight":
            groups.setdefault((row["system"], row["target"]), []).append(row)
    lines = [
        (*key, *(f"{sum(row[name] for row in group) / len(group):.3f}" for name in names))
        for key, group in groups.items()
    ]
    print_lines("sparsity of delta W, mean over layers", ("system", "target", *names), lines)


def main() -> None:
    """Measure, write the JSON, print the table."""
    config = read_config(SparsityConfig)
    bench = Bench(config.bench)
    rows = [
        row
        for system in bench.systems.values()
        if system.adapt
        for row in system_rows(bench, system, config.per_person)
    ]
    described = "learned updates, held-out speakers"
    bench.save("eval.sparsity", config, rows, protocol=described, normaliser=None)
    print_sparsity(rows)


if __name__ == "__main__":
    run_program(main)
