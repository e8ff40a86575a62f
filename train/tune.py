"""Tune the learning rate of a baseline on the development speakers, so that it is a fair one.

    python -m train.tune --meta train/configs/global_lora.yaml --lrs "[0.001, 0.003, 0.01]"

Runs `train.meta` once for each learning rate (finished runs are not repeated), writes what came of
each to ``tuning.json`` in the config's run folder, and copies the best model to its folder `best`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hyperasr.util.config import parse
from hyperasr.util.files import atomic_folder, atomic_write_text
from train.config import MetaConfig
from train.loop.program import read_config, run_program
from train.loop.state import read_head


@dataclass(frozen=True)
class TuneConfig:
    """Which configuration, which learning rates."""

    meta: Path
    """YAML of `train.meta`."""
    lrs: tuple[float, ...] = (0.001, 0.003, 0.01)
    """Learning rates to try, each above 0."""


def best_of(folder: Path) -> dict[str, float]:
    """Return the best measures of a finished run."""
    return read_head(folder)["best"]


def main() -> None:
    """Train with every learning rate and keep the best."""
    config = read_config(TuneConfig)
    out = parse(MetaConfig, ["--config", str(config.meta)]).out
    tried = []
    for lr in config.lrs:
        folder = out / f"lr-{lr:g}"
        command = [sys.executable, "-m", "train.meta", "--config", str(config.meta)]
        subprocess.run([*command, "--loop.lr", str(lr), "--out", str(folder)], check=True)
        tried.append({"lr": lr, **best_of(folder)})
    chosen = min(tried, key=lambda row: row["score"])
    with atomic_folder(out / "best") as temporary:
        shutil.copytree(out / f"lr-{chosen['lr']:g}" / "best", temporary, dirs_exist_ok=True)
    atomic_write_text(out / "tuning.json", json.dumps({"tried": tried, "chosen": chosen}, indent=1))
    print(json.dumps(chosen))


if __name__ == "__main__":
    run_program(main)
