"""A call of the command line in a test, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parents[2]
RATE = 16_000
Voice = Callable[..., np.ndarray]


class Outcome(NamedTuple):
    """What one call left behind."""

    status: int
    out: str
    lines: list[str]
    """Of stderr."""


Cli = Callable[..., Outcome]


def fails(outcome: Outcome, *parts: str) -> None:
    """One line on stderr, nothing on stdout, exit 2."""
    assert outcome.status == 2, outcome
    assert outcome.out == ""
    (line,) = outcome.lines
    assert line.startswith("hyperasr: error: ")
    for part in parts:
        assert part in line
