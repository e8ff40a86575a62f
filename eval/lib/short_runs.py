"""Short trainings of `train.meta` that evaluation programs make for themselves, each once.

A training is a configuration file with other options and a folder of its own. A finished one is not
repeated, an interrupted one goes on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.lib.folds import Run, is_finished, launch, prepare
from train.config import MetaConfig
from train.loop.program import read_config

__all__ = ["ShortRun", "short_run", "train_all"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShortRun(Run):
    """One training, and what differs from its configuration file."""

    arguments: tuple[str, ...] = ()
    """All arguments of `train.meta`."""

    def train(self, **environment: str) -> None:
        """Train to the end, unless it came there before.

        Args:
            environment: further variables of the process.
        Raises:
            ConfigError: the training failed.
        """
        if not is_finished(self):
            log.info("%s: training", self.config.out)
            launch(self.arguments, self.config.out, f"training {self.system}", **environment)


def short_run(
    system: str, yaml: Path, folder: Path, steps: int, options: Mapping[str, Any]
) -> ShortRun:
    """Return a training of some steps, evaluated and saved once, at its end.

    Args:
        system: its name in tables.
        yaml: configuration of `train.meta`.
        folder: of the run.
        steps: optimiser steps.
        options: values by dotted name, in place of those of the file.
    Raises:
        ConfigError: an unknown option, or a value out of range.
    """
    given = {"out": folder, "must_help": "false"}
    given |= {f"loop.{name}": steps for name in ("steps", "eval_every", "save_every")}
    arguments = ["--config", str(yaml)]
    for name, value in {**given, **options}.items():
        text = json.dumps(value) if isinstance(value, dict | list | tuple) else str(value)
        arguments += [f"--{name}", text]
    return ShortRun("", system, yaml, read_config(MetaConfig, arguments), tuple(arguments))


def train_all(runs: Sequence[ShortRun], processes: int = 1, threads: int = 1) -> None:
    """Train what is not trained yet, several at a time.

    Args:
        runs: in the order in which they start.
        processes: trainings at a time, at least 1.
        threads: of torch in each, at least 1.
    Raises:
        ConfigError: a training failed; those that have not started are left out.
    """
    missing = [run for run in runs if not is_finished(run)]
    log.info("%d trainings, %d of them done before", len(runs), len(runs) - len(missing))
    prepare(missing)
    with ThreadPoolExecutor(processes) as pool:
        waiting = [pool.submit(run.train, OMP_NUM_THREADS=str(threads)) for run in missing]
        try:
            for number, done in enumerate(as_completed(waiting), start=1):
                done.result()
                log.info("%d of %d trained", number, len(missing))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
