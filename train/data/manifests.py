"""Manifests of what trains, develops and is tested, from the corpora of ``../shared/data``.

    python -m train.data.manifests --data ../shared/data --out runs/data

- ``train.jsonl``, ``dev.jsonl``: prose (LibriSpeech, LJ Speech), recorded non-native speech
  (speechocean762) and, to train on, AN4.
- ``test.jsonl``: prose, in two sources: ``librispeech-test-other`` and ``librispeech-dev-clean``.
- ``test_nonnative.jsonl``: five recordings of each test speaker of speechocean762.
- ``test_small.jsonl``: six recordings of each speaker of ``test.jsonl``, and those five: for
  evaluations of many systems.
- ``people.jsonl``: twenty recordings of each of half the test speakers of speechocean762 and of the
  test speakers of LibriSpeech dev-clean: for what a person's own recordings are worth.
- ``dev_an4.jsonl``, ``test_an4.jsonl``: AN4's speakers, to be scored by the protocol ``spelled``.

Who is where stands in ``splits.json``:

- LibriSpeech: all of train-clean-100 trains, test-other is tested. Of dev-clean's 16 readers three
  women and three men are tested, two and two develop, the others train: in the order of the
  SHA-256 of their names (``librispeech-NAME``).
- speechocean762: its own split, but eight of its training speakers develop. Those who could train
  are ordered by how long they take for their 20 sentences, slow readers last, and cut into eight
  groups; the first by SHA-256 of each group develops. Two training speakers read nothing but test
  sentences and are nowhere. Five recordings of a test speaker are tested, the first by SHA-256.
- LJ Speech: its one speaker trains. AN4 has lists of its own.

A sentence that is tested trains and develops nothing, one that develops trains nothing; AN4, whose
vocabulary is closed, is outside of this. Recordings of more than 30 s, which Whisper does not hear
at once, are left out. Everything is checked for leaks before it is written.

Of the folders that may lie beside these, fsdd-4spk (CC BY-SA 4.0: what is trained on it would have
to be shared alike), mfa-fixtures, picovoice-multilingual and public-domain-clips (of people who are
in no list, or in one of these corpora) are not used. vctk-4spk stays fit to test with: its texts
are read in corpora of atypical and of non-native speech too.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperasr.audio.mel import CHUNK_S
from hyperasr.cohorts.manifest import write_manifest
from hyperasr.cohorts.splits import check_leaks
from hyperasr.errors import ConfigError, ManifestError
from hyperasr.metrics.normalisers import normaliser
from hyperasr.types import Utterance
from train.data.split import some_of_each
from train.loop.program import read_config, run_program

SPLITS = ("train", "dev", "test")
_PER_SPEAKER = 6  # recordings in the small test
_PER_PERSON = 20  # in people.jsonl
PROSE = ("librispeech", "ljspeech")


@dataclass(frozen=True)
class ManifestsConfig:
    """From where to where."""

    data: Path = Path("../shared/data")
    """Folder of the corpora: folders of recordings with a ``manifest.csv`` each."""
    out: Path = Path("runs/data")
    """Folder of the manifests."""


@dataclass(frozen=True)
class Corpus:
    """One folder, and how its rows are named."""

    folder: str  # below the data folder
    name: str  # of the corpus; several folders may hold parts of one
    prefix: str = ""  # what the table's speakers begin with, before their own name
    cohort: str = "typical"
    test_source: str = ""  # what `Utterance.source` is in a test manifest; "" for the name
    lower: bool = True  # whether the texts are all capitals, which say nothing


# An utterance that is in both of the first two counts once, as the first has it.
CORPORA = (
    Corpus("librispeech-train-clean-5", "librispeech", "libri-"),
    Corpus("librispeech-train-251spk", "librispeech", "libri-"),
    Corpus("librispeech-test-other-10spk", "librispeech", test_source="librispeech-test-other"),
    Corpus(
        "librispeech-dev-clean-16spk", "librispeech", "libri-", test_source="librispeech-dev-clean"
    ),
    Corpus("ljspeech-1spk", "ljspeech", lower=False),
    Corpus("an4-train", "an4"),
    Corpus("speechocean762-adults", "speechocean762", "so762-", cohort="nonnative"),
)


@dataclass(frozen=True)
class Recording:
    """A row of a corpus's table."""

    corpus: Corpus
    path: Path  # absolute; its name is unique within a corpus
    speaker: str  # as the corpus names them, without a prefix
    text: str  # in lower case where the corpus has capitals only
    duration_s: float

    @property
    def words(self) -> str:
        """What two texts share if they are the same sentence, as leaks are looked for."""
        return normaliser("spoken")(self.text)

    def row(self, split: str, root: Path) -> Utterance:
        """Return the row of a manifest; ids and speakers are named by corpus, so that they join."""
        corpus = self.corpus
        source = (corpus.test_source if split == "test" else "") or corpus.name
        return Utterance(
            id=f"{source}/{self.path.relative_to(root / corpus.folder).as_posix()}",
            path=str(self.path),
            text=self.text,
            speaker=f"{corpus.name}-{self.speaker}",
            cohort=corpus.cohort,
            split=split,
            source=source,
        )


