"""Write results as plain text, JSON, SRT or WebVTT, and name the files they go to."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from hyperasr.errors import ConfigError
from hyperasr.recordings import Recording
from hyperasr.transcribe import Result
from hyperasr.types import Segment, Transcript

__all__ = ["FORMATS", "file_names", "render", "to_dict"]

FORMATS = ("txt", "json", "srt", "vtt")

_LONGEST_NAME = 180  # bytes; file systems take 255, and a temporary name is longer
_FORBIDDEN = '<>:"/\\|?*'  # on some system or other


def render(result: Result, form: str) -> str:
    """Return the content of a file, ending with a line end unless it is empty.

    Args:
        result: of a recording that could be transcribed.
        form: ``txt``, ``json``, ``srt`` or ``vtt``.
    Raises:
        ConfigError: another format, or a result without a transcript.
    """
    if result.transcript is None:
        raise ConfigError(f"{result.id} has no transcript to write")
    if form == "txt":
        return _text(result)
    if form == "json":
        return json.dumps(to_dict(result), ensure_ascii=False, indent=2) + "\n"
    if form == "srt":
        return _srt(result.transcript)
    if form == "vtt":
        return _vtt(result.transcript)
    raise ConfigError(f"no format {form!r}; there are {', '.join(FORMATS)}")


def to_dict(result: Result) -> dict[str, Any]:
    """Return plain JSON values: id, text, duration_s, segments with words, warnings.

    With a comparison `base` holds the same of the unadapted backbone; `reference` where known.
    """
    assert result.transcript is not None
    values: dict[str, Any] = {"id": result.id, **_transcript(result.transcript)}
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
    return [f"{name}.{form}" for name in _numbered(names)]


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


def _text(result: Result) -> str:
    assert result.transcript is not None
    if result.base is None:
        return f"{result.transcript.text}\n"
    lines = [f"unadapted: {result.base.text}", f"personalised: {result.transcript.text}"]
    if result.reference is not None:
        lines.insert(0, f"reference: {result.reference}")
    return "\n".join(lines) + "\n"


def _transcript(transcript: Transcript) -> dict[str, Any]:
    return {
        "text": transcript.text,
        "duration_s": round(transcript.duration_s, 3),
        "segments": [_segment(segment) for segment in transcript.segments],
    }


def _segment(segment: Segment) -> dict[str, Any]:
    return {
        "start_s": round(segment.start_s, 3),
        "end_s": round(segment.end_s, 3),
        "text": segment.text,
        "logprob": round(segment.logprob, 4),
        "words": [{"word": w, "probability": round(p, 4)} for w, p in segment.words],
    }


def _srt(transcript: Transcript) -> str:
    blocks = [
        f"{number}\n{_time(s.start_s, ',')} --> {_time(s.end_s, ',')}\n{_caption(s.text)}\n"
        for number, s in enumerate(_spoken(transcript), start=1)
    ]
    return "\n".join(blocks)


def _vtt(transcript: Transcript) -> str:
    blocks = [
        f"{_time(s.start_s, '.')} --> {_time(s.end_s, '.')}\n{_caption(s.text, markup=True)}\n"
        for s in _spoken(transcript)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _spoken(transcript: Transcript) -> list[Segment]:
    return [segment for segment in transcript.segments if segment.text]


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
