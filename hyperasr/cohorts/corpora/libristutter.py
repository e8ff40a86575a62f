"""LibriStutter: LibriSpeech with synthetic stuttering put in."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from hyperasr.cohorts.corpora import base

EVENTS = (
    *("clean", "interjection", "sound_repetition"),
    *("word_repetition", "phrase_repetition", "prolongation"),
)
"""Labels of the annotation by number."""

_AUDIO = re.compile(r"libristutter[ _]?audio", re.IGNORECASE)
_ANNOTATIONS = tuple(f"LibriStutter{gap}Annotation{s}" for gap in ("", " ", "_") for s in ("s", ""))
_NAME = re.compile(r"(\d+)-(\d+)-(\d+)")
_STUTTER = "STUTTER"
_DOUBTFUL_FROM = 7800

ABOUT = base.describe("libristutter")


def prepare(root: base.AnyPath, *, librispeech: base.AnyPath | None = None) -> base.Prepared:
    """Read LibriStutter below `root`.

    The text is what was meant, without the stuttering: LibriSpeech's own where `librispeech` has
    it, else the words of the annotation, which a recogniser made, errors included. The
    stuttering is synthetic: its domain is ``simulated``, and ``extra`` counts
    the events of each kind. Rows of speakers from 7800 on, reported misaligned in one mirror, are
    noted.

    Args:
        root: the unpacked corpus, one part or several.
        librispeech: folder with LibriSpeech's ``SPEAKER/CHAPTER/*.trans.txt``, at any depth.
    """
    texts = None if librispeech is None else base.corpus_root(librispeech)
    return base.Prepared(ABOUT, root, _rows, texts=texts)


def _rows(root: Path, report: base.Report, texts: Path | None) -> base.Rows:
    chapters = {} if texts is None else _chapters(texts, report)
    folders = [folder for name in _ANNOTATIONS for folder in base.find_named(root, name, report)]
    annotations = [folder for folder in folders if folder.is_dir()]
    chapter, lines = "", {}
    for path in base.walk(root, report, (".flac", ".wav")):
        named = _NAME.fullmatch(path.stem)
        below = _below_audio(path, root)
        if named is None or below is None:
            report.skip("not of the layout LibriStutter Audio/SPK/CHAP/SPK-CHAP-UTT.flac", path)
            continue
        name = str(below.with_suffix(".csv"))
        candidates = (base.listed_path(root, name, report, below=folder) for folder in annotations)
        annotation = next((file for file in candidates if file and file.is_file()), None)
        if annotation is None:
            report.skip("there is no annotation for the recording", path)
            continue
        words, counts = _annotation(annotation, report)
        if chapter != f"{named[1]}-{named[2]}":  # the walk goes chapter by chapter
            chapter = f"{named[1]}-{named[2]}"
            lines = base.read_pairs(chapters[chapter], report) if chapter in chapters else {}
        text = lines.get(path.stem)
        if text is None and texts is not None:
            report.note("LibriSpeech lacks the text; that of the annotation was taken")
        if int(named[1]) >= _DOUBTFUL_FROM:
            report.note("speakers from 7800 on are reported misaligned in one mirror")
        extra = {"text_source": "human" if text is not None else "recogniser"}
        yield ABOUT.row(
            id=f"libristutter/{path.stem}",
            path=path,
            text=" ".join(words) if text is None else text,
            speaker=f"libri-{named[1]}",
            domain="simulated",
            extra=extra | {event: str(n) for event, n in sorted(counts.items())},
        )


def _annotation(path: Path, report: base.Report) -> tuple[list[str], Counter[str]]:
    words: list[str] = []
    counts: Counter[str] = Counter()
    for row in base.read_table(path, report, header=("word", "start", "end", "label")):
        # Some writers put the label as 3.0.
        label = row["label"].partition(".")[0]
        if not label.isdigit() or int(label) >= len(EVENTS):
            report.skip("an annotation has a label that is not 0 to 5", path.name)
            continue
        if int(label):
            counts[EVENTS[int(label)]] += 1
        if row["word"].upper() != _STUTTER:
            words.append(row["word"])
    return words, counts


def _below_audio(path: Path, root: Path) -> Path | None:
    """Return a recording's path below the folder LibriStutter Audio."""
    parts = path.relative_to(root).parts
    for number, part in enumerate(parts[:-1]):
        if _AUDIO.fullmatch(part):
            return Path(*parts[number + 1 :])
    return None


def _chapters(folder: Path, report: base.Report) -> dict[str, Path]:
    files = base.walk(folder, report, (".trans.txt",))
    return {file.name.removesuffix(".trans.txt"): file for file in files}
