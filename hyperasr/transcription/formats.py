"""Write results as text, JSON, SRT or WebVTT, and name the files they go to.

JSON follows `assets/transcript.schema.json`, whose version is in each file. CSV, Praat TextGrid and
CHAT are in `hyperasr.transcription.annotations`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from hyperasr.errors import ConfigError
from hyperasr.transcription.annotations import chat, csv_table, textgrid
from hyperasr.transcription.recordings import Recording
from hyperasr.types import Edit, Segment, Transcript, Unclear, Word

__all__ = [
    "FORMATS",
    "SCHEMA_VERSION",
    "TIMED_FORMATS",
    "file_names",
    "render",
    "shown_text",
    "to_dict",
]

FORMATS = ("txt", "json", "srt", "vtt", "csv", "textgrid", "chat")
TIMED_FORMATS = ("json", "csv", "textgrid", "chat")
"""Formats that are written with the times of words; WebVTT holds them where there are any."""
SCHEMA_VERSION = 1
"""Of the JSON: raised when a field goes or changes its meaning; new fields do not raise it."""

_ANNOTATIONS = {"csv": csv_table, "textgrid": textgrid, "chat": chat}
_SUFFIXES = {"textgrid": "TextGrid", "chat": "cha"}

_LONGEST_NAME = 180  # bytes; file systems take 255, and a temporary name is longer
_FORBIDDEN = '<>:"/\\|?*'  # on some system or other


class Rendered(Protocol):
    """What is written: a `hyperasr.transcription.transcript.Result`, which uses this module."""

    @property
    def id(self) -> str: ...
    @property
    def transcript(self) -> Transcript | None: ...
    @property
    def base(self) -> Transcript | None: ...
    @property
    def reference(self) -> str | None: ...


def render(result: Rendered, form: str, mode: str = "verbatim") -> str:
    """Return the content of a file, ending with a line end unless it is empty.

    Args:
        result: of a recording that could be transcribed.
        form: one of `FORMATS`.
        mode: ``verbatim``, ``clean`` or ``both``, as in transcribing; subtitles show verbatim text
            for both.
    Raises:
        ConfigError: another format, or a result without a transcript.
    """
    transcript = result.transcript
    if transcript is None:
        raise ConfigError(f"{result.id} has no transcript to write")
    if form == "txt":
        return _text(result, mode)
    if form == "json":
        return json.dumps(to_dict(result), ensure_ascii=False, indent=2) + "\n"
    if form in ("srt", "vtt"):
        return (_srt if form == "srt" else _vtt)(transcript, mode)
    if form in _ANNOTATIONS:
        return _ANNOTATIONS[form](transcript)
    raise ConfigError(f"no format {form!r}; there are {', '.join(FORMATS)}")


def shown_text(transcript: Transcript, mode: str) -> str:
    """Return the text a mode shows: clean where it is asked for alone, else verbatim."""
    clean = mode == "clean" and transcript.clean is not None
    return str(transcript.clean) if clean else transcript.text


def to_dict(result: Rendered) -> dict[str, Any]:
    """Return plain JSON values, which `assets/transcript.schema.json` describes.

    With a comparison `base` holds the same of the unadapted backbone; `reference` where known.
    """
    assert result.transcript is not None
    values: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "id": result.id}
    values |= _transcript(result.transcript)
    values["discarded_s"] = round(result.transcript.discarded_s, 3)
    values["language"] = result.transcript.language
    if result.base is not None:
        values["base"] = _transcript(result.base)
    if result.reference is not None:
        values["reference"] = result.reference
    values["warnings"] = list(result.transcript.warnings)
    return values


def file_names(recordings: Sequence[Recording], form: str) -> list[str]:
    """Return one relative file name for each recording, no two the same.

    A recording is named by its stem; where several have one, by its whole name, then by its path
    below the folder they share, then with a number.
    """
    folder = _common_folder([Path(r.path) for r in recordings if r.path is not None])
    choices = [_choices(recording, folder) for recording in recordings]
    level = [0] * len(choices)
    while True:
        names = [c[min(k, len(c) - 1)] for c, k in zip(choices, level, strict=True)]
        # Some file systems do not tell upper from lower case.
        times = Counter(name.casefold() for name in names)
        crowded = [
            i
            for i, name in enumerate(names)
            if times[name.casefold()] > 1 and level[i] < len(choices[i]) - 1
        ]
        if not crowded:
            break
        for i in crowded:
            level[i] += 1
    return [f"{name}.{_SUFFIXES.get(form, form)}" for name in _numbered(names)]


def _choices(recording: Recording, folder: Path | None) -> list[str]:
    """Return names from the shortest to the one that tells most."""
    path = None if recording.path is None else Path(recording.path)
    if path is None or path != Path(recording.id):  # an array or a row of a manifest
        return [_safe(recording.id)]
    choices = [_safe(path.stem), _safe(path.name)]
    if folder is not None:
        parts = Path(os.path.abspath(path)).relative_to(folder).parts
        choices.append(str(PurePosixPath(*map(_safe, parts))))
    return choices


def _common_folder(paths: Sequence[Path]) -> Path | None:
    try:
        return Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))
    except ValueError:  # none, or on several drives
        return None


def _safe(name: str) -> str:
    """Return a name for one file that stays in its folder."""
    plain = "".join("_" if c in _FORBIDDEN or not c.isprintable() else c for c in name)
    cut = plain.encode()[:_LONGEST_NAME].decode(errors="ignore").strip(" ")
    return "_" + cut.lstrip(".") if not cut or cut.startswith(".") else cut


def _numbered(names: Sequence[str]) -> list[str]:
    taken = {name.casefold() for name in names}
    seen: set[str] = set()
    unique = []
    for name in names:
        new, number = name, 2
        while new.casefold() in seen or (new != name and new.casefold() in taken):
            new, number = f"{name}-{number}", number + 1
        seen.add(new.casefold())
        unique.append(new)
    return unique


def _text(result: Rendered, mode: str) -> str:
    transcript = result.transcript
    assert transcript is not None
    if result.base is None:
        if mode == "both" and transcript.clean is not None:
            return f"verbatim: {transcript.text}\nclean: {transcript.clean}\n"
        return f"{shown_text(transcript, mode)}\n"
    lines = [
        f"unadapted: {shown_text(result.base, mode)}",
        f"personalised: {shown_text(transcript, mode)}",
    ]
    if result.reference is not None:
        lines.insert(0, f"reference: {result.reference}")
    return "\n".join(lines) + "\n"


def _transcript(transcript: Transcript) -> dict[str, Any]:
    values: dict[str, Any] = {"text": transcript.text}
    if transcript.clean is not None:
        values["clean"] = transcript.clean
    return values | {
        "duration_s": round(transcript.duration_s, 3),
        "segments": [_segment(segment) for segment in transcript.segments],
    }


def _segment(segment: Segment) -> dict[str, Any]:
    values: dict[str, Any] = {
        "start_s": round(segment.start_s, 3),
        "end_s": round(segment.end_s, 3),
        "text": segment.text,
        "logprob": round(segment.logprob, 4),
        "words": [_word(word) for word in segment.words],
    }
    if segment.clean is not None:
        values |= {"clean": segment.clean, "edits": [_plain(edit) for edit in segment.edits]}
    if segment.unclear:
        values["unclear"] = [_plain(u) for u in segment.unclear]
    return values


def _word(word: Word) -> dict[str, Any]:
    values: dict[str, Any] = {"word": word.text, "probability": round(word.probability, 4)}
    if word.start is not None and word.end is not None:
        values |= {"start_s": round(word.start, 3), "end_s": round(word.end, 3)}
    if word.uncertainty is not None:
        values["uncertainty"] = round(word.uncertainty, 4)
    return values


def _plain(mark: Edit | Unclear) -> dict[str, Any]:
    """Return the fields that are known, times in milliseconds' precision."""
    values = {name: value for name, value in asdict(mark).items() if value is not None}
    return {n: round(v, 3) if isinstance(v, float) else v for n, v in values.items()}


