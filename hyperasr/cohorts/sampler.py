"""Batches balanced over cohorts and speakers: every cohort, then every speaker, equally often.

Where many speakers have one recording each beside a few with hundreds, speakers alike would mean
the same few recordings again and again: `speaker_power` lets those count more who said more.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from hyperasr.errors import ConfigError

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
        speaker_power: a speaker with n rows weighs n to this power, in [0, 1]: with 0 speakers
            weigh the same, with 1 rows do.
    Raises:
        ConfigError: no rows, or a power outside [0, 1].
    """

    def __init__(
        self,
        cohorts: Sequence[str],
        speakers: Sequence[str],
        seed: int = 0,
        lengths: Sequence[float] | None = None,
        speaker_power: float = 0.0,
    ) -> None:
        if not cohorts:
            raise ConfigError("there is nothing to sample from: the training set has no rows")
        self.seed = seed
        self.lengths = lengths
        check_speaker_power(speaker_power)
        self.speaker_power = speaker_power
        rows: dict[str, dict[str, list[int]]] = {}
        for row, (cohort, speaker) in enumerate(zip(cohorts, speakers, strict=True)):
            rows.setdefault(cohort, {}).setdefault(speaker, []).append(row)
        self.speakers = {cohort: list(rows[cohort].values()) for cohort in sorted(rows)}

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
        names = list(self.speakers)
        shift = rng.randrange(len(names))
        rows = []
        for i in range(size):
            speakers = self.speakers[names[(i + shift) % len(names)]]
            if self.speaker_power:
                said = [len(spoken) ** self.speaker_power for spoken in speakers]
                rows.append(rng.choice(rng.choices(speakers, said)[0]))
            else:
                rows.append(rng.choice(rng.choice(speakers)))
        return rows


def check_speaker_power(power: float) -> None:
    """Refuse a power outside [0, 1] (ConfigError)."""
    if not 0 <= power <= 1:
        raise ConfigError(f"speaker_power is {power}; it must be in [0, 1]")
