"""Where numbers come from: command, code, packages, machine and settings of a result file."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hyperasr.errors import ConfigError
from hyperasr.metrics.normalisers import Normaliser

__all__ = ["PACKAGES", "command", "head", "plain"]

PACKAGES = (
    "torch",
    "transformers",
    "speechbrain",
    "datasets",
    "accelerate",
    "jiwer",
    "numpy",
)
ROOT = Path(__file__).resolve().parents[2]


def command(module: str) -> str:
    """The command line of this process, quoted so that a reader's shell takes it as it stands.

    Args:
        module: of the program, as it follows ``python -m``.
    """
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def head(
    command: str, config: Any, seed: int, protocol: str, normaliser: Normaliser | None
) -> dict[str, Any]:
    """Describe where the rows come from: command, code, packages, machine, settings.

    Args:
        command: the command line as a reader would type it in a clone.
        config: a dataclass or a mapping; absolute paths in it are shortened (to the clone, else
            to ``~``), so that a committed file tells nothing about whose computer made it.
        seed: of every random generator.
        protocol: what was trained and scored on what, by name.
        normaliser: of both sides before scoring; None where nothing is scored.
    """
    named = None if normaliser is None else {"name": normaliser.name, "hash": normaliser.hash}
    return {
        "command": command,
        "git_commit": _git_commit(ROOT),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "machine": _machine(),
        "config": _portable(plain(config)),
        "seed": seed,
        "protocol": protocol,
        "normaliser": named,
    }


def plain(value: Any) -> Any:
    """Turn dataclasses, paths, tuples, arrays and numpy scalars into what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [plain(inner) for inner in items]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise ConfigError(f"a {type(value).__name__} cannot be written to a result file; use numbers")


def _portable(value: Any) -> Any:
    """Shorten absolute paths to the clone, to what lies beside it, or to the home folder."""
    if isinstance(value, dict):
        return {key: _portable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_portable(inner) for inner in value]
    if not isinstance(value, str) or not os.path.isabs(value):
        return value
    # A clone at the top of a disk has the whole disk beside it.
    near = ROOT if ROOT.parent == ROOT.parent.parent else ROOT.parent
    if Path(value).is_relative_to(near):
        return os.path.relpath(value, ROOT)
    if Path(value).is_relative_to(Path.home()):
        return str("~" / Path(value).relative_to(Path.home()))
    return value


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit(root: Path) -> str | None:
    """Return the short hash of the code, with "-dirty" where the clone has changes.

    None where the code is not in a git checkout: an installed copy inside somebody else's
    repository must not borrow its hash. Changes under results/ do not count, or the second
    program of a run would always find the first one's file.
    """
    if _git(root, "ls-files", "--error-unmatch", "eval/lib/results.py") is None:
        return None
    commit = _git(root, "rev-parse", "--short", "HEAD")
    if not commit:
        return None
    changes = _git(root, "status", "--porcelain", "--", ".", ":(exclude)results")
    return f"{commit}-dirty" if changes else commit


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _machine() -> dict[str, Any]:
    """Describe the hardware without naming the machine or its owner."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if cuda else None,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else (platform.processor() or platform.machine())
