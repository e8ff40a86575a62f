"""Common Voice: sentences read by volunteers in many languages; mp3 clips and TSV lists."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from hyperasr.cohorts.corpora.base import (
    Description,
    Prepared,
    Report,
    corpus_root,
    listed_path,
    read_table,
    walk,
)
from hyperasr.errors import ConfigError
from hyperasr.types import Utterance

__all__ = ["describe", "prepare"]

_LISTS = ("train", "dev", "test", "validated", "other", "invalidated")
_ID_DIGITS = 16  # of 128: two of a million speakers meet with a chance of 3 in 10 million


def describe() -> Description:
    """Say what the corpus is and how to get it."""
    return Description(
        name="common_voice",
        title="Mozilla Common Voice",
        licence="CC0 1.0; who downloads it agrees not to identify speakers",
        how_to_get="download a language from commonvoice.mozilla.org",
        citation="Ardila et al. 2020, Common Voice: a massively-multilingual speech corpus, LREC",
        languages=("multilingual",),
        cohorts=("typical",),
        n_speakers=None,
        has_text=True,
    )


def prepare(
    root: str | os.PathLike[str],
    *,
    lists: str | Sequence[str] = ("train", "dev", "test"),
    check_audio: bool = True,
) -> Prepared:
    """Read ``[LANGUAGE/]{train,dev,test}.tsv`` with ``clips/``, of one language or of several.

    Speakers are the beginning of the published client id, which is a hash already. The language is
    the locale up to its hyphen (``sv-SE`` is ``sv``).

    Args:
        root: folder of the corpus.
        lists: which lists; ``validated`` holds the three of the default and more. Each is a split.
        check_audio: open every recording's header.
    """
    wanted = (lists,) if isinstance(lists, str) else tuple(lists)
    unknown = [name for name in wanted if name not in _LISTS]
    if unknown or not wanted:
        raise ConfigError(f"common_voice has no list {unknown}; it has {', '.join(_LISTS)}")
    folder = corpus_root(root)
    return Prepared(
        folder,
        lambda report: _rows(folder, wanted, report),
        expects=f"LANGUAGE/{wanted[0]}.tsv and LANGUAGE/clips/",
        check_audio=check_audio,
    )


def _rows(root: Path, lists: tuple[str, ...], report: Report) -> Iterator[Utterance]:
    tables = [path for path in walk(root, report, (".tsv",)) if path.stem.lower() in lists]
    for table in sorted(tables, key=lambda p: (p.parent, lists.index(p.stem.lower()))):
        # Sentences begin and end with quotation marks of their own: they do not group.
        for row in read_table(table, report, delimiter="\t", quoted=False):
            utterance = _row(root, table, row, report)
            if utterance is not None:
                yield utterance


def _row(root: Path, table: Path, row: dict[str, str], report: Report) -> Utterance | None:
    if not {"client_id", "path", "sentence"} <= set(row):
        report.skip("a list without the columns client_id, path and sentence", table)
        return None
    name = row["path"]
    # The first releases leave the suffix out.
    name = name if name.lower().endswith((".mp3", ".wav", ".flac")) else f"{name}.mp3"
    path = listed_path(root, name, report, below=table.parent / "clips")
    if path is None:
        return None
    locale = row.get("locale") or table.parent.name
    extra = {"text_source": "prompt", "locale": locale}
    for key, column in (("gender", "gender"), ("age", "age"), ("accent", "accents")):
        if row.get(column):
            extra[key] = row[column]
    return Utterance(
        id=path.stem,
        path=str(path),
        text=row["sentence"],
        speaker=row["client_id"][:_ID_DIGITS],
        language=locale.split("-")[0].lower(),
        split=table.stem.lower(),
        source="common_voice",
        extra=extra,
    )
