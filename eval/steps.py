"""Steps of a long piece of work: a command, what it needs and makes, and whether it has run.

A step that has run leaves a marker with the hash of its command, of the files it names and of what
it needs; it is done as long as none of them changed and what it made is there.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hyperasr.errors import ConfigError
from hyperasr.files import atomic_write_text

__all__ = ["PARTS", "Running", "Step", "content_hash", "is_done", "minutes_of"]

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
    alone: bool = False
    """Nothing runs beside it, all before it have ended: it measures time, takes every core, or
    reads whatever there is."""

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ConfigError(
                f"step {self.name}: the part is one of {', '.join(PARTS)}, not {self.part!r}"
            )
        if not self.makes or not self.minutes > 0 or not self.run.strip():
            raise ConfigError(f"step {self.name} needs a command, what it makes, and minutes > 0")

    def command(self, folders: Mapping[str, Path | None]) -> list[str]:
        """Return the words of the command, with folders and this environment's Python put in.

        Args:
            folders: of corpora, by the name that stands in braces in the command.
        Raises:
            ConfigError: the command needs the folder of a corpus that was not given.
        """
        words = shlex.split(self.run)
        for name, folder in folders.items():
            if any(f"{{{name}}}" in word for word in words) and folder is None:
                raise ConfigError(
                    f"step {self.name} needs the folder of {name.upper()}; give --{name} FOLDER"
                )
            words = [word.replace(f"{{{name}}}", str(folder)) for word in words]
        launcher = {
            "python": [sys.executable],
            "torchrun": [sys.executable, "-m", "torch.distributed.run"],
        }
        return [*launcher.get(words[0], words[:1]), *words[1:]]

    def key(self) -> str:
        """Return the hash of what its outcome depends on: command, configurations, needs."""
        named = [Path(w) for w in shlex.split(self.run) if w.endswith((".yaml", ".json"))]
        paths = sorted({*named, *self.inputs, *self.needs})
        parts = [self.run, *(f"{path} {content_hash(path)}" for path in paths if path.exists())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Running:
    """A step that has been started, its output in its log.

    Args:
        step: which one.
        command: its words.
        state: folder of markers and logs.
        environment: of the process.
    """

    def __init__(
        self, step: Step, command: list[str], state: Path, environment: Mapping[str, str]
    ) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self.step, self.state, self.log = step, state, state / f"{step.name}.log"
        # A step may rewrite what it needs (the README its tables): what counts is how it found it.
        self._key = step.key()
        self.started = time.monotonic()
        with open(self.log, "w", encoding="utf-8") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=dict(environment)
            )

    @property
    def minutes(self) -> float:
        """Minutes since the start."""
        return (time.monotonic() - self.started) / 60

    def ended(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """End it now, unless it has ended."""
        if not self.ended():
            self._process.terminate()
            self._process.wait()

    def finish(self) -> None:
        """Mark the step done, now that it has ended.

        Raises:
            ConfigError: it failed, or did not make what it should.
        """
        status = self._process.returncode
        missing = [str(path) for path in self.step.makes if not path.exists()]
        if status or missing:
            why = f"status {status}" if status else f"no {missing[0]}"
            raise ConfigError(
                f"step {self.step.name} failed ({why}); its log is {self.log}, which ends with: "
                f"{_end(self.log)} -- start again to go on from this step"
            )
        marker = {"key": self._key, "run": self.step.run, "seconds": round(60 * self.minutes, 1)}
        atomic_write_text(_marker(self.step, self.state), json.dumps(marker, indent=1) + "\n")


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


def is_done(step: Step, state: Path) -> bool:
    """Say whether a step has run, on what is there now, and what it made is still there."""
    if step.always or not all(path.exists() for path in step.makes):
        return False
    return _left(step, state).get("key") == step.key()


def minutes_of(step: Step, state: Path) -> float:
    """Return how long a step took when it last ran, or the estimate."""
    seconds = _left(step, state).get("seconds")
    return seconds / 60 if isinstance(seconds, int | float) else step.minutes


def _marker(step: Step, state: Path) -> Path:
    return state / f"{step.name}.json"


def _left(step: Step, state: Path) -> dict[str, object]:
    """Return what a step left when it last ran; nothing where it never did."""
    try:
        content = json.loads(_marker(step, state).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _end(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return " | ".join([line.strip() for line in lines if line.strip()][-_LAST_LINES:]) or "nothing"
