"""LibriSpeech: read English sentences in SPEAKER/CHAPTER folders with one transcript file each."""

from __future__ import annotations

import re
from pathlib import Path

from hyperasr.cohorts.corpora import base
from hyperasr.types import Utterance

_TRANSCRIPT = ".trans.txt"
_SUBSET = re.compile(r"(train|dev|test)-(clean|other)", re.I)
_SUFFIXES = (".flac", ".wav", ".mp3", ".ogg")

ABOUT = base.describe("librispeech")


def prepare(root: base.AnyPath) -> base.Prepared:
    """Read a copy below `root`: ``[SUBSET/]SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`` and audio.

    The split is that of the subset's folder (``train-clean-100`` is ``train``); texts become lower
    case. Gender comes from ``SPEAKERS.TXT`` where it is there.
    """
    return base.Prepared(ABOUT, root, read_rows)


def read_rows(root: Path, report: base.Report, *, untranscribed: bool = False) -> base.Rows:
    """Yield the rows below `root`, unchecked; what cannot be used is counted in `report`."""
    genders = _genders(root, report)
    chapter, texts = Path(), dict[str, str]()
    # A chapter's recordings and its transcript lie in one folder, which `walk` gives in one piece.
    for path in base.walk(root, report, (*_SUFFIXES, _TRANSCRIPT)):
        if path.parent != chapter:
            for left in texts:
                report.skip("the recording is listed but absent", left)
            chapter, texts = path.parent, _transcripts(path.parent, report)
        if path.name.lower().endswith(_TRANSCRIPT):
            continue
        text = texts.pop(path.stem, None)
        speaker = path.stem.split("-")[0]
        if text is None and not untranscribed:
            report.skip("no transcript", path)
        else:
            yield _row(path, root, text, genders.get(speaker))
    for left in texts:
        report.skip("the recording is listed but absent", left)


def _transcripts(folder: Path, report: base.Report) -> dict[str, str]:
    """Return the texts of a chapter by utterance."""
    texts: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name.lower().endswith(_TRANSCRIPT) and not path.name.startswith("."):
            texts |= base.read_pairs(path, report)
    return texts


def _row(path: Path, root: Path, text: str | None, gender: str | None) -> Utterance:
    folders = (root.name, *path.relative_to(root).parts)
    subset = next((part for part in reversed(folders) if _SUBSET.match(part)), "")
    speaker, _, rest = path.stem.partition("-")
    extra = {"text_source": "none" if text is None else "human", "gender": gender}
    extra |= {"subset": subset, "session": rest.rpartition("-")[0]}
    return ABOUT.row(
        id=path.stem,
        path=path,
        text=None if text is None else text.lower(),
        speaker=speaker,
        split=subset.split("-")[0].lower() if subset else base.NO_SPLIT,
        extra=extra,
    )


def _genders(root: Path, report: base.Report) -> dict[str, str]:
    """Return the gender of each speaker, from the table that lies above the subsets."""
    tables = base.find_named(root, "SPEAKERS.TXT") or base.find_named(
        root.parent, "SPEAKERS.TXT", depth=1
    )
    genders: dict[str, str] = {}
    for line in (base.read_text(tables[0], report) or "").splitlines() if tables else ():
        fields = [field.strip() for field in line.split("|")]
        if not line.startswith(";") and len(fields) > 1:
            genders[fields[0]] = fields[1].lower()
    return genders
