"""A line for every time that test speakers are looked at: when, by which code, on what.

Whoever looks at a test often enough has trained on it. The file only ever grows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from eval.lib import results
from hyperasr.errors import ConfigError
from hyperasr.types import Utterance

__all__ = ["note_look"]


def note_look(
    looks: Path | None, test: Path, rows: Iterable[Utterance], systems: Sequence[str]
) -> None:
    """Append a line, where any row is of the split ``test``.

    Args:
        looks: the file; None writes nothing.
        test: manifest that is looked at.
        rows: of it.
        systems: that are run on it.
    Raises:
        ConfigError: the file cannot be written.
    """
    if looks is None or not any(row.split == "test" for row in rows):
        return
    config = _config_file(sys.argv[1:])
    about = {"config": config, "test": str(test), "systems": list(systems)}
    head = results.head(results.command(_program()), about, 0, "", None)
    line = {name: head[name] for name in ("created", "git_commit", "command")} | head["config"]
    try:
        looks.parent.mkdir(parents=True, exist_ok=True)
        # One write of a file that is only appended to: lines of several programs do not mix.
        with looks.open("ab", buffering=0) as file:
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"cannot append to {looks}: {error.strerror or error}") from error


def _program() -> str:
    """Return the name of the program as it follows ``python -m``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else Path(sys.argv[0]).stem


def _config_file(arguments: Sequence[str]) -> str | None:
    """Return the configuration file among the arguments of a program."""
    for i, argument in enumerate(arguments):
        key, found, value = argument.partition("=")
        if key == "--config":
            return value if found else next(iter(arguments[i + 1 :]), None)
    return None
