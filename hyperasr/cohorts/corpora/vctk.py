"""VCTK: English sentences read by 110 speakers with many accents; both releases."""

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
    read_text,
    walk,
)
from hyperasr.errors import ConfigError
from hyperasr.types import Utterance

__all__ = ["describe", "prepare"]

_NAME = re.compile(r"([ps]\d+)_(\d+)(?:_(mic[12]))?$", re.I)


def describe() -> Description:
    """Say what the corpus is and how to get it."""
    return Description(
        name="vctk",
        title="CSTR VCTK Corpus",
        licence="CC BY 4.0 (release 0.92; ODC-BY in older ones)",
        how_to_get="download from datashare.ed.ac.uk (handle 10283/3443)",
        citation="Yamagishi, Veaux and MacDonald 2019, CSTR VCTK Corpus: English multi-speaker "
        "corpus for CSTR voice cloning toolkit (version 0.92), University of Edinburgh",
        languages=("en",),
        cohorts=("typical",),
        n_speakers=110,
        has_text=True,
    )


def prepare(
    root: str | os.PathLike[str], *, mic: str = "mic1", check_audio: bool = True
) -> Prepared:
    """Read ``wav48*/pNNN/pNNN_NNN[_micN].{wav,flac}`` with ``txt/pNNN/pNNN_NNN.txt``.

    Args:
        root: folder of the corpus.
        mic: of release 0.92, which has two recordings of every sentence: ``mic1``, ``mic2`` or
            ``all`` (the two share a group). Recordings of one microphone only are always taken.
        check_audio: open every recording's header.
    """
    if mic not in ("mic1", "mic2", "all"):
        raise ConfigError(f"vctk has no microphone {mic!r}; give mic1, mic2 or all")
    folder = corpus_root(root)
    return Prepared(
        folder,
        lambda report: _rows(folder, mic, report),
        expects="wav48*/pNNN/pNNN_NNN.wav or _mic1.flac, and txt/pNNN/pNNN_NNN.txt",
        check_audio=check_audio,
    )


def _rows(root: Path, mic: str, report: Report) -> Iterator[Utterance]:
    texts = [path for path in find_named(root, "txt") if path.is_dir()]
    people = _speakers(root, report)
    for path in walk(root, report, (".wav", ".flac")):
        name = _NAME.match(path.stem)
        if name is None:
            report.skip("a name that is not pNNN_NNN", path)
            continue
        speaker, number, own_mic = name[1].lower(), name[2], (name[3] or "").lower()
        if own_mic and mic not in ("all", own_mic):
            continue
        text = _text(texts, path, f"{name[1]}_{number}.txt", report)
        if text is None:
            # p315 lost its texts; the newer release says so.
            report.skip("no transcript", path)
            continue
        extra = {"text_source": "prompt", **people.get(speaker, {})}
        if own_mic:
            extra |= {"mic": own_mic, "group": f"{speaker}_{number}"}
        yield Utterance(
            id=path.stem,
            path=str(path),
            text=text,
            speaker=speaker,
            split=NO_SPLIT,
            source="vctk",
            extra=extra,
        )


def _text(folders: list[Path], audio: Path, name: str, report: Report) -> str | None:
    """Return the text of an utterance, from the text folders or from beside the recording."""
    for folder in (*(folder / audio.parent.name for folder in folders), *folders, audio.parent):
        if (folder / name).is_file():
            text = read_text(folder / name, report)
            return None if text is None else " ".join(text.split())
    return None


def _speakers(root: Path, report: Report) -> dict[str, dict[str, str]]:
    """Return age, gender and accent from ``speaker-info.txt``: columns of varying width."""
    people: dict[str, dict[str, str]] = {}
    for table in find_named(root, "speaker-info.txt")[:1]:
        for line in (read_text(table, report) or "").splitlines()[1:]:
            fields = line.split()
            if len(fields) < 3:
                continue
            # The oldest release leaves the p out.
            speaker = f"p{fields[0]}" if fields[0].isdigit() else fields[0].lower()
            people[speaker] = {"age": fields[1], "gender": fields[2].lower()}
            if len(fields) > 3:
                people[speaker]["accent"] = fields[3]
    return people
