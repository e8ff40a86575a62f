"""Batches balanced over cohorts and speakers: every cohort, then every speaker, equally often.

Where many speakers have one recording each beside a few with hundreds, speakers alike would mean
the same few recordings again and again: `speaker_power` lets those count more who said more.

Where one source of recordings has few speakers (56 real ones beside 192 synthetic voices), a share
of the batches can be kept for it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from hyperasr.errors import ConfigError

__all__ = ["BalancedSampler", "check_source_share", "check_speaker_power"]

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
        sources: of each row, such as the name of its corpus; needed with `source_share`.
        source_share: chance of a row to be of a source, by its name, in [0, 1] and at most 1
            together; within a source, speakers weigh the same. What is left goes to the speakers
            of all other sources. Where a cohort has nothing of a source, the others get its share.
        speaker_power: a speaker with n rows weighs n to this power, in [0, 1]: with 0 speakers
            weigh the same, with 1 rows do.
    Raises:
        ConfigError: no rows, or a share that cannot be kept.
    """

    def __init__(
        self,
        cohorts: Sequence[str],
        speakers: Sequence[str],
        seed: int = 0,
        lengths: Sequence[float] | None = None,
        sources: Sequence[str] | None = None,
        source_share: Mapping[str, float] | None = None,
        speaker_power: float = 0.0,
    ) -> None:
        if not cohorts:
            raise ConfigError("there is nothing to sample from: the training set has no rows")
        self.seed = seed
        self.lengths = lengths
        share = dict(source_share or {})
        check_source_share(share)
        if share and sources is None:
            raise ConfigError("source_share needs the source of every row")
        kinds = sources if share and sources is not None else [""] * len(cohorts)
        if missing := sorted(set(share) - set(kinds)):
            raise ConfigError(
                f"source_share names {', '.join(missing)}, of which there are no recordings; "
                f"there are {', '.join(sorted(set(kinds)))}"
            )
        groups: dict[str, dict[str, dict[str, list[int]]]] = {}
        for row, (cohort, speaker, kind) in enumerate(zip(cohorts, speakers, kinds, strict=True)):
            of_kind = groups.setdefault(cohort, {}).setdefault(kind if kind in share else "", {})
            of_kind.setdefault(speaker, []).append(row)
        self.groups = {c: _weighted(groups[c], share) for c in sorted(groups)}
        check_speaker_power(speaker_power)
        self.speaker_power = speaker_power

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
            kinds, weights = self.groups[names[(i + shift) % len(names)]]
            speakers = kinds[0] if len(kinds) == 1 else rng.choices(kinds, weights)[0]
            if self.speaker_power:
                said = [len(own) ** self.speaker_power for own in speakers]
                rows.append(rng.choice(rng.choices(speakers, said)[0]))
            else:
                rows.append(rng.choice(rng.choice(speakers)))
        return rows


def check_speaker_power(power: float) -> None:
    """Refuse a power outside [0, 1] (ConfigError)."""
    if not 0 <= power <= 1:
        raise ConfigError(f"speaker_power is {power}; it must be in [0, 1]")


def check_source_share(share: Mapping[str, float]) -> None:
    """Refuse shares outside [0, 1] or above 1 together (ConfigError)."""
    if any(not 0 <= s <= 1 for s in share.values()) or sum(share.values()) > 1:
        raise ConfigError(
            f"source_share is {dict(share)}; shares are in [0, 1] and at most 1 together"
        )


def _weighted(
    kinds: Mapping[str, dict[str, list[int]]], share: Mapping[str, float]
) -> tuple[list[list[list[int]]], list[float]]:
    """Return the speakers' rows of each source, and the weight of each."""
    rest = max(1.0 - sum(share.values()), 0.0)
    weights = [share.get(kind, rest) for kind in kinds]
    if not sum(weights):  # the sources that have all of the share have nothing in this cohort
        weights = [1.0] * len(weights)
    return [list(speakers.values()) for speakers in kinds.values()], weights
