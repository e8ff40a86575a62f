"""EasyCall: Italian commands, dysarthric and control speakers; the text is in the file name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from hyperasr.cohorts.corpora.base import (
    NO_SPLIT,
    Description,
    Prepared,
    Report,
    corpus_root,
    find_named,
    read_table,
    walk,
)
from hyperasr.types import Utterance

__all__ = ["describe", "prepare"]

_NAME = re.compile(r"((?:[fm]c?|c[fm])\d+)_([^_]+)_(.+)$", re.I)
_TABLE = "easycall_meta.csv"
_WORST = 3  # of the merged scale of the table; the corpus's own (TOM) goes from 1 to 5


def describe() -> Description:
    """Say what the corpus is and how to get it."""
    return Description(
        name="easycall",
        title="EasyCall",
        licence="non-commercial research (not confirmed by any file); ask the authors",
        how_to_get="one zip, from neurolab.unife.it/easycallcorpus",
        citation="Turrisi et al. 2021, EasyCall corpus: a dysarthric speech dataset, Interspeech "
        "(arXiv 2104.02542)",
        languages=("it",),
        cohorts=("dysarthria", "typical"),
        n_speakers=55,
        has_text=True,
    )


def prepare(root: str | os.PathLike[str], *, check_audio: bool = True) -> Prepared:
    """Read ``SPEAKER_SESSION_word_word.wav`` at any depth.

    Speakers are ``f01``, ``m01`` (dysarthric) and ``fc01``, ``mc01`` (controls). Severity comes
    from a third party's ``easycall_meta.csv`` in the folder (columns speaker, severity 0 to 3),
    divided by 3; it is unknown without, and for f04. Accents that the file names lost stay lost.
    """
    folder = corpus_root(root)
    return Prepared(
        folder,
        lambda report: _rows(folder, report),
        expects="SPEAKER_SESSION_word_word.wav, the speaker being f01, m01, fc01 or mc01",
        check_audio=check_audio,
    )


def _rows(root: Path, report: Report) -> Iterator[Utterance]:
    table = _table(root, report)
    for path in walk(root, report, (".wav", ".flac")):
        name = _NAME.match(path.stem)
        words = "" if name is None else " ".join(name[3].replace("_", " ").split())
        if name is None or not words:
            report.skip("a name that is not SPEAKER_SESSION_word", path)
            continue
        speaker = name[1].lower()
        control = "c" in speaker
        severity, split = table.get(speaker, (None, ""))
        yield Utterance(
            id=path.stem,
            path=str(path),
            text=words,
            speaker=speaker,
            cohort="typical" if control else "dysarthria",
            severity=None if control else severity,
            language="it",
            split=split or NO_SPLIT,
            source="easycall",
            extra={
                "text_source": "prompt",
                "session": name[2],
                "gender": "f" if "f" in speaker else "m",
            },
        )


def _table(root: Path, report: Report) -> dict[str, tuple[float | None, str]]:
    """Return severity and split of each speaker."""
    rows: dict[str, tuple[float | None, str]] = {}
    for path in find_named(root, _TABLE)[:1]:
        for row in read_table(path, report):
            if row.get("speaker"):
                severity = _severity(row.get("severity", ""), report)
                rows[row["speaker"].lower()] = severity, row.get("split", "")
            else:
                report.skip("a row of the table without a speaker", path)
    return rows


def _severity(value: str, report: Report) -> float | None:
    if not value or value.lower() in ("nan", "none", "-"):
        return None
    try:
        degree = float(value) / _WORST
    except ValueError:
        degree = -1.0
    if 0.0 <= degree <= 1.0:
        return degree
    report.note("a severity that is not a number from 0 to 3 was left out")
    return None
