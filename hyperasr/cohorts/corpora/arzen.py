"""ArzEn: interviews in Egyptian Arabic with English switches; Kaldi files."""

from __future__ import annotations

import os
import re
import unicodedata
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
    read_text,
    walk,
)
from hyperasr.types import Utterance

__all__ = ["clean", "describe", "prepare"]

_ID = re.compile(r"(S\d+)-(C\d+-R\d+)_(\d+)-(\d+)$", re.I)
_EVENT = re.compile(r"\([A-Z _-]+\)|\[[A-Z _-]+\]|<[A-Z _-]+>|\b(?:HES|HUM|BREATH|COUGH|NOISE)\b")
_MARKS = str.maketrans("", "", "%=#@$+*()/")
_ALEF = str.maketrans("أإآٱ", "اااا")
_TATWEEL = "\u0640"


def describe() -> Description:
    """Say what the corpus is and how to get it."""
    return Description(
        name="arzen",
        title="ArzEn Speech Corpus",
        licence="free for academic use, after a request (not confirmed by any file)",
        how_to_get="ask the authors, who are named in the paper",
        citation="Hamed, Vu and Abdennadher 2020, ArzEn: a speech corpus for code-switched "
        "Egyptian Arabic-English, LREC",
        languages=("ar", "en"),
        cohorts=("typical",),
        n_speakers=None,
        has_text=True,
    )


def prepare(root: str | os.PathLike[str], *, check_audio: bool = True) -> Prepared:
    """Read ``ASR_files/{text,segments,utt2spk}``, ``recordings/Cxx-Ryy.WAV`` and ``splits/``.

    Recordings are found by their name, since ``wav.scp`` has the authors' own paths. Times come
    from ``segments``, or else from the utterance's id, in centiseconds.
    """
    folder = corpus_root(root)
    return Prepared(
        folder,
        lambda report: _rows(folder, report),
        expects="ASR_files/text, recordings/Cxx-Ryy.WAV and splits/{train,dev,test}",
        check_audio=check_audio,
    )


def clean(text: str) -> str:
    """Return the words alone, in both scripts.

    Events, hesitations and the marks of the transcribers go; words of which they were not sure
    stay. Arabic without vowel signs and with one kind of alef.
    """
    words = _EVENT.sub(" ", text).translate(_MARKS)
    plain = "".join(
        c
        for c in words
        if not (unicodedata.category(c) == "Mn" and "ARABIC" in unicodedata.name(c))
    )
    return " ".join(plain.replace(_TATWEEL, "").translate(_ALEF).split())


def _rows(root: Path, report: Report) -> Iterator[Utterance]:
    recordings = {path.stem.lower(): path for path in walk(root, report, AUDIO_SUFFIXES)}
    splits = _splits(root, report)
    for folder in find_named(root, "ASR_files"):
        times = _kaldi(folder / "segments", report)
        speakers = _kaldi(folder / "utt2spk", report)
        for line in (_file(folder / "text", report)).splitlines():
            name, _, raw = line.strip().partition(" ")
            if not name:
                continue
            row = _row(name, raw, times.get(name), recordings, report)
            if row is None:
                continue
            recording, start_s, end_s, speaker = row
            text = clean(raw)
            if not text:
                report.skip("noise, no words", name)
                continue
            yield Utterance(
                id=name,
                path=str(recordings[recording.lower()]),
                text=text,
                speaker=speakers.get(name, speaker),
                start_s=start_s,
                end_s=end_s,
                language="ar",
                split=splits.get(recording.lower(), NO_SPLIT),
                source="arzen",
                extra={"text_source": "human", "raw_text": raw.strip(), "session": recording},
            )


def _row(
    name: str, raw: str, times: str | None, recordings: dict[str, Path], report: Report
) -> tuple[str, float, float, str] | None:
    """Return recording, start and end in seconds, and speaker, or None with a reason."""
    match = _ID.match(name)
    fields = times.split() if times else []
    try:
        if len(fields) == 3:
            recording, start_s, end_s = fields[0], float(fields[1]), float(fields[2])
        elif match is not None:
            recording, start_s, end_s = match[2], int(match[3]) / 100, int(match[4]) / 100
        else:
            raise ValueError
    except ValueError:
        report.skip("an utterance without times", name)
        return None
    if recording.lower() not in recordings:
        report.skip("the recording is listed but absent", name)
        return None
    return recording, start_s, end_s, match[1] if match else recording


def _kaldi(path: Path, report: Report) -> dict[str, str]:
    """Return the lines of a Kaldi file by their first field; none where there is no such file."""
    lines = _file(path, report).splitlines() if path.is_file() else []
    pairs = (line.strip().partition(" ") for line in lines)
    return {name: rest.strip() for name, _, rest in pairs if name}


def _file(path: Path, report: Report) -> str:
    return read_text(path, report, fallback="cp1256") or ""


def _splits(root: Path, report: Report) -> dict[str, str]:
    """Return the split of each recording."""
    splits: dict[str, str] = {}
    for folder in find_named(root, "splits"):
        for path in walk(folder, report):
            if path.stem.lower() in ("train", "dev", "test"):
                for name in _file(path, report).split():
                    splits[Path(name).stem.lower()] = path.stem.lower()
    return splits
