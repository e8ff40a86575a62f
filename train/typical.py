"""AN4 and FSDD as rows, read by the package's readers, with the speaker split of all programs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from hyperasr.cohorts.corpora import prepare
from hyperasr.types import Utterance

__all__ = ["an4_splits", "an4_utterances", "fsdd_utterances"]

AN4_SPLITS = Path(__file__).parent / "data" / "an4_splits.json"


def an4_splits() -> dict[str, list[str]]:
    """Return the committed lists of AN4 speakers: train, dev and test."""
    return json.loads(AN4_SPLITS.read_text())


def an4_utterances(root: Path) -> list[Utterance]:
    """Return AN4's rows with the committed speaker split, speakers that it does not name left out.

    Raises:
        ConfigError, ManifestError: no such folder, or nothing of AN4 in it.
    """
    split_of = {name: split for split, names in an4_splits().items() for name in names}
    return [
        _as_ours(row, root, split_of[row.speaker])
        for row in _read("an4", root)
        if row.speaker in split_of
    ]


def fsdd_utterances(root: Path, takes: int = 3) -> list[Utterance]:
    """Return the first `takes` takes of every digit of every FSDD speaker, as test rows.

    Raises:
        ConfigError, ManifestError: no such folder, or nothing of FSDD in it.
    """
    seen: dict[tuple[str, str | None], int] = {}
    chosen = []
    # By file name, so that folders of speakers, which some copies have, do not matter.
    for row in sorted(_read("fsdd", root), key=lambda row: row.id):
        key = (row.speaker, row.text)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= takes:
            chosen.append(_as_ours(row, root, "test"))
    return chosen


def _read(name: str, root: Path) -> list[Utterance]:
    """Read a corpus, and print what was left out of it."""
    prepared = prepare(name, root)
    rows = list(prepared)
    if prepared.report.n_skipped:
        print(f"{name}: " + "\n".join(prepared.report.lines()))
    return rows


def _as_ours(row: Utterance, root: Path, split: str) -> Utterance:
    """Name a row by corpus and file, and its speaker by corpus, so that corpora can be joined."""
    folder = os.path.abspath(root.expanduser())  # as the readers name it: without ".."
    own = Path(row.path).relative_to(folder).as_posix()
    return replace(
        row,
        id=f"{row.source}/{own}",
        path=str(Path(row.path).resolve()),
        speaker=f"{row.source}-{row.speaker}",
        split=split,
        extra=None,
    )
