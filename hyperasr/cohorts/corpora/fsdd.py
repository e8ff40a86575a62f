"""Free Spoken Digit Dataset: English digits, 8 kHz, the text in the file name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from hyperasr.cohorts.corpora.base import Description, Prepared, Report, corpus_root, walk
from hyperasr.types import Utterance

__all__ = ["describe", "prepare"]

_NAME = re.compile(r"(\d)_([^_]+)_(\d+)$")
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEST_TAKES = 5


def describe() -> Description:
    """Say what the corpus is and how to get it."""
    return Description(
        name="fsdd",
        title="Free Spoken Digit Dataset",
        licence="CC BY-SA 4.0",
        how_to_get="clone github.com/Jakobovski/free-spoken-digit-dataset",
        citation="Jackson et al. 2018, Free Spoken Digit Dataset, "
        "github.com/Jakobovski/free-spoken-digit-dataset",
        languages=("en",),
        cohorts=("typical",),
        n_speakers=6,
        has_text=True,
        status="tested on the corpus (four speakers) and on synthetic fixtures",
    )


def prepare(root: str | os.PathLike[str], *, check_audio: bool = True) -> Prepared:
    """Read ``recordings/DIGIT_SPEAKER_TAKE.wav``, at any depth.

    The split is the published one: takes 0 to 4 are ``test``, the others ``train``. The same
    speakers are in both.
    """
    folder = corpus_root(root)
    return Prepared(
        folder,
        lambda report: _rows(folder, report),
        expects="recordings/DIGIT_SPEAKER_TAKE.wav",
        check_audio=check_audio,
    )


def _rows(root: Path, report: Report) -> Iterator[Utterance]:
    for path in walk(root, report, (".wav", ".flac")):
        name = _NAME.match(path.stem)
        if name is None:
            report.skip("a name that is not DIGIT_SPEAKER_TAKE", path)
            continue
        yield Utterance(
            id=path.stem,
            path=str(path),
            text=_DIGITS[int(name[1])],
            speaker=name[2].lower(),
            split="test" if int(name[3]) < _TEST_TAKES else "train",
            source="fsdd",
            extra={"text_source": "prompt"},
        )
