"""SEAME: spontaneous Mandarin with English switches, from Singapore and Malaysia (LDC2015S04)."""

from __future__ import annotations

import re
from pathlib import Path

from hyperasr.cohorts.corpora import base
from hyperasr.types import Utterance

_PHASES = ("phaseii", "phasei")  # the second is the revised one
_DEV_SETS = ("dev_man", "dev_sge")
_TOLERANCE_CS = 3
# Breath, laughter and other noise of the speaker; words that nobody understood.
_NOISE = re.compile(r"[(<]\s*(?:pp\w+|v-noise|noise|unk[a-z ]*|unl)\s*[)>]|\bpp[lbco]\b", re.I)
_WIDE = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)}
_LANGUAGES = {"en": "en", "zh": "zh", "cs": "zh"}
_Times = dict[str, list[tuple[int, int, str]]]

ABOUT = base.describe("seame")


def prepare(root: base.AnyPath, *, dev_sets: base.AnyPath | None = None) -> base.Prepared:
    """Read ``{conversation,interview}/audio/*.flac`` and ``transcript/{phaseI,phaseII}/*.txt``.

    Lines are ``id, start, end[, language], text`` between tabs, times in milliseconds. A recording
    transcribed in both phases is taken from the second. Where the language is given, it is in
    ``extra["tag"]``; ``CS`` (switching) counts as Mandarin.

    Args:
        root: folder of the corpus.
        dev_sets: folder of the usual test sets (Kaldi folders ``dev_man`` and ``dev_sge``), by
            default looked for below `root`. An utterance within 3 centiseconds of one of theirs
            has its name as split, all others ``train``; without, there are no splits.
    """
    lists = None if dev_sets is None else base.corpus_root(dev_sets)
    return base.Prepared(ABOUT, root, _rows, lists=lists)


def clean(text: str) -> str:
    """Return the words alone: no marks of noise and of words not understood, narrow Latin."""
    return " ".join(_NOISE.sub(" ", text.translate(_WIDE)).split())


def _rows(root: Path, report: base.Report, lists: Path | None) -> base.Rows:
    dev = _dev_times(lists or root, report)
    recordings = {
        path.stem.lower(): path
        for path in base.walk(root, report, base.AUDIO_SUFFIXES)
        if path.parent.name.lower() == "audio"
    }
    done: set[str] = set()
    for phase in _PHASES:
        here: set[str] = set()
        for path in base.walk(root, report, (".txt",)):
            if path.parent.name.lower() != phase or path.parent.parent.name.lower() != "transcript":
                continue
            for line in (base.read_text(path, report, fallback="gb18030") or "").splitlines():
                fields = _fields(line, phase, path, report)
                if fields is None or fields[0] in done:
                    continue
                here.add(fields[0])
                row = _row(fields, recordings, dev, report)
                if row is not None:
                    yield row
        done |= here


def _fields(line: str, phase: str, path: Path, report: base.Report) -> tuple[str, ...] | None:
    """Return recording, start, end, language and text of a line, or None with a reason."""
    fields = [field.strip() for field in line.split("\t")]
    if not any(fields):
        return None
    if len(fields) == 3:
        report.skip("a line without transcript", f"{path.name}: {fields[0]}")
        return None
    wanted = 5 if phase == "phaseii" else 4
    # A few lines of the first phase have a language all the same.
    if len(fields) not in (wanted, 5) or not (fields[1].isdigit() and fields[2].isdigit()):
        report.skip("a line that is not id, start, end, language, text", f"{path.name}: {line}")
        return None
    language = fields[3] if len(fields) == 5 else ""
    return fields[0].lower(), fields[1], fields[2], language, fields[-1]


def _row(
    fields: tuple[str, ...], recordings: dict[str, Path], dev: _Times, report: base.Report
) -> Utterance | None:
    recording, start_ms, end_ms, tag, raw = fields
    start, end = round(int(start_ms) / 10), round(int(end_ms) / 10)
    speaker = _speaker(recording)
    name = f"{speaker}-{recording}-{start:06d}-{end:06d}"
    text = clean(raw)
    if recording not in recordings:
        report.skip("the recording is listed but absent", name)
        return None
    if not text:
        report.skip("noise, no words", name)
        return None
    sexes = [c for c in recording.split("_")[0] if c in "mf"]
    extra = {"text_source": "human", "raw_text": raw, "session": recording}
    extra |= {"gender": sexes[-1] if sexes else "", "tag": tag.upper()}
    return ABOUT.row(
        id=name,
        path=recordings[recording],
        text=text,
        speaker=speaker,
        start_s=int(start_ms) / 1000,
        end_s=int(end_ms) / 1000,
        language=_LANGUAGES.get(tag.lower(), "zh"),
        split=_split(recording, start, end, dev),
        extra=extra,
    )


def _speaker(recording: str) -> str:
    """Return who speaks in a recording such as 01nc01fbx_0101 or ni01max_0101."""
    first = recording.split("_")[0]
    return first[2:-2] if first[:1].isdigit() else first[:5]


def _dev_times(root: Path, report: base.Report) -> _Times:
    """Return start, end (centiseconds) and set of the utterances of the test sets."""
    times: _Times = {}
    for name in _DEV_SETS:
        for folder in base.find_named(root, name):
            text = base.read_text(folder / "text", report) if (folder / "text").is_file() else None
            for line in (text or "").splitlines():
                parts = line.split(maxsplit=1)[0].lower().split("-") if line.strip() else []
                if len(parts) != 4 or not (parts[2].isdigit() and parts[3].isdigit()):
                    if line.strip():
                        report.skip(
                            "a line of a test set that is not speaker-recording-start-end", line
                        )
                    continue
                times.setdefault(parts[1], []).append((int(parts[2]), int(parts[3]), name))
    return times


def _split(recording: str, start: int, end: int, dev: _Times) -> str:
    if not dev:
        return base.NO_SPLIT
    for first, last, name in dev.get(recording, ()):
        if abs(first - start) < _TOLERANCE_CS and abs(last - end) < _TOLERANCE_CS:
            return name
    return "train"
