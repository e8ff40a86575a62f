"""Make every table and figure of the README again, going on where it was stopped.

    python -m eval.reproduce --list            # what would run, and how long it takes
    python -m eval.reproduce                   # the tables, from models under runs/
    python -m eval.reproduce --parts "[recordings, adapters, evaluate]" --an4 AN4 --fsdd FSDD

The steps (`eval.steps`) stand in one file, `eval/configs/reproduce.yaml`. Several run at a time,
each with its share of the cores, as soon as what they need is there; those that measure time run
alone. A step runs again only if its command, its configuration or what it needs has changed, or
what it made is gone. Changes of the code alone are not noticed: remove runs/reproduce to do all of
it again. When a step fails, those beside it are waited for, and the error says where its log is.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from eval.steps import PARTS, Running, Step, is_done, minutes_of
from hyperasr.errors import ConfigError
from train.program import read_config, run_program

CONFIG = "eval/configs/reproduce.yaml"


@dataclass(frozen=True)
class ReproduceConfig:
    """Parts on two cores: evaluate 1.4 h; recordings, adapters 8.5 h more; backbone 2 h more."""

    steps: tuple[Step, ...] = ()
    """What to run, in order; from the configuration file."""
    parts: tuple[str, ...] = ("evaluate",)
    """``evaluate``: the tables and figures, less than 2 hours, from models under runs/. With
    ``recordings`` and ``adapters`` all sources are trained on the embedded backbone first, about
    8.5 hours more. With ``backbone`` everything is made anew, about 2 hours more; it replaces the
    embedded model and needs espeak-ng, flite and festival."""
    processes: int = 2
    """Steps at a time, at least 1; the cores are shared out among them."""
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
        if self.processes < 1:
            raise ConfigError(f"processes is {self.processes}; it must be at least 1")
        names = [step.name for step in self.steps]
        twice = [name for name in names if names.count(name) > 1]
        if twice or not names:
            what = f"two steps are called {twice[0]!r}" if twice else "there are no steps"
            raise ConfigError(f"{what}; give --config {CONFIG}")

    def chosen(self) -> list_[Step]:
        """Return the steps of the chosen parts."""
        return [step for step in self.steps if step.part in self.parts]

    def command_of(self, step: Step) -> list_[str]:
        """Return the words of a step's command; raises ConfigError where a folder is missing."""
        return step.command({"an4": self.an4, "fsdd": self.fsdd})

    def environment_of(self, step: Step) -> dict[str, str]:
        """Return the variables of a step's process, its share of the cores among them."""
        cores = max(2, os.cpu_count() or 1)
        share = cores if step.alone else max(1, cores // self.processes)
        # torchrun gives each of its processes one thread.
        threads = {} if step.run.startswith("torchrun") else {"OMP_NUM_THREADS": str(share)}
        return {**threads, **os.environ}


list_ = list  # the field of this name hides it inside the class


def check(config: ReproduceConfig) -> None:
    """Find out before the first hour what would fail after it.

    Raises:
        ConfigError: a step needs what is neither there nor made by an earlier chosen step, or the
            folder of a corpus.
    """
    made: set[Path] = set()
    for step in config.chosen():
        if not is_done(step, config.state):
            config.command_of(step)
            for path in step.needs:
                if not path.exists() and path not in made:
                    maker = next((s for s in config.steps if path in s.makes), None)
                    how = f"; step {maker.name} of part {maker.part!r} makes it" if maker else ""
                    raise ConfigError(f"step {step.name} needs {path}, which is not there{how}")
        made.update(step.makes)


def ready(waiting: Sequence[Step], running: Sequence[Step], processes: int) -> Step | None:
    """Return the next step to start; None where nothing can start now.

    Args:
        waiting: in order.
        running: at this moment.
        processes: that may run at a time.
    """
    if len(running) >= processes or any(step.alone for step in running):
        return None
    unmade = {path for step in running for path in step.makes}
    for index, step in enumerate(waiting):
        if step.alone:
            # A bound: what comes after it waits for it too.
            return step if index == 0 and not running else None
        if not unmade & {*step.needs, *step.inputs}:
            return step
        unmade |= set(step.makes)
    return None


class Work:
    """The chosen steps on their way.

    Args:
        config: of the program.
    """

    def __init__(self, config: ReproduceConfig) -> None:
        self.config = config
        self.waiting, self.running = config.chosen(), list_[Running]()
        self.n_run, self.minutes = 0, 0.0
        self.failure: ConfigError | None = None

    def start(self) -> None:
        """Start what can start; steps that are done already only pass."""
        while not self.failure:
            step = ready(self.waiting, [r.step for r in self.running], self.config.processes)
            if step is None:
                return
            self.waiting.remove(step)
            # Asked anew for each: an earlier step may have changed what this one needs.
            if is_done(step, self.config.state):
                self.minutes += minutes_of(step, self.config.state)
                continue
            command, environment = self.config.command_of(step), self.config.environment_of(step)
            self.running.append(Running(step, command, self.config.state, environment))

    def collect(self) -> None:
        """Take in what has ended; the first failure is kept, and nothing starts after it."""
        for run in [run for run in self.running if run.ended()]:
            self.running.remove(run)
            self.minutes += minutes_of(run.step, self.config.state)
            try:
                run.finish()
                self.n_run += 1
            except ConfigError as error:
                self.failure = self.failure or error

    def done_minutes(self) -> float:
        """Return the minutes of the estimate that have passed."""
        # A step that takes longer than thought waits at its end.
        own = [min(r.minutes, minutes_of(r.step, self.config.state)) for r in self.running]
        return self.minutes + sum(own)

    def __str__(self) -> str:
        """Return how far it is and what runs now."""
        n = len(self.config.chosen())
        names = " + ".join(run.step.name for run in self.running)
        return f"{n - len(self.waiting)}/{n} {names}"


def run_all(config: ReproduceConfig, console: Console) -> int:
    """Run the chosen steps that are not done; returns how many ran.

    Raises:
        ConfigError: a step failed; those that ran beside it came to their end.
    """
    check(config)
    work = Work(config)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        total = sum(minutes_of(step, config.state) for step in work.waiting)
        task = progress.add_task("", total=total)
        try:
            work.start()
            while work.running:
                time.sleep(0.1)
                work.collect()
                work.start()
                progress.update(task, description=str(work), completed=work.done_minutes())
        finally:
            for run in work.running:
                run.stop()
    if work.failure:
        raise work.failure
    return work.n_run


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
        # What runs alone takes its whole time, the others share.
        share = 1 if step.alone else config.processes
        total += minutes / share if state == "to run" else 0
        table.add_row(step.name, step.part, f"{minutes:.0f}", state, step.run)
    console.print(table)
    console.print(f"about {total:.0f} minutes to run")


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
    started = time.monotonic()
    n_run = run_all(config, console)
    minutes = (time.monotonic() - started) / 60
    others = len(config.chosen()) - n_run
    console.print(f"{n_run} steps run in {minutes:.0f} minutes, {others} were done before")


if __name__ == "__main__":
    run_program(main)
