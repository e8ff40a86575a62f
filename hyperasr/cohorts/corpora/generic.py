"""Recordings of one's own, in the layouts that are common: tables, pairs, Kaldi and others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hyperasr.cohorts.corpora import base, librispeech
from hyperasr.cohorts.corpora._kaldi import kaldi_rows
from hyperasr.cohorts.corpora._layouts import Defaults
from hyperasr.cohorts.corpora._tables import TABLE_SUFFIXES, is_table, table_rows
from hyperasr.errors import ConfigError

LAYOUTS = ("kaldi", "table", "librispeech", "pairs")
"""In the order in which they are looked for."""

_TEXT_SUFFIXES = (".txt", ".lab")

ABOUT = base.describe("generic")


def prepare(
    root: base.AnyPath,
    *,
    layout: str = "auto",
    table: base.AnyPath | None = None,
    audio_root: base.AnyPath | None = None,
    speaker: str | None = None,
    cohort: str = "typical",
    language: str = "en",
    etiology: str | None = None,
    split: str | None = None,
    untranscribed: bool = False,
) -> base.Prepared:
    """Read a folder in one of these layouts.

    - ``table``: CSV, TSV or JSON lines with a column for the path and more (text, speaker, cohort,
      language, start, end ...; the names of NeMo, Hugging Face and `hyperasr` are known);
    - ``pairs``: ``NAME.wav`` beside ``NAME.txt`` (or ``.lab``); a folder is a speaker;
    - ``librispeech``: ``SPEAKER-CHAPTER.trans.txt`` beside the recordings;
    - ``kaldi``: ``wav.scp``, ``text``, ``segments``, ``utt2spk``; no command is run.

    Args:
        root: folder of the recordings.
        layout: ``auto`` takes the first that fits: kaldi, table, librispeech, pairs.
        table: the table, where there are several; below `root`.
        audio_root: folder of the recordings that lists name, where they lie outside of `root`.
        speaker, cohort, language, etiology, split: of all rows where the layout does not tell;
            without, speakers and splits are taken from the folders' names.
        untranscribed: keep recordings without text.
    Raises:
        ConfigError: no such folder, layout or table.
    """
    folder = base.corpus_root(root)
    if layout not in ("auto", *LAYOUTS):
        raise ConfigError(f"there is no layout {layout!r}; give auto, {', '.join(LAYOUTS)}")
    tables: list[Path] = []
    if table is not None:
        tables, layout = [folder / table], "table"
        if not tables[0].is_file() or tables[0].suffix.lower() not in TABLE_SUFFIXES:
            raise ConfigError(f"there is no table {table} (csv, tsv or jsonl) in {root}")
    defaults = Defaults(
        root=folder,
        audio_root=folder if audio_root is None else base.corpus_root(audio_root),
        speaker=speaker,
        cohort=cohort,
        language=language,
        etiology=etiology,
        split=split,
        untranscribed=untranscribed,
    )
    return base.Prepared(
        ABOUT, root, _rows, one_cohort=False, layout=layout, tables=tables, defaults=defaults
    )


def _rows(
    root: Path, report: base.Report, layout: str, tables: list[Path], defaults: Defaults
) -> base.Rows:
    layout = layout_of(root) if layout == "auto" else layout
    if layout == "table":
        for path in tables or _tables(root):
            yield from table_rows(path, defaults, report)
    elif layout == "kaldi":
        for path in base.find_named(root, "wav.scp"):
            yield from kaldi_rows(path.parent, defaults, report)
    elif layout == "librispeech":
        yield from _librispeech(defaults, report)
    else:
        yield from _pairs(defaults, report)


def layout_of(root: Path) -> str:
    """Return the name of the layout of a folder."""
    if base.find_named(root, "wav.scp"):
        return "kaldi"
    if _tables(root):
        return "table"
    chapters = base.walk(root, base.Report(), (".trans.txt",))
    return "librispeech" if next(chapters, None) else "pairs"


def _tables(root: Path) -> list[Path]:
    """Return the tables of recordings: in the folder itself, else one level below."""
    for pattern in ("*", "*/*"):
        paths = sorted(p for p in root.glob(pattern) if p.suffix.lower() in TABLE_SUFFIXES)
        if tables := [path for path in paths if path.is_file() and is_table(path)]:
            return tables
    return []


def _librispeech(defaults: Defaults, report: base.Report) -> base.Rows:
    rows = librispeech.read_rows(defaults.root, report, untranscribed=defaults.untranscribed)
    for row in rows:
        yield replace(
            row,
            cohort=defaults.cohort,
            language=defaults.language,
            etiology=defaults.etiology,
            split=defaults.split or row.split,
            source="generic",
        )


def _pairs(defaults: Defaults, report: base.Report) -> base.Rows:
    for path in base.walk(defaults.root, report, (*base.AUDIO_SUFFIXES, *_TEXT_SUFFIXES)):
        if path.suffix.lower() in _TEXT_SUFFIXES:
            if _sibling(path, base.AUDIO_SUFFIXES) is None:
                report.skip("a text without a recording beside it", path)
            continue
        beside = _sibling(path, _TEXT_SUFFIXES)
        text = " ".join((base.read_text(beside, report) or "").split()) if beside else None
        yield from defaults.row(path, defaults.name_of(path), text, report)


def _sibling(path: Path, suffixes: tuple[str, ...]) -> Path | None:
    """Return the file of the same name with one of these suffixes, in lower or upper case."""
    for suffix in suffixes:
        for candidate in (path.with_suffix(suffix), path.with_suffix(suffix.upper())):
            if candidate.is_file():
                return candidate
    return None
