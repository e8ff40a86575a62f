"""EasyCall: Italian commands, dysarthric and control speakers; the text is in the file name."""

from __future__ import annotations

import re
from pathlib import Path

from hyperasr.cohorts.corpora import base

_NAME = re.compile(r"((?:[fm]c?|c[fm])\d+)_([^_]+)_(.+)$", re.I)
_TABLE = "easycall_meta.csv"
_WORST = 3  # of the merged scale of the table; the corpus's own (TOM) goes from 1 to 5

ABOUT = base.describe("easycall")


def prepare(root: base.AnyPath) -> base.Prepared:
    """Read ``SPEAKER_SESSION_word_word.wav`` at any depth.

    Speakers are ``f01``, ``m01`` (dysarthric) and ``fc01``, ``mc01`` (controls). Severity comes
    from a third party's ``easycall_meta.csv`` in the folder (columns speaker, severity 0 to 3),
    divided by 3; it is unknown without, and for f04. Accents that the file names lost stay lost.
    """
    return base.Prepared(ABOUT, root, _rows)


def _rows(root: Path, report: base.Report) -> base.Rows:
    table = _table(root, report)
    for path in base.walk(root, report, (".wav", ".flac")):
        name = _NAME.match(path.stem)
        words = "" if name is None else " ".join(name[3].replace("_", " ").split())
        if name is None or not words:
            report.skip("a name that is not SPEAKER_SESSION_word", path)
            continue
        speaker = name[1].lower()
        severity, split = table.get(speaker, (None, ""))
        yield ABOUT.row(
            id=path.stem,
            path=path,
            text=words,
            speaker=speaker,
            typical="c" in speaker,
            severity=severity,
            split=split or base.NO_SPLIT,
            extra={"text_source": "prompt", "session": name[2], "gender": speaker.strip("c")[0]},
        )


def _table(root: Path, report: base.Report) -> dict[str, tuple[float | None, str]]:
    """Return severity and split of each speaker."""
    rows: dict[str, tuple[float | None, str]] = {}
    for path in base.find_named(root, _TABLE)[:1]:
        for row in base.read_table(path, report):
            if row.get("speaker"):
                rating = row.get("severity", "")
                severity = base.scaled(rating, _WORST)
                if severity is None and rating.lower() not in ("", "nan", "none", "-"):
                    report.note("a severity that is not a number from 0 to 3 was left out")
                rows[row["speaker"].lower()] = severity, row.get("split", "")
            else:
                report.skip("a row of the table without a speaker", path)
    return rows
