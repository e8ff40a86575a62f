"""AS-70 (StammerTalk, AISHELL-6A): Mandarin conversations and voice commands, stuttered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hyperasr.cohorts.corpora import base

_LINE = re.compile(r"(\d+(?:\.\d+)?)[\s,]+(\d+(?:\.\d+)?)[\s,]+(\S.*)")
_SPEAKER = re.compile(r"[A-Za-z]{0,2}\d{2,5}")
_TAGS = re.compile(r"<[^<>]*>|＜[^＜＞]*＞")
_BRACKETS = str.maketrans("【】［］", "[][]")
_SEVERITY = {"mild": 0.25, "moderate": 0.5, "severe": 0.75}
_FLAGS = ("p", "b", "r", "wr", "i")
_CATEGORIES = {"A": "conversation", "B": "interviewer", "P": "commands"}
_CHINESE = "gb18030"  # what such files are in when they are no UTF-8

ABOUT = base.describe("as70")


def prepare(root: base.AnyPath, *, keep_interviewer: bool = False) -> base.Prepared:
    """Read the ASR release (annotations and audio by speaker) or the SED release below `root`.

    `text` is as said, `text_clean` without repeated words and interjections. An annotation
    belongs to the recording of the same stem. In conversations side B is left out: the code of
    the SED release takes it for the interviewer; which side of the ASR release is the interviewee
    is not stated. Splits come from ``train_dev_test.json``; severity from ``level_split.json``
    (mild 0.25, moderate 0.5, severe 0.75).

    Args:
        root: folder with the unpacked archives and, if wanted, the two JSON files.
        keep_interviewer: keep side B, as a speaker without stuttering.
    """
    return base.Prepared(ABOUT, root, _rows, keep_interviewer=keep_interviewer)


def clean_text(text: str) -> tuple[str, str]:
    """Return what was said and what was meant.

    Marks: ``[ ]`` around repeated words, ``/p`` prolongation, ``/b`` block, ``/r`` sound
    repetition, ``/i`` interjection (of the character before it), ``< >`` privacy and overlap,
    ``*`` unclear. Both results are without them.
    """
    text = _TAGS.sub("", text.translate(_BRACKETS)).replace("*", "")
    said = re.sub(r"/[pbri]", "", text).replace("[", "").replace("]", "")
    meant = re.sub(r"\[[^\]]*\]", "", text)
    meant = re.sub(r"[^\x00-\x7f](?:/[pbr])*/i", "", meant)
    meant = re.sub(r"/[pbri]", "", meant).replace("[", "").replace("]", "")
    return " ".join(said.split()), " ".join(meant.split())


def _rows(root: Path, report: base.Report, keep_interviewer: bool) -> base.Rows:
    audio: dict[str, dict[str, Path]] = {}
    for path in base.walk(root, report, (".wav", ".flac")):
        audio.setdefault(path.parent.name, {})[path.stem.lower()] = path
    splits, levels = _splits(root, report), _levels(root, report)
    for path in base.walk(root, report, (".txt", ".csv")):
        if path.suffix.lower() == ".csv" and path.parent.name.lower() == "ref":
            speaker = path.stem
            lines = _sed_lines(path, audio.get(speaker, {}), report)
        elif path.suffix.lower() == ".txt" and _SPEAKER.fullmatch(path.parent.name):
            speaker = path.parent.name
            lines = _asr_lines(path, audio.get(speaker, {}), report)
        else:
            continue
        for name, recording, times, raw, extra in lines:
            is_other = extra["task"] == "interviewer"
            if is_other and not keep_interviewer:
                report.skip("the interviewer's side (B)", name)
                continue
            said, meant = clean_text(raw)
            yield ABOUT.row(
                id=f"as70/{speaker}/{name}",
                path=recording,
                text=said,
                text_clean=meant or None,
                start_s=times[0],
                end_s=times[1],
                speaker=f"{speaker}-B" if is_other else speaker,
                typical=is_other,
                severity=levels.get(_number(speaker)),
                split=splits.get(_number(speaker), base.NO_SPLIT),
                extra=extra | {"text_source": "human", "raw_text": raw, "group": speaker},
            )


_Line = tuple[str, Path, tuple[float, float], str, dict[str, str]]
"""Name in the id, recording, start and end in seconds, marked text, extra."""


def _asr_lines(path: Path, audio: dict[str, Path], report: base.Report) -> Iterator[_Line]:
    recording = audio.get(path.stem.lower())
    if recording is None:
        report.skip(
            "there is no recording of the annotation's stem", f"{path.parent.name}/{path.name}"
        )
        return
    text = base.read_text(path, report, fallback=_CHINESE)
    stem = path.stem.upper()
    conversation = stem.startswith("D")
    side = next((c for c in stem[1:] if c in "AB"), "") if conversation else ""
    task = ("interviewer" if side == "B" else "conversation") if conversation else "commands"
    extra = {"task": task, "side": side}
    for number, line in enumerate((text or "").split("\n"), start=1):
        match = _LINE.fullmatch(line.strip())
        if match:
            times = (float(match[1]), float(match[2]))
            yield f"{path.stem}/{number:04d}", recording, times, match[3].strip(), extra
        elif line.strip():
            report.skip("a line is not START END TEXT", f"{path.name}, line {number}")


def _sed_lines(path: Path, audio: dict[str, Path], report: base.Report) -> Iterator[_Line]:
    if len(audio) != 1:
        n = "several recordings" if audio else "no recording"
        report.skip(f"{n} for the reference of a speaker", path.name)
        return
    recording = next(iter(audio.values()))
    for number, row in enumerate(base.read_table(path, report, fallback=_CHINESE), start=1):
        values = list(row.values())  # only the first column's name is known for sure
        try:
            times = (_seconds(values[0]), _seconds(values[1]))
        except (ValueError, IndexError):
            report.skip("a row's times are no numbers", f"{path.name}, row {number}")
            continue
        if len(values) != 9 or values[2] not in _CATEGORIES:
            report.skip(
                "a row is not START, END, A|B|P, five flags, TEXT", f"{path.name}, {number}"
            )
            continue
        extra = {"task": _CATEGORIES[values[2]]} | dict(zip(_FLAGS, values[3:8], strict=True))
        yield f"{recording.stem}/{number:04d}", recording, times, values[8], extra


def _seconds(value: str) -> float:
    """Read seconds, or minutes and hours before them with colons."""
    total = 0.0
    for part in value.split(":"):
        total = 60 * total + float(part)
    return total


def _splits(root: Path, report: base.Report) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split, speakers in _json(root, "train_dev_test.json", report).items():
        splits |= {_number(speaker): split for speaker in speakers}
    return splits


def _levels(root: Path, report: base.Report) -> dict[str, float]:
    levels: dict[str, float] = {}
    for level, splits in _json(root, "level_split.json", report).items():
        if level.lower() not in _SEVERITY:
            report.skip("level_split.json has a level that is not known", level)
            continue
        for speakers in splits.values():
            levels |= {_number(speaker): _SEVERITY[level.lower()] for speaker in speakers}
    return levels


def _json(root: Path, name: str, report: base.Report) -> dict[str, Any]:
    for path in base.find_named(root, name, report)[:1]:
        try:
            values = json.loads(base.read_text(path, report) or "null")
        except ValueError:
            values = None
        if isinstance(values, dict) and all(isinstance(v, list | dict) for v in values.values()):
            return values
        report.skip(f"{name} is not what it should be", name)
    return {}


def _number(speaker: str | int) -> str:
    """Return a speaker's id without leading zeros, which JSON numbers do not keep."""
    return str(speaker).strip().lstrip("0") or "0"
