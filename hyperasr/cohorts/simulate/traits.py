"""Seeds: one stream for who somebody is, another for what happens in one utterance."""

from __future__ import annotations

import zlib

import numpy as np


def _number(value: str | int) -> int:
    # crc32 and not hash(): equal in every process. 5 and "5" are one person, so that a speaker
    # survives a manifest.
    return zlib.crc32(str(value).encode())


def speaker_rng(cohort: str, speaker: str | int) -> np.random.Generator:
    """Generator of a simulated speaker's traits; the same in every process."""
    return np.random.default_rng([_number(cohort), _number(speaker), 1])


def utterance_rng(cohort: str, speaker: str | int, seed: int) -> np.random.Generator:
    """Generator of one utterance's moment-to-moment variation."""
    return np.random.default_rng([_number(cohort), _number(speaker), _number(int(seed)), 2])
