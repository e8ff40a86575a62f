"""What a step of each training costs, all of them measured one after the other, alone.

    python -m eval.benchmarks.training_cost --config eval/configs/training_cost.yaml

The log of a real training tells of whatever else ran beside it. Here every configuration of the
comparison is trained for some steps by its own program, on its own data: seconds a step are the
median over intervals after the first, memory the most that was held in any of them; the seconds in
all are as many such steps as the configuration asks for.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from rich.progress import track

from eval.lib import results
from eval.lib.runs import launch
from hyperasr.errors import ConfigError
from train.loop.program import read_config, run_program

__all__ = ["PROGRAMS", "TrainingCostConfig", "cost_of", "read_costs"]

PROGRAMS = ("train.meta", "train.baselines", "train.peft_reference")
_EVERY = 10  # steps between two lines of the log


@dataclass(frozen=True)
class TrainingCostConfig:
    """Which trainings, for how many steps."""

    trainings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """For each program, the names of its configurations."""
    configs: Path = Path("train/configs")
    """Folder of the configurations, each NAME.yaml."""
    steps: int = 40
    """Steps of each, a multiple of 10, at least 30."""
    threads: int = 2
    """Threads of torch."""
    out: Path = Path("results/training_cost.json")
    """Result file."""

    def __post_init__(self) -> None:
        if self.steps < 3 * _EVERY or self.steps % _EVERY:
            raise ConfigError(f"steps is {self.steps}; it must be 30, 40, 50 ...")
        if unknown := [name for name in self.trainings if name not in PROGRAMS]:
            raise ConfigError(f"no program {unknown[0]!r}; there are {', '.join(PROGRAMS)}")


def cost_of(program: str, path: Path, steps: int, threads: int) -> dict[str, float]:
    """Train for some steps in a folder that is thrown away.

    Returns:
        ``step_s`` (seconds a step), ``peak_rss_mib`` and, with a GPU, ``peak_device_mib``.
    Raises:
        ConfigError: the training failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        options = {"steps": steps, "eval_every": steps, "save_every": steps, "log_every": _EVERY}
        arguments = ["--config", str(path), "--out", str(out), "--loop.tracker", "none"]
        arguments += [word for k, v in options.items() for word in (f"--loop.{k}", str(v))]
        launch(arguments, out, f"training {path.name}", program, OMP_NUM_THREADS=str(threads))
        text = (out / "log.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    ends = [line["step"] * line["step_s"] for line in lines]  # the log gives means since the start
    own = [(late - early) / _EVERY for early, late in pairwise(ends)]
    peaks = {k: max(line[k] for line in lines) for k in lines[0] if k.startswith("peak_")}
    return {"step_s": statistics.median(own), **peaks}


def read_costs(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a result file of this program by system.

    Raises:
        ConfigError: there is no such file.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing; python -m eval.benchmarks.training_cost makes it")
    rows = results.read(path)["rows"]
    return {row["system"]: row for row in rows if row.get("cost") == "a step"}


def main() -> None:
    """Measure, write the JSON, print the table."""
    config = read_config(TrainingCostConfig)
    wanted = [(program, name) for program, names in config.trainings.items() for name in names]
    rows: list[dict[str, Any]] = []
    for program, name in wanted[:1]:  # the first would find the cache on disk, the others in memory
        cost_of(program, config.configs / f"{name}.yaml", config.steps, config.threads)
    for program, name in track(wanted, "trainings", transient=True):
        path = config.configs / f"{name}.yaml"
        found = cost_of(program, path, config.steps, config.threads)
        steps = int(yaml.safe_load(path.read_text(encoding="utf-8"))["loop"]["steps"])
        total = {"steps": steps, "seconds": steps * found["step_s"]}
        rows.append({"system": name, "cost": "a step", **found, **total})
    described = f"training, {config.threads} threads"
    results.save("eval.benchmarks.training_cost", config, rows, protocol=described)
    for row in rows:
        print(f"{row['system']}: {row['step_s']:.3f} s a step, {row['peak_rss_mib']:.0f} MiB")


if __name__ == "__main__":
    run_program(main)
