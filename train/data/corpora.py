"""The licensed corpora at hand: folders of recordings with a ``manifest.csv`` each."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperasr.errors import ConfigError, ManifestError
from hyperasr.types import Utterance

__all__ = ["CORPORA", "LEFT_OUT", "Corpus", "Recording", "read_corpora"]


@dataclass(frozen=True)
class Corpus:
    """One folder, and how its rows are named.

    Attributes:
        folder: below the data folder.
        name: of the corpus; several folders may hold parts of one.
        prefix: what the table's speakers begin with, before their own name.
        cohort: of all its speakers.
        test_source: what `Utterance.source` is in a test manifest; "" for the corpus's name.
        lower: whether the texts are all capitals, which say nothing.
    """

    folder: str
    name: str
    prefix: str = ""
    cohort: str = "typical"
    test_source: str = ""
    lower: bool = True


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

LEFT_OUT = {
    "fsdd-4spk": "CC BY-SA 4.0: what is trained on it would have to be shared alike",
    "vctk-4spk": "CC BY 4.0, but its texts are of the Stella paragraph and the rainbow passage, "
    "which corpora of atypical and of non-native speech read too: they stay fit to test with",
    "mfa-fixtures": "single clips, of people who are in no list; one is LibriSpeech test-clean",
    "picovoice-multilingual": "the licence of the speech is not stated, and the English clip is "
    "LibriSpeech dev-clean",
    "public-domain-clips": "the reader could be one of LibriSpeech's, and everybody tests with jfk",
}
"""What neither trains nor is tested here, and why."""


@dataclass(frozen=True)
class Recording:
    """A row of a corpus's table.

    Attributes:
        corpus: which it is of.
        path: absolute, of the recording.
        speaker: as the corpus names them, without a prefix.
        text: of the table, in lower case where the corpus has capitals only.
        duration_s: by the table.
    """

    corpus: Corpus
    path: Path
    speaker: str
    text: str
    duration_s: float

    @property
    def stem(self) -> str:
        """The name of the file, which is unique within a corpus."""
        return self.path.stem

    def row(self, split: str, root: Path) -> Utterance:
        """Return the row of a manifest; ids and speakers are named by corpus, so that they join.

        Args:
            split: ``train``, ``dev`` or ``test``.
            root: the data folder, absolute.
        """
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


def read_corpora(root: Path, corpora: Sequence[Corpus] = CORPORA) -> list[Recording]:
    """Read the tables of the corpora, in their order.

    Args:
        root: the data folder, absolute.
        corpora: which to read.
    Raises:
        ConfigError: a corpus or a recording is not there.
        ManifestError: a table that is none.
    """
    if not root.is_dir():
        raise ConfigError(f"there is no folder {root}; give --data the folder of the corpora")
    missing = [c.folder for c in corpora if not (root / c.folder / "manifest.csv").is_file()]
    if missing:
        raise ConfigError(
            f"no corpus {', '.join(missing)} in {root}: give --data the folder that holds "
            "CORPUS/manifest.csv"
        )
    recordings = [recording for corpus in corpora for recording in _read(root, corpus)]
    if absent := [r.path for r in recordings if not r.path.is_file()]:
        raise ConfigError(
            f"{len(absent)} recordings that {root} lists are absent, such as {absent[0]}; copy the "
            "corpora again"
        )
    return recordings


def _read(root: Path, corpus: Corpus) -> list[Recording]:
    table = root / corpus.folder / "manifest.csv"
    try:
        with table.open(encoding="utf-8", newline="") as file:
            return [_recording(root, corpus, row) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        reason = f"no column {error}" if isinstance(error, KeyError) else str(error)
        raise ManifestError(f"{table}: cannot be read as a corpus's table ({reason})") from error


def _recording(root: Path, corpus: Corpus, row: dict[str, str]) -> Recording:
    text = row["text"].lower() if corpus.lower else row["text"]
    return Recording(
        corpus=corpus,
        path=root / corpus.folder / row["path"],
        speaker=row["speaker"].removeprefix(corpus.prefix),
        text=" ".join(text.split()),
        duration_s=float(row["duration_s"]),
    )
