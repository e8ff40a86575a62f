"""Training without one cohort at a time: the runs behind `eval.leave_one_cohort_out`.

Each fold trains the same configurations as the full runs, restricted to the other cohorts of their
data, recorded and simulated, and typical speech. Training rows are selected from the cache of all
cohorts, so no fold computes encoder states of its own. A finished run is not repeated, an
interrupted one goes on.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval.lib.scores import in_order
from hyperasr.cohorts.cache import CacheConfig, build_cache
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError
from hyperasr.util.config import to_dict
from train.config import MetaConfig
from train.data.views import Views, development_views
from train.loop.program import read_config
from train.loop.state import changed_settings, flat_settings
from train.meta import frozen

__all__ = [
    "Run",
    "cohorts_in",
    "fold_runs",
    "is_finished",
    "launch",
    "prepare",
    "train_run",
    "without_launcher",
]

log = logging.getLogger(__name__)

# Set by torchrun and Accelerate; a training run inside one of their processes must not see them.
_LAUNCHER = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "ROLE_NAME",
    "MASTER_ADDR",
    "MASTER_PORT",
)


@dataclass(frozen=True)
class Run:
    """One training run of a fold.

    Attributes:
        held_out: the cohort it does not see.
        system: its name in tables.
        yaml: configuration of the full run.
        config: the same without the cohort, in a folder of its own.
    """

    held_out: str
    system: str
    yaml: Path
    config: MetaConfig

    @property
    def best(self) -> Path:
        """Folder of the trained model."""
        return self.config.out / "best"

    def options(self) -> list[str]:
        """Return what differs from the YAML, as options of `train.meta`."""
        found = ["--out", str(self.config.out), "--cohorts", json.dumps(self.config.cohorts)]
        found += ["--must_help", "false"]  # what is worth nothing belongs in the table too
        if self.config.init_from is not None:
            found += ["--init_from", str(self.config.init_from)]
        return found


def cohorts_in(manifest: Path, simulate: Sequence[str]) -> list[str]:
    """Return the cohorts of a manifest and those that are simulated on its typical rows.

    Args:
        manifest: of a training or a test; rows without text are passed over.
        simulate: cohorts that are simulated where there are typical rows.
    """
    found = {row.cohort for row in read_manifest(manifest) if row.text}
    return in_order(found | set(simulate if TYPICAL in found else ()))


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
    full: dict[Path, Run] = {}  # the full run's folder, and what stands for it in this fold
    for system, yaml in sources.items():
        config = read_config(MetaConfig, ["--config", str(yaml)])
        known = config.cohorts or tuple(cohorts_in(config.train, config.simulate))
        kept = tuple(cohort for cohort in known if cohort != held_out)
        if held_out == TYPICAL or kept == known:
            others = ", ".join(cohort for cohort in known if cohort != TYPICAL) or "none"
            raise ConfigError(
                f"{yaml}: no cohort {held_out!r} to leave out of {config.train}; there are {others}"
            )
        if not kept:
            raise ConfigError(
                f"{yaml}: without {held_out!r} nothing is left of {config.train} to train on"
            )
        start = config.init_from
        if start is not None:
            before = full.get(start.parent)
            if before is None:
                raise ConfigError(
                    f"{yaml} starts from {start}, which may have seen {held_out}; list the "
                    "configuration of that run before it"
                )
            start = before.best
        out = Path(folder) / held_out / system
        made = replace(config, cohorts=kept, out=out, init_from=start, must_help=False)
        runs.append(Run(held_out, system, Path(yaml), made))
        full[config.out] = runs[-1]
    return runs


def is_finished(run: Run) -> bool:
    """Tell whether a run came to its end with these settings, whatever may change on the way."""
    try:
        notes = json.loads((run.best / "config.json").read_text(encoding="utf-8"))["training"]
        heads = list(run.config.out.glob("state-*/state.json"))
        steps = [json.loads(head.read_text(encoding="utf-8"))["step"] for head in heads]
        trained = flat_settings(notes["config"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    now, batches = flat_settings(to_dict(run.config)), "loop.accumulate"
    # Free within a run, where more processes make up for it; these all have one.
    same = not changed_settings(trained, now) and trained.get(batches) == now[batches]
    return same and max(steps, default=0) >= run.config.loop.steps


def prepare(runs: Sequence[Run]) -> None:
    """Make the caches that all folds share, before several processes would make them at once."""
    done: set[str] = set()
    for run in runs:
        config = replace(run.config, cohorts=())
        heard_by = (config.backbone, config.audio_context, config.margin_s, config.speaker)
        key = repr((config.train, config.simulate, *heard_by, config.needs_mel))
        if key in done or is_finished(run):
            continue
        done.add(key)
        backbone = frozen(config)
        views = Views(config, backbone)
        build_cache(
            config.cache,
            development_views(config.dev, config.simulate, config.dev_per_speaker),
            config.backbone,
            CacheConfig(config.speaker, views.cache.keeps_mel),
            backbone=backbone,
            workers=config.workers,
        )


def train_run(run: Run, start: Callable[[list[str]], None] | None = None) -> None:
    """Train one run to its end, unless it came there before.

    Args:
        run: which one.
        start: starts `train.meta` with these arguments; None starts a process of its own.
    Raises:
        ConfigError: the training failed; its own message is above.
    """
    if is_finished(run):
        log.info("%s without %s: already trained", run.system, run.held_out)
        return
    log.info("%s without %s: training", run.system, run.held_out)
    arguments = ["--config", str(run.yaml), *run.options()]
    if start is not None:
        start(arguments)
        return
    launch(arguments, run.config.out, f"training {run.system} without {run.held_out}")


def launch(
    arguments: Sequence[str],
    folder: Path,
    what: str,
    program: str = "train.meta",
    **environment: str,
) -> None:
    """Run a training program in a process of its own, its output among our errors.

    Args:
        arguments: of the program.
        folder: of the run.
        what: is trained, for the error.
        program: module of the program.
        environment: further variables.
    Raises:
        ConfigError: the training failed; its own message is above.
    """
    command = [sys.executable, "-m", program, *arguments]
    variables = without_launcher() | environment
    done = subprocess.run(command, env=variables, stdout=sys.stderr, check=False)
    if done.returncode:
        raise ConfigError(
            f"{what} ended with status {done.returncode}; see {folder / 'log.txt'} and run the "
            "same command again to go on"
        )


def without_launcher() -> dict[str, str]:
    """Return the environment without what makes a process one of several."""
    ours = {k: v for k, v in os.environ.items() if k not in _LAUNCHER}
    return {k: v for k, v in ours.items() if not k.startswith(("TORCHELASTIC_", "ACCELERATE_"))}
