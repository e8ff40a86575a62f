"""Make every table and figure of the README again, going on where it was stopped.

    python -m eval.reproduce --list            # what would run, and how long it takes
    python -m eval.reproduce                   # the tables, from models under runs/
    python -m eval.reproduce --parts "[recordings, adapters, evaluate]" --an4 AN4 --fsdd FSDD

The steps stand in one file, `eval/configs/reproduce.yaml`. A step that has run leaves a marker with
the hash of its command, of the files it names and of what it needs; it runs again only if one of
them changed or what it made is gone. Changes of the code alone are not noticed: remove
runs/reproduce to do all of it again. The first step that fails ends the run and says where its log
is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from hyperasr.errors import ConfigError
from hyperasr.files import atomic_write_text
from train.program import read_config, run_program

CONFIG = "eval/configs/reproduce.yaml"
PARTS = ("backbone", "recordings", "adapters", "evaluate")
AUDIO = (".npy", ".wav", ".flac", ".ogg", ".mp3", ".sph", ".raw")
_LAST_LINES = 5


@dataclass(frozen=True)
class Step:
    """One command, what it needs and what it makes."""

    name: str
    """Names marker and log."""
    run: str
    """Command; ``python`` and ``torchrun`` are those of this environment."""
    makes: tuple[Path, ...]
    """Files and folders that are there afterwards, at least one."""
    minutes: float
    """Estimate for two cores."""
    part: str = "evaluate"
    """``backbone``, ``recordings``, ``adapters`` or ``evaluate``."""
    needs: tuple[Path, ...] = ()
    """Files and folders of earlier steps."""
    inputs: tuple[Path, ...] = ()
    """Files of the repository that it depends on, beside those that the command names."""
    always: bool = False
    """Run each time: takes seconds, and what it reads is not known beforehand."""

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ConfigError(
                f"step {self.name}: the part is one of {', '.join(PARTS)}, not {self.part!r}"
            )
        if not self.makes or not self.minutes > 0 or not self.run.strip():
            raise ConfigError(f"step {self.name} needs a command, what it makes, and minutes > 0")


@dataclass(frozen=True)
class ReproduceConfig:
    """Parts on two cores: evaluate 2 h; recordings, adapters 5.5 h more; backbone 2 h more."""

    steps: tuple[Step, ...] = ()
    """What to run, in order; from the configuration file."""
    parts: tuple[str, ...] = ("evaluate",)
    """``evaluate``: the tables and figures, less than 2 hours, from models under runs/. With
    ``recordings`` and ``adapters`` all sources are trained on the embedded backbone first, about
    5.5 hours more. With ``backbone`` everything is made anew, about 2 hours more; it replaces the
    embedded model and needs espeak-ng, flite and festival."""
    list: bool = False
    """Only list the steps, with the time of each."""
    an4: Path | None = None
    """Folder of AN4, for ``recordings`` and ``backbone``."""
    fsdd: Path | None = None
    """Folder of FSDD, for ``recordings``."""
    state: Path = Path("runs/reproduce")
    """Folder of markers and logs."""

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ConfigError(f"parts are {', '.join(PARTS)}, not {', '.join(unknown) or 'none'}")
        names = [step.name for step in self.steps]
        twice = [name for name in names if names.count(name) > 1]
        if twice or not names:
            what = f"two steps are called {twice[0]!r}" if twice else "there are no steps"
            raise ConfigError(f"{what}; give --config {CONFIG}")

    def chosen(self) -> list_[Step]:
        """Return the steps of the chosen parts."""
        return [step for step in self.steps if step.part in self.parts]


list_ = list  # the field of this name hides it inside the class


def command_of(step: Step, config: ReproduceConfig) -> list[str]:
    """Return the words of a step's command, with folders and this environment's Python put in.

    Raises:
        ConfigError: the command needs the folder of a corpus that was not given.
    """
    words = shlex.split(step.run)
    for name in ("an4", "fsdd"):
        folder = getattr(config, name)
        if any(f"{{{name}}}" in word for word in words) and folder is None:
            raise ConfigError(
                f"step {step.name} needs the folder of {name.upper()}; give --{name} FOLDER"
            )
        words = [word.replace(f"{{{name}}}", str(folder)) for word in words]
    launcher = {
        "python": [sys.executable],
        "torchrun": [sys.executable, "-m", "torch.distributed.run"],
    }
    return [*launcher.get(words[0], words[:1]), *words[1:]]


def content_hash(path: Path) -> str:
    """Return the hash of a file, or of all files of a folder with their names.

    Of a recording the size stands for the content: a corpus is too large to be read each time.
    """
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        name = "" if file == path else str(file.relative_to(path))
        digest.update(f"{name}\0{file.stat().st_size}\0".encode())
        if file.suffix.lower() in AUDIO:
            continue
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def key_of(step: Step) -> str:
    """Return the hash of what a step's outcome depends on: command, configurations, needs."""
    named = [Path(word) for word in shlex.split(step.run) if word.endswith((".yaml", ".json"))]
    paths = sorted({*named, *step.inputs, *step.needs})
    parts = [step.run, *(f"{path} {content_hash(path)}" for path in paths if path.exists())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def marker_of(step: Step, state: Path) -> dict[str, object]:
    """Return what a step left when it last ran; nothing where it never did."""
    try:
        content = json.loads((state / f"{step.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_done(step: Step, state: Path) -> bool:
    """Say whether a step has run, on what is there now, and what it made is still there."""
    if step.always or not all(path.exists() for path in step.makes):
        return False
    return marker_of(step, state).get("key") == key_of(step)


def minutes_of(step: Step, state: Path) -> float:
    """Return how long a step took when it last ran, or the estimate."""
    seconds = marker_of(step, state).get("seconds")
    return seconds / 60 if isinstance(seconds, int | float) else step.minutes


def check(config: ReproduceConfig) -> None:
    """Find out before the first hour what would fail after it.

    Raises:
        ConfigError: a step needs what is neither there nor made by an earlier chosen step, or the
            folder of a corpus.
    """
    made: set[Path] = set()
    for step in config.chosen():
        if not is_done(step, config.state):
            command_of(step, config)
            for path in step.needs:
                if not path.exists() and path not in made:
                    maker = next((s for s in config.steps if path in s.makes), None)
                    how = f"; step {maker.name} of part {maker.part!r} makes it" if maker else ""
                    raise ConfigError(f"step {step.name} needs {path}, which is not there{how}")
        made.update(step.makes)


def run_step(step: Step, config: ReproduceConfig, tick: Progress, task: TaskID) -> None:
    """Run one step, its output into its log, and mark it done.

    Raises:
        ConfigError: it failed, or did not make what it should.
    """
    config.state.mkdir(parents=True, exist_ok=True)
    key, log = key_of(step), config.state / f"{step.name}.log"
    before, minutes = tick.tasks[task].completed, minutes_of(step, config.state)
    started = time.monotonic()
    with open(log, "w", encoding="utf-8") as out:
        # torchrun gives each of its processes one thread.
        threads = {} if step.run.startswith("torchrun") else {"OMP_NUM_THREADS": "2"}
        process = subprocess.Popen(
            command_of(step, config),
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**threads, **os.environ},
        )
        try:
            while process.poll() is None:
                # A step that takes longer than thought waits at its end.
                elapsed = min(minutes, (time.monotonic() - started) / 60)
                tick.update(task, completed=before + elapsed)
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    missing = [str(path) for path in step.makes if not path.exists()]
    if process.returncode or missing:
        why = f"status {process.returncode}" if process.returncode else f"no {missing[0]}"
        raise ConfigError(
            f"step {step.name} failed ({why}); its log is {log}, which ends with: {_end(log)} "
            "-- start again to go on from this step"
        )
    seconds = time.monotonic() - started
    # A step may rewrite what it needs (the README its tables): what counts is how it found it.
    marker = {"key": key, "run": step.run, "seconds": round(seconds, 1)}
    atomic_write_text(config.state / f"{step.name}.json", json.dumps(marker, indent=1) + "\n")
    tick.update(task, completed=before + minutes)


def _end(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return " | ".join([line.strip() for line in lines if line.strip()][-_LAST_LINES:]) or "nothing"


def print_steps(config: ReproduceConfig, console: Console) -> None:
    """Print every step: what it runs, how long it takes, whether it is to run."""
    table = Table(title="steps; minutes on two cores")
    for name in ("step", "part", "minutes", "state", "command"):
        table.add_column(name, justify="right" if name == "minutes" else "left", overflow="fold")
    total = 0.0
    for step in config.steps:
        minutes = minutes_of(step, config.state)
        state = "done" if is_done(step, config.state) else "to run"
        state = state if step.part in config.parts else "not asked for"
        total += minutes if state == "to run" else 0
        table.add_row(step.name, step.part, f"{minutes:.0f}", state, step.run)
    console.print(table)
    console.print(f"about {total:.0f} minutes to run")


def run_all(config: ReproduceConfig, console: Console) -> int:
    """Run the chosen steps that are not done; returns how many ran."""
    check(config)
    steps = config.chosen()
    n_run = 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        total = sum(minutes_of(step, config.state) for step in steps)
        task = progress.add_task("", total=total)
        for number, step in enumerate(steps, start=1):
            progress.update(task, description=f"{number}/{len(steps)} {step.name}")
            # Asked anew for each: an earlier step may have changed what this one needs.
            if is_done(step, config.state):
                progress.advance(task, minutes_of(step, config.state))
                continue
            run_step(step, config, progress, task)
            n_run += 1
    return n_run


def arguments(argv: Sequence[str]) -> list[str]:
    """Put in the configuration file where none is named, and let ``--list`` stand alone."""
    words = list(argv)
    values = ("true", "false")
    for i, word in enumerate(words):
        if word == "--list" and (i + 1 == len(words) or words[i + 1].lower() not in values):
            words[i] = "--list=true"
    if not any(word.partition("=")[0] == "--config" for word in words):
        words = ["--config", CONFIG, *words]
    return words


def main() -> None:
    """List the steps, or run them."""
    config = read_config(ReproduceConfig, arguments(sys.argv[1:]))
    console = Console(width=None if sys.stdout.isatty() else 160)
    if config.list:
        print_steps(config, console)
        return
    n_run = run_all(config, console)
    console.print(f"{n_run} of {len(config.chosen())} steps run, the others were done")


if __name__ == "__main__":
    run_program(main)
