"""Batches balanced over cohorts and speakers: every cohort, then every speaker, equally often."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hyperasr.errors import ConfigError

__all__ = ["BalancedSampler"]

_DEALT = 8  # batches drawn and sorted by length together


class BalancedSampler:
    """Draw rows so that cohorts, and speakers within a cohort, weigh the same.

    A batch depends on its number and the seed alone, so training can stop and go on anywhere, and
    every process of a distributed run can draw its own.

    Args:
        cohorts: cohort of each row.
        speakers: speaker of each row.
        seed: of all draws.
        lengths: of each row, in any unit. Where given, eight batches are drawn at a time and dealt
            out by length, so that little is padding; the balance holds over the eight.
    Raises:
        ConfigError: no rows.
    """

    def __init__(
        self,
        cohorts: Sequence[str],
        speakers: Sequence[str],
        seed: int = 0,
        lengths: Sequence[float] | None = None,
    ) -> None:
        if not cohorts:
            raise ConfigError("there is nothing to sample from: the training set has no rows")
        self.seed = seed
        self.lengths = lengths
        groups: dict[str, dict[str, list[int]]] = {}
        for row, (cohort, speaker) in enumerate(zip(cohorts, speakers, strict=True)):
            groups.setdefault(cohort, {}).setdefault(speaker, []).append(row)
        self.groups = {c: list(s.values()) for c, s in sorted(groups.items())}

    def batch(self, number: int, size: int) -> list[int]:
        """Return `size` row numbers for batch `number`."""
        if self.lengths is None:
            return self._draw(number, size)
        lengths, block = self.lengths, number // _DEALT
        rows = sorted(self._draw(block, size * _DEALT), key=lambda row: lengths[row])
        turn = random.Random(f"{self.seed}/{block}/order").sample(range(_DEALT), _DEALT)
        first = turn[number % _DEALT] * size
        return rows[first : first + size]

    def _draw(self, number: int, size: int) -> list[int]:
        rng = random.Random(f"{self.seed}/{number}")
        names = list(self.groups)
        shift = rng.randrange(len(names))
        rows = []
        for i in range(size):
            speakers = self.groups[names[(i + shift) % len(names)]]
            rows.append(rng.choice(rng.choice(speakers)))
        return rows
