"""Who trains, who develops and who is tested, written once.

    python -m train.data.splits --data ../shared/data

writes ``train/data/splits.json`` anew, which is committed; the same rules on the same corpora give
the same lists. AN4's lists are older and their own (``an4_splits.json``).

- LibriSpeech: all of train-clean-100 trains, test-other is tested. Of dev-clean's 16 readers three
  women and three men are tested, two and two develop, the others train: in the order of the
  SHA-256 of their names.
- speechocean762: its own split, but eight of its training speakers develop. Those who could train
  are ordered by how long they take for their 20 sentences, slow readers last, and cut into eight
  groups; the first by SHA-256 of each group develops. Two training speakers read nothing but test
  sentences and are nowhere. Five recordings of a test speaker are tested, the first by SHA-256.
- LJ Speech: its one speaker trains.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hyperasr.errors import ConfigError
from hyperasr.metrics.normalisers import normaliser
from hyperasr.util.files import atomic_write_text
from train.data.corpora import Recording, read_corpora
from train.loop.program import read_config, run_program

__all__ = ["SPLITS", "Splits", "an4_splits", "choose_splits", "read_splits", "words"]

SPLITS = ("train", "dev", "test")
_FILE = Path(__file__).parent / "splits.json"
_AN4 = Path(__file__).parent / "an4_splits.json"
_NAMES = Path("librispeech-dev-clean-16spk", "SPEAKERS.TXT")
_N_TEST_OF_A_SEX, _N_DEV_OF_A_SEX = 3, 2  # of dev-clean's seven women and nine men
_N_DEV_NONNATIVE = 8
_N_TEST_RECORDINGS = 5


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


@dataclass(frozen=True)
class SplitsConfig:
    """Where the corpora are."""

    data: Path = Path("../shared/data")
    """Folder of the corpora."""
    out: Path = _FILE
    """The lists."""


def an4_splits() -> dict[str, list[str]]:
    """Return the committed lists of AN4 speakers: train, dev and test."""
    lists: dict[str, list[str]] = json.loads(_AN4.read_text(encoding="utf-8"))
    return lists


def read_splits() -> Splits:
    """Return the committed lists, AN4's among them."""
    values = json.loads(_FILE.read_text(encoding="utf-8"))
    return Splits(values["speakers"] | {"an4": an4_splits()}, values["test_recordings"])


def words(text: str) -> str:
    """Return what two texts share if they are the same sentence, as leaks are looked for."""
    return normaliser("spoken")(text)


def choose_splits(root: Path) -> Splits:
    """Apply the rules.

    Args:
        root: the data folder, absolute.
    Raises:
        ConfigError: a corpus is not there.
    """
    by_folder: dict[str, list[Recording]] = defaultdict(list)
    for recording in read_corpora(root):
        by_folder[recording.corpus.folder].append(recording)
    librispeech = _dev_clean(root)
    for split, part in (("train", "train-clean-5"), ("train", "train-251spk")):
        librispeech[split] += [r.speaker for r in by_folder[f"librispeech-{part}"]]
    librispeech["test"] += [r.speaker for r in by_folder["librispeech-test-other-10spk"]]
    nonnative, recordings = _speechocean(by_folder["speechocean762-adults"])
    speakers = {
        "librispeech": librispeech,
        "ljspeech": {"train": [r.speaker for r in by_folder["ljspeech-1spk"]]},
        "speechocean762": nonnative,
    }
    ordered = {
        corpus: {split: sorted(set(names), key=_in_order) for split, names in own.items()}
        for corpus, own in speakers.items()
    }
    return Splits(ordered | {"an4": an4_splits()}, recordings)


def _dev_clean(root: Path) -> dict[str, list[str]]:
    """Split the readers of LibriSpeech dev-clean, women and men alike."""
    here = {p.name for p in (root / _NAMES.parent).iterdir() if p.is_dir()}
    chosen: dict[str, list[str]] = {split: [] for split in SPLITS}
    sexes: dict[str, list[str]] = defaultdict(list)
    try:
        lines = (root / _NAMES).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read {root / _NAMES}: {error.strerror}") from error
    for line in lines:
        fields = [field.strip() for field in line.split("|")]
        if fields[0] in here:
            sexes[fields[1]].append(fields[0])
    for names in sexes.values():
        ordered = _by_hash("librispeech", names)
        last_dev = _N_TEST_OF_A_SEX + _N_DEV_OF_A_SEX
        chosen["test"] += ordered[:_N_TEST_OF_A_SEX]
        chosen["dev"] += ordered[_N_TEST_OF_A_SEX:last_dev]
        chosen["train"] += ordered[last_dev:]
    return chosen


def _speechocean(
    recordings: Iterable[Recording],
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Split the readers of speechocean762 and choose the recordings that are tested."""
    own: dict[str, dict[str, list[Recording]]] = {"train": {}, "test": {}}
    for recording in recordings:
        official = own.setdefault(recording.official, {})
        official.setdefault(recording.speaker, []).append(recording)
    tested = {words(r.text) for rows in own["test"].values() for r in rows}
    pace = {
        speaker: sum(r.duration_s for r in rows)
        for speaker, rows in own["train"].items()
        if any(words(r.text) not in tested for r in rows)
    }
    ordered = sorted(pace, key=lambda speaker: (pace[speaker], speaker))
    borders = [k * len(ordered) // _N_DEV_NONNATIVE for k in range(_N_DEV_NONNATIVE + 1)]
    dev = [_by_hash("speechocean762", ordered[a:b])[0] for a, b in itertools.pairwise(borders)]
    kept = {
        speaker: sorted(_by_hash("speechocean762", [r.stem for r in rows])[:_N_TEST_RECORDINGS])
        for speaker, rows in sorted(own["test"].items())
    }
    train = [speaker for speaker in ordered if speaker not in dev]
    return {"train": train, "dev": dev, "test": list(own["test"])}, kept


def _by_hash(corpus: str, names: Iterable[str]) -> list[str]:
    """Put names in an order that has nothing to do with what they name."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{corpus}-{name}".encode()).hexdigest())


def _in_order(name: str) -> tuple[int, str]:
    return len(name), name


def main() -> None:
    """Choose and write the lists."""
    config = read_config(SplitsConfig)
    chosen = choose_splits(config.data.resolve())
    values = {
        "speakers": {name: own for name, own in chosen.speakers.items() if name != "an4"},
        "test_recordings": chosen.test_recordings,
    }
    atomic_write_text(config.out, _compact(json.dumps(values, indent=1)))
    for corpus, own in chosen.speakers.items():
        print(corpus, ", ".join(f"{split} {len(names)}" for split, names in own.items()))


def _compact(text: str) -> str:
    """Write lists of names on lines of up to 100 characters, not a line a name."""

    def filled(names: re.Match[str]) -> str:
        return textwrap.fill(f"[{' '.join(names[0][1:-1].split())}]", 100)

    return re.sub(r"\[[^\[\]{}]*\]", filled, text) + "\n"


if __name__ == "__main__":
    run_program(main)
