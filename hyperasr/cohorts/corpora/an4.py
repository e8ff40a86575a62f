"""CMU AN4 (census): spelled names, numbers, dates and control words, English."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from hyperasr.cohorts.corpora.base import (
    AUDIO_SUFFIXES,
    NO_SPLIT,
    Description,
    Prepared,
    Report,
    corpus_root,
    find_named,
    listed_path,
    read_table,
    read_text,
    walk,
)
from hyperasr.types import Utterance

__all__ = ["describe", "prepare"]

_LINE = re.compile(r"(.*?)\s*\(([^()\s]+)\)\s*$")
_MARK = re.compile(r"</?s>|<sil>")


def describe() -> Description:
    """Say what the corpus is and how to get it."""
    return Description(
        name="an4",
        title="CMU Census database (AN4)",
        licence="CMU's own, of the two-clause BSD kind",
        how_to_get="download from speech.cs.cmu.edu/databases/an4",
        citation="Acero 1993, Acoustical and Environmental Robustness in Automatic Speech "
        "Recognition, Kluwer",
        languages=("en",),
        cohorts=("typical",),
        n_speakers=84,
        has_text=True,
        status="tested on the corpus (training part) and on synthetic fixtures",
    )


def prepare(root: str | os.PathLike[str], *, check_audio: bool = True) -> Prepared:
    """Read ``etc/an4_{train,test}.{fileids,transcription}`` with ``wav/``, or a ``manifest.csv``.

    Recordings may be converted (``.sph``, ``.wav``, ``.flac``); the headerless ``.raw`` ones are
    refused. Texts become lower case. The second form is a folder ``SPEAKER/NAME-SPEAKER-b.flac``
    with columns path, text and split.
    """
    folder = corpus_root(root)
    return Prepared(
        folder,
        lambda report: _rows(folder, report),
        expects="etc/an4_train.transcription and wav/an4_clstk/SPEAKER/NAME-SPEAKER-b.sph",
        check_audio=check_audio,
    )


def _rows(root: Path, report: Report) -> Iterator[Utterance]:
    lists = [p for p in walk(root, report, (".transcription",)) if p.stem.startswith("an4_")]
    if lists:
        recordings = _recordings(root, report)
        for path in lists:
            yield from _listed(root, path, recordings, report)
        return
    for table in find_named(root, "manifest.csv")[:1]:
        for row in read_table(table, report):
            if not row.get("path") or "text" not in row:
                report.skip("a row without path or text", str(row))
                continue
            recording = listed_path(root, row["path"], report, below=table.parent)
            if recording is not None:
                yield _row(recording, row["text"], row.get("split") or NO_SPLIT)


def _recordings(root: Path, report: Report) -> dict[str, Path]:
    """Return every recording by its name, which is unique in this corpus of a thousand."""
    found: dict[str, Path] = {}
    for path in walk(root, report, (*AUDIO_SUFFIXES, ".raw")):
        # A converted copy beside the original wins over what cannot be read.
        if path.stem not in found or found[path.stem].suffix == ".raw":
            found[path.stem] = path
    return found


def _listed(
    root: Path, listing: Path, recordings: dict[str, Path], report: Report
) -> Iterator[Utterance]:
    ids = listing.with_suffix(".fileids")
    names = (read_text(ids, report) or "").split() if ids.is_file() else []
    where = {Path(name).name: name for name in names}
    split = listing.stem.partition("_")[2].lower()
    for line in (read_text(listing, report) or "").splitlines():
        if not line.strip():
            continue
        match = _LINE.match(line)
        if match is None:
            report.skip("a transcription without an id in parentheses", line)
            continue
        path: Path | None = recordings.get(match[2])
        if path is None:
            path = listed_path(root, f"wav/{where.get(match[2], match[2])}.sph", report)
        elif path.suffix == ".raw":
            report.skip("a headerless .raw recording; take the release in SPHERE format", path)
            continue
        if path is not None:
            yield _row(path, _MARK.sub("", match[1]), split)


def _row(path: Path, text: str, split: str) -> Utterance:
    # NAME-SPEAKER-b: "b" is the second of two microphones, the only one in the distribution.
    parts = path.stem.split("-")
    speaker = parts[1] if len(parts) == 3 else path.parent.name
    return Utterance(
        id=path.stem,
        path=str(path),
        text=" ".join(text.lower().split()),
        speaker=speaker,
        split=split,
        source="an4",
        extra={"text_source": "human", "gender": speaker[0]},
    )
