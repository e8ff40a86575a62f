"""ArzEn: interviews in Egyptian Arabic with English switches; Kaldi files."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from hyperasr.cohorts.corpora import base

_ID = re.compile(r"(S\d+)-(C\d+-R\d+)_(\d+)-(\d+)$", re.I)
_EVENT = re.compile(r"\([A-Z _-]+\)|\[[A-Z _-]+\]|<[A-Z _-]+>|\b(?:HES|HUM|BREATH|COUGH|NOISE)\b")
_MARKS = str.maketrans("", "", "%=#@$+*()/")
_ALEF = str.maketrans("أإآٱ", "اااا")
_ARABIC = "cp1256"  # what such files are in when they are no UTF-8
_TATWEEL = "\u0640"

ABOUT = base.describe("arzen")


def prepare(root: base.AnyPath) -> base.Prepared:
    """Read ``ASR_files/{text,segments,utt2spk}``, ``recordings/Cxx-Ryy.WAV`` and ``splits/``.

    Recordings are found by their name, since ``wav.scp`` has the authors' own paths. Times come
    from ``segments``, or else from the utterance's id, in centiseconds.
    """
    return base.Prepared(ABOUT, root, _rows)


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


def _rows(root: Path, report: base.Report) -> base.Rows:
    recordings = {path.stem.lower(): path for path in base.walk(root, report, base.AUDIO_SUFFIXES)}
    splits = _splits(root, report)
    for folder in base.find_named(root, "ASR_files"):
        texts, segments, speakers = (
            base.read_pairs(folder / name, report, fallback=_ARABIC)
            for name in ("text", "segments", "utt2spk")
        )
        for name, raw in texts.items():
            match, times = _ID.match(name), segments.get(name, "").split()
            try:
                if len(times) == 3:
                    recording, start_s, end_s = times[0], float(times[1]), float(times[2])
                elif match is not None:
                    recording, start_s, end_s = match[2], int(match[3]) / 100, int(match[4]) / 100
                else:
                    raise ValueError
            except ValueError:
                report.skip("an utterance without times", name)
                continue
            text = clean(raw)
            if recording.lower() not in recordings:
                report.skip("the recording is listed but absent", name)
            elif not text:
                report.skip("noise, no words", name)
            else:
                yield ABOUT.row(
                    id=name,
                    path=recordings[recording.lower()],
                    text=text,
                    speaker=speakers.get(name, match[1] if match else recording),
                    start_s=start_s,
                    end_s=end_s,
                    split=splits.get(recording.lower(), base.NO_SPLIT),
                    extra={"text_source": "human", "raw_text": raw, "session": recording},
                )


def _splits(root: Path, report: base.Report) -> dict[str, str]:
    """Return the split of each recording."""
    splits: dict[str, str] = {}
    for folder in base.find_named(root, "splits"):
        for path in base.walk(folder, report):
            if path.stem.lower() in ("train", "dev", "test"):
                for name in (base.read_text(path, report, fallback=_ARABIC) or "").split():
                    splits[Path(name).stem.lower()] = path.stem.lower()
    return splits
