"""Write leave-one-out folds of a manifest, each checked for leaks.

    python -m eval.split --manifest corpus.jsonl --by cohort --out runs/folds

For every held-out part a folder ``OUT/PART`` with ``train.jsonl`` and ``test.jsonl``. What else
the held-out speakers said is in neither. A fold that leaks is refused, and nothing is written.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.cohorts.splits import Fold, check_leaks, leave_one_out
from hyperasr.errors import ConfigError
from train.loop.program import read_config, run_program


@dataclass(frozen=True)
class SplitConfig:
    """What to split, and by what."""

    manifest: Path
    """Manifest of all utterances."""
    by: str = "cohort"
    """``cohort``, ``speaker`` or ``severity``."""
    out: Path = Path("runs/folds")
    """Folder of the folds."""
    edges: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Between ranges of severity, ascending, in (0, 1)."""
    prompt_overlap: str = "warn"
    """What the same text on both sides is: ``warn``, ``error`` or ``ignore``."""


def folder_of(fold: Fold, out: Path) -> Path:
    """Return the folder of a fold; what a file name cannot hold becomes a hyphen."""
    return out / (re.sub(r"[^\w.-]+", "-", fold.name).strip(".-") or "part")


def main() -> None:
    """Split, check every fold, then write all of them."""
    config = read_config(SplitConfig)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    folds = list(leave_one_out(read_manifest(config.manifest), config.by, edges=config.edges))
    folders = [folder_of(fold, config.out) for fold in folds]
    if len(set(folders)) < len(folders):
        raise ConfigError(f"two parts would share a folder in {config.out}; rename them")
    for fold in folds:
        check_leaks(fold.train, fold.test, text=config.prompt_overlap, name=fold.name)
    for fold, folder in zip(folds, folders, strict=True):
        for split, rows in (("train", fold.train), ("test", fold.test)):
            moved = [
                replace(u, split=split, path=os.path.relpath(os.path.abspath(u.path), folder))
                for u in rows
            ]
            write_manifest(folder / f"{split}.jsonl", moved)
        print(
            f"{fold.name}: {len(fold.train)} to train on, {len(fold.test)} to test on, "
            f"{fold.n_dropped} left out",
            file=sys.stderr,
        )


if __name__ == "__main__":
    run_program(main)