@dataclass(frozen=True)
class Built:
    """What the manifests hold."""

    manifests: dict[str, list[Utterance]]  # by the manifest's name without ending
    duration_s: dict[str, float]  # of every row, by id
    left_out: Counter[str]  # number of recordings by reason


def read_splits() -> dict[str, dict]:
    """Return the committed lists.

    Returns:
        ``speakers`` by corpus and split, as the corpus names them; ``test_recordings`` of
        speechocean762, file names without ending by test speaker.
    """
    return json.loads(Path(__file__).with_name("splits.json").read_text("utf-8"))


def read_corpora(root: Path, corpora: Sequence[Corpus] = CORPORA) -> list[Recording]:
    """Read the tables of the corpora in the data folder `root` (absolute), in their order.

    Raises:
        ConfigError: a corpus or a recording is not there.
        ManifestError: a table that is none.
    """
    if missing := [c.folder for c in corpora if not (root / c.folder / "manifest.csv").is_file()]:
        raise ConfigError(
            f"no corpus {', '.join(missing)} in {root}: give --data the folder that holds "
            "CORPUS/manifest.csv"
        )
    recordings: list[Recording] = []
    for corpus in corpora:
        table = root / corpus.folder / "manifest.csv"
        try:
            with table.open(encoding="utf-8", newline="") as file:
                recordings += [_recording(root, corpus, row) for row in csv.DictReader(file)]
        except (OSError, csv.Error, KeyError, ValueError, TypeError) as error:
            reason = f"no column {error}" if isinstance(error, KeyError) else str(error)
            raise ManifestError(
                f"{table}: cannot be read as a corpus's table ({reason})"
            ) from error
    if absent := [r.path for r in recordings if not r.path.is_file()]:
        raise ConfigError(
            f"{len(absent)} recordings that {root} lists are absent, such as {absent[0]}; copy the "
            "corpora again"
        )
    return recordings


def _recording(root: Path, corpus: Corpus, row: dict[str, str]) -> Recording:
    text = row["text"].lower() if corpus.lower else row["text"]
    path = root / corpus.folder / row["path"]
    speaker = row["speaker"].removeprefix(corpus.prefix)
    return Recording(corpus, path, speaker, " ".join(text.split()), float(row["duration_s"]))