def _srt(transcript: Transcript, mode: str) -> str:
    blocks = [
        f"{number}\n{_time(s.start_s, ',')} --> {_time(s.end_s, ',')}\n{_caption(text)}\n"
        for number, (s, text) in enumerate(_spoken(transcript, mode), start=1)
    ]
    return "\n".join(blocks)


def _vtt(transcript: Transcript, mode: str) -> str:
    blocks = []
    for segment, text in _spoken(transcript, mode):
        if mode != "clean" and any(word.start is not None for word in segment.words):
            line = _timed_caption(segment)
        else:
            line = _caption(text, markup=True)
        times = f"{_time(segment.start_s, '.')} --> {_time(segment.end_s, '.')}"
        blocks.append(f"{times}\n{line}\n")
    return "\n".join(["WEBVTT\n", *blocks])


def _timed_caption(segment: Segment) -> str:
    """Return words with the time each begins at, uncertain ones of the class `uncertain`."""
    parts = []
    latest = round(segment.start_s, 3)
    for word in segment.words:
        shown = _caption(word.text, markup=True)
        if word.doubtful:
            shown = f"<c.uncertain>{shown}</c>"
        # WebVTT wants them to grow and to lie inside the cue.
        if word.start is not None and latest < round(word.start, 3) < round(segment.end_s, 3):
            latest = round(word.start, 3)
            shown = f"<{_time(word.start, '.')}>{shown}"
        parts.append(shown)
    return " ".join(parts)


def _spoken(transcript: Transcript, mode: str) -> list[tuple[Segment, str]]:
    """Return the segments with something to show, and what."""
    clean = mode == "clean"
    pairs = [(s, s.clean if clean and s.clean is not None else s.text) for s in transcript.segments]
    return [(segment, text) for segment, text in pairs if text]


def _caption(text: str, markup: bool = False) -> str:
    """Return text on one line, in which nothing can be read as a time or as markup."""
    text = " ".join(text.split()).replace("-->", "->")
    if markup:
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text


def _time(seconds: float, point: str) -> str:
    ms = max(0, round(1000 * seconds))
    s, ms = divmod(ms, 1000)
    return f"{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}{point}{ms:03d}"
