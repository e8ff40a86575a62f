"""Trainings that evaluation programs make for themselves, each in a process and folder of its own.

A training is a configuration file of `train.meta` with other options: shorter, or without a cohort.
Training rows are selected from the cache of all cohorts, so that no fold computes encoder states of
its own. A finished training is not repeated, an interrupted one goes on.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from eval.lib.scores import in_order
from hyperasr.cohorts.cache import CacheConfig
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError
from hyperasr.util.config import to_dict
from train.config import MetaConfig
from train.data.views import Views, cached, development_views
from train.loop.program import read_config
from train.loop.state import changed_settings, flat_settings, last_state, read_head
from train.meta import frozen

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One training of `train.meta`.

    Attributes:
        system: its name in tables.
        config: its settings.
        arguments: of the program, which give these settings.
        held_out: the cohort it does not see, in a fold.
        point: what it sets of the grid, in a sweep; empty for the reference.
    """

    system: str
    config: MetaConfig
    arguments: tuple[str, ...]
    held_out: str = ""
    point: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def best(self) -> Path:
        """Folder of the trained model."""
        return self.config.out / "best"

    def train(self, threads: int = 0) -> None:
        """Train to the end in a process of its own, its output among our errors.

        A training that came there before is not repeated.

        Args:
            threads: of torch; 0 leaves them as they are.
        Raises:
            ConfigError: the training failed; its own message is above.
        """
        if is_finished(self):
            return
        without = f" without {self.held_out}" if self.held_out else ""
        what = f"training {self.system}{without}"
        train("meta", self.arguments, self.config.out, what, threads=threads)


def train(program: str, arguments: Sequence[str], out: Path, what: str, threads: int = 0) -> None:
    """Run a program of `train` in a process of its own, its output among our errors.

    Args:
        program: such as ``meta``.
        arguments: of its command line.
        out: its run folder.
        what: it does, for a message.
        threads: of torch; 0 leaves them as they are.
    Raises:
        ConfigError: it failed; its own message is above.
    """
    log.info("%s: training", out)
    command = [sys.executable, "-m", f"train.{program}", *arguments]
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    done = subprocess.run(command, env=environment, stdout=sys.stderr, check=False)
    if done.returncode:
        raise ConfigError(
            f"{what} ended with status {done.returncode}; see {out / 'log.txt'} and run the same "
            "command again to go on"
        )


def cohorts_in(manifest: Path, simulate: Sequence[str]) -> list[str]:
    """Return the cohorts of a manifest and those that are simulated on its typical rows.

    Args:
        manifest: of a training or a test; rows without text are passed over.
        simulate: cohorts that are simulated where there are typical rows.
    """
    recorded = {row.cohort for row in read_manifest(manifest) if row.text}
    return in_order(recorded | set(simulate if TYPICAL in recorded else ()))


def fold_runs(held_out: str, sources: Mapping[str, Path], folder: Path) -> list[Run]:
    """Return the runs of one fold, in the order in which they need each other.

    Args:
        held_out: the cohort nobody sees, neither recorded nor simulated.
        sources: YAMLs of `train.meta` by system name. One that starts from another's run
            (`init_from`) comes after it, and starts from that one's run in this fold.
        folder: of all folds.
    Raises:
        ConfigError: a cohort that a training does not have, one without which nothing is left, or
            a start that may have seen the held-out cohort.
    """
    runs: list[Run] = []
    of_full: dict[Path, Run] = {}  # the full run's folder, and what stands for it in this fold
    for system, yaml in sources.items():
        full = read_config(MetaConfig, ["--config", str(yaml)])
        cohorts = full.cohorts or tuple(cohorts_in(full.train, full.simulate))
        kept = tuple(cohort for cohort in cohorts if cohort != held_out)
        if held_out == TYPICAL or kept == cohorts:
            others = ", ".join(cohort for cohort in cohorts if cohort != TYPICAL) or "none"
            raise ConfigError(
                f"{yaml}: no cohort {held_out!r} to leave out of {full.train}; there are {others}"
            )
        if not kept:
            raise ConfigError(
                f"{yaml}: without {held_out!r} nothing is left of {full.train} to train on"
            )
        out = Path(folder) / held_out / system
        # What is worth nothing belongs in the table too.
        options = ["--out", str(out), "--cohorts", json.dumps(kept), "--must_help", "false"]
        start = full.init_from
        if start is not None:
            if start.parent not in of_full:
                raise ConfigError(
                    f"{yaml} starts from {start}, which may have seen {held_out}; list the "
                    "configuration of that run before it"
                )
            start = of_full[start.parent].best
            options += ["--init_from", str(start)]
        config = replace(full, cohorts=kept, out=out, init_from=start, must_help=False)
        of_full[full.out] = Run(system, config, ("--config", str(yaml), *options), held_out)
        runs.append(of_full[full.out])
    return runs


def short_run(system: str, yaml: Path, folder: Path, steps: int, options: Mapping[str, Any]) -> Run:
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
    return Run(system, read_config(MetaConfig, arguments), tuple(arguments))


def is_finished(run: Run) -> bool:
    """Tell whether a run came to its end with these settings, whatever may change on the way."""
    if last_state(run.config.out) is None or not run.best.is_dir():
        return False
    head = read_head(run.config.out)
    # As the loop notes it, of one process.
    now = to_dict(run.config) | {"batches a step": run.config.loop.accumulate}
    changed = changed_settings(flat_settings(head["settings"]), flat_settings(now))
    return not changed and head["step"] >= run.config.loop.steps


def prepare(runs: Sequence[Run]) -> None:
    """Make the caches that runs share, before several processes would make them at once."""
    shared: dict[str, MetaConfig] = {}
    for run in runs:
        config = replace(run.config, cohorts=())
        heard_by = (config.backbone, config.audio_context, config.margin_s, config.speaker)
        key = (config.train, config.words, config.simulate, *heard_by, config.needs_mel)
        shared.setdefault(repr(key), config)
    for config in shared.values():
        backbone = frozen(config)
        kept = CacheConfig(config.speaker, Views(config, backbone).cache.keeps_mel)
        plan = development_views(config.dev, config.simulate, config.dev_per_speaker)
        cached(config, [plan], backbone, kept)


def train_all(chains: Sequence[Sequence[Run]], processes: int = 1, threads: int = 0) -> None:
    """Train what is not trained yet, several chains at a time.

    Args:
        chains: runs that need each other, in their order.
        processes: trainings at a time, at least 1.
        threads: of each, see `Run.train`.
    Raises:
        ConfigError: a training failed; chains that have not started are left out.
    """
    prepare([run for chain in chains for run in chain if not is_finished(run)])

    def train(chain: Sequence[Run]) -> None:
        for run in chain:
            run.train(threads)

    at_once([partial(train, chain) for chain in chains], processes)


def at_once(jobs: Sequence[Callable[[], None]], processes: int) -> None:
    """Call jobs, several at a time; after a failure those that have not started are left out.

    Raises:
        Exception: that of the first job that failed.
    """
    with ThreadPoolExecutor(processes) as pool:
        waiting = [pool.submit(job) for job in jobs]
        try:
            for number, done in enumerate(as_completed(waiting), start=1):
                done.result()
                log.info("%d of %d trained", number, len(jobs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