def build(root: Path) -> Built:
    """Put every recording of the data folder where its speaker belongs, and refuse what leaks.

    Raises:
        ConfigError: a corpus, a recording, or a speaker of the lists is not there.
        ManifestError: speakers, recordings or sentences are on two sides.
    """
    splits, left_out = read_splits(), Counter[str]()
    by_split = _by_split(read_corpora(root), splits["speakers"], left_out)
    kept = _without_shared_texts(by_split, left_out)
    duration_s: dict[str, float] = {}

    def rows(split: str, *names: str) -> list[Utterance]:
        chosen = {r.row(split, root): r for r in kept[split] if r.corpus.name in names}
        duration_s.update((row.id, r.duration_s) for row, r in chosen.items())
        return list(chosen)

    tested = {name for names in splits["test_recordings"].values() for name in names}
    everything = rows("test", "speechocean762")
    named = sorted({u.speaker for u in everything}, key=_digest)
    half = set(named[: (len(named) + 1) // 2])
    nonnative = [u for u in everything if Path(u.path).stem in tested]
    readers = [u for u in rows("test", "librispeech") if u.source == "librispeech-dev-clean"]
    manifests = {
        "train": rows("train", *PROSE, "speechocean762", "an4"),
        "dev": rows("dev", *PROSE, "speechocean762"),
        "test": rows("test", *PROSE),
        "test_nonnative": nonnative,
        "test_small": [*some_of_each(rows("test", *PROSE), _PER_SPEAKER), *nonnative],
        "people": [
            *some_of_each(readers, _PER_PERSON),
            *(u for u in everything if u.speaker in half),
        ],
        "dev_an4": rows("dev", "an4"),
        "test_an4": rows("test", "an4"),
    }
    train, dev, tests = manifests["train"], manifests["dev"], [*manifests["test"], *everything]
    an4, an4_dev = manifests["test_an4"], manifests["dev_an4"]
    for name, first, second, text in (
        ("train", train, dev, "error"),
        ("train", train, tests, "error"),
        ("dev", dev, tests, "error"),
        ("train", train, [*an4_dev, *an4], "ignore"),
        ("dev", [*dev, *an4_dev], an4, "ignore"),
    ):
        check_leaks(first, second, text=text, name=name)
    return Built(manifests, duration_s, left_out)


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _by_split(
    recordings: Sequence[Recording],
    listed: dict[str, dict[str, list[str]]],
    left_out: Counter[str],
) -> dict[str, list[Recording]]:
    """Return the recordings of each split, every one once and none too long."""
    split_of = {
        (corpus, speaker): split
        for corpus, own in listed.items()
        for split, names in own.items()
        for speaker in names
    }
    by_split: dict[str, list[Recording]] = {split: [] for split in SPLITS}
    seen: set[tuple[str, str]] = set()
    for recording in recordings:
        name, stem = recording.corpus.name, recording.path.stem
        split = split_of.get((name, recording.speaker))
        if split is None:
            left_out["of a speaker in no list"] += 1
        elif (name, stem) in seen:
            left_out["in two folders"] += 1
        elif recording.duration_s > CHUNK_S:
            left_out[f"longer than {CHUNK_S} s"] += 1
        else:
            seen.add((name, stem))
            by_split[split].append(recording)
    speakers = {(r.corpus.name, r.speaker) for r in recordings}
    if absent := sorted(set(split_of) - speakers):
        corpus, speaker = absent[0]
        raise ConfigError(
            f"{len(absent)} speakers of the lists have no recording, such as {speaker} of "
            f"{corpus}; copy the corpora again"
        )
    return by_split


def _without_shared_texts(
    by_split: dict[str, list[Recording]], left_out: Counter[str]
) -> dict[str, list[Recording]]:
    """Take out of each split the sentences of the ones after it: test, dev, train."""
    held: set[str] = set()
    kept: dict[str, list[Recording]] = {}
    for split in reversed(SPLITS):
        own = by_split[split]
        kept[split] = [r for r in own if r.words not in held]
        if held_out := len(own) - len(kept[split]):
            left_out[f"{split}: sentences held out"] = held_out
        # AN4's own tests are of words that everybody says.
        held |= {r.words for r in own if r.corpus.name != "an4"}
    return kept


def main() -> None:
    """Write the manifests and print what they hold."""
    config = read_config(ManifestsConfig)
    built = build(config.data.resolve())
    form = "{:<16} {:<24} {:<10} {:>10} {:>8} {:>8}"
    print(form.format("manifest", "source", "cohort", "recordings", "speakers", "minutes"))
    for name, rows in built.manifests.items():
        write_manifest(config.out / f"{name}.jsonl", rows)
        for place in dict.fromkeys((u.source, u.cohort) for u in rows):
            own = [u for u in rows if (u.source, u.cohort) == place]
            minutes = sum(built.duration_s[u.id] for u in own) / 60
            n_speakers = len({u.speaker for u in own})
            print(form.format(name, *place, len(own), n_speakers, f"{minutes:.1f}"))
    for reason, n in built.left_out.items():
        print(f"left out, {reason}: {n}")


if __name__ == "__main__":
    run_program(main)
