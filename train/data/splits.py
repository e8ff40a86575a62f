"""Who trains, who develops and who is tested: the committed lists in ``splits.json``.

- LibriSpeech: all of train-clean-100 trains, test-other is tested. Of dev-clean's 16 readers three
  women and three men are tested, two and two develop, the others train: in the order of the
  SHA-256 of their names (``librispeech-NAME``).
- speechocean762: its own split, but eight of its training speakers develop. Those who could train
  are ordered by how long they take for their 20 sentences, slow readers last, and cut into eight
  groups; the first by SHA-256 of each group develops. Two training speakers read nothing but test
  sentences and are nowhere. Five recordings of a test speaker are tested, the first by SHA-256.
- LJ Speech: its one speaker trains. AN4 has lists of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from hyperasr.metrics.normalisers import normaliser

__all__ = ["SPLITS", "Splits", "read_splits", "words"]

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Splits:
    """The lists.

    Attributes:
        speakers: by corpus and split, as the corpus names them.
        test_recordings: of speechocean762, the file names without ending by test speaker.
    """

    speakers: dict[str, dict[str, list[str]]]
    test_recordings: dict[str, list[str]]

    def split_of(self, corpus: str, speaker: str) -> str | None:
        """Return the split of a speaker; None for one who is in none."""
        own = self.speakers[corpus]
        return next((split for split in SPLITS if speaker in own.get(split, ())), None)


def read_splits() -> Splits:
    """Return the committed lists."""
    return Splits(**json.loads(Path(__file__).with_name("splits.json").read_text("utf-8")))


def words(text: str) -> str:
    """Return what two texts share if they are the same sentence, as leaks are looked for."""
    return normaliser("spoken")(text)
