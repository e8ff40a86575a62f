"""CMU AN4 (census): spelled names, numbers, dates and control words, English."""

from __future__ import annotations

import re
from pathlib import Path

from hyperasr.cohorts.corpora import base
from hyperasr.types import Utterance

_LINE = re.compile(r"(.*?)\s*\(([^()\s]+)\)\s*$")
_MARK = re.compile(r"</?s>|<sil>")

ABOUT = base.describe("an4")


def prepare(root: base.AnyPath) -> base.Prepared:
    """Read ``etc/an4_{train,test}.{fileids,transcription}`` with ``wav/``, or a ``manifest.csv``.

    Recordings may be converted (``.sph``, ``.wav``, ``.flac``); the headerless ``.raw`` ones are
    refused. Texts become lower case. The second form is a folder ``SPEAKER/NAME-SPEAKER-b.flac``
    with columns path, text and split.
    """
    return base.Prepared(ABOUT, root, _rows)


def _rows(root: Path, report: base.Report) -> base.Rows:
    lists = [p for p in base.walk(root, report, (".transcription",)) if p.stem.startswith("an4_")]
    if lists:
        recordings = _recordings(root, report)
        for path in lists:
            yield from _listed(root, path, recordings, report)
        return
    for table in base.find_named(root, "manifest.csv")[:1]:
        for row in base.read_table(table, report):
            if not row.get("path") or "text" not in row:
                report.skip("a row without path or text", str(row))
                continue
            recording = base.listed_path(root, row["path"], report, below=table.parent)
            if recording is not None:
                yield _row(recording, row["text"], row.get("split") or base.NO_SPLIT)


def _recordings(root: Path, report: base.Report) -> dict[str, Path]:
    """Return every recording by its name, which is unique in this corpus of a thousand."""
    recordings: dict[str, Path] = {}
    for path in base.walk(root, report, (*base.AUDIO_SUFFIXES, ".raw")):
        # A converted copy beside the original wins over what cannot be read.
        if path.stem not in recordings or recordings[path.stem].suffix == ".raw":
            recordings[path.stem] = path
    return recordings


def _listed(
    root: Path, listing: Path, recordings: dict[str, Path], report: base.Report
) -> base.Rows:
    ids = listing.with_suffix(".fileids")
    names = (base.read_text(ids, report) or "").split() if ids.is_file() else []
    where = {Path(name).name: name for name in names}
    split = listing.stem.partition("_")[2].lower()
    for line in (base.read_text(listing, report) or "").splitlines():
        if not line.strip():
            continue
        match = _LINE.match(line)
        if match is None:
            report.skip("a transcription without an id in parentheses", line)
            continue
        path: Path | None = recordings.get(match[2])
        if path is None:
            path = base.listed_path(root, f"wav/{where.get(match[2], match[2])}.sph", report)
        elif path.suffix == ".raw":
            report.skip("a headerless .raw recording; take the release in SPHERE format", path)
            continue
        if path is not None:
            yield _row(path, _MARK.sub("", match[1]), split)


def _row(path: Path, text: str, split: str) -> Utterance:
    # NAME-SPEAKER-b: "b" is the second of two microphones, the only one in the distribution.
    parts = path.stem.split("-")
    speaker = parts[1] if len(parts) == 3 else path.parent.name
    return ABOUT.row(
        id=path.stem,
        path=path,
        text=" ".join(text.lower().split()),
        speaker=speaker,
        split=split,
        extra={"text_source": "human", "gender": speaker[0]},
    )
