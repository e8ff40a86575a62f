"""What comes of a recording: a transcript, written as text, JSON, SRT or WebVTT and read back.

JSON follows `assets/transcript.schema.json`, whose version is in each file. CSV, Praat TextGrid and
CHAT are in `hyperasr.transcription.annotations`, HTML in `hyperasr.transcription.html_page`.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from hyperasr import types
from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.transcription.annotations import chat, csv_table, textgrid
from hyperasr.transcription.disfluency import pieces
from hyperasr.transcription.html_page import html_page
from hyperasr.transcription.recordings import Recording
from hyperasr.types import Edit, Segment, Unclear, Word

FORMATS = ("txt", "json", "srt", "vtt", "csv", "textgrid", "chat", "html")
TIMED_FORMATS = ("json", "csv", "textgrid", "chat", "html")
"""Formats that are written with the times of words; WebVTT holds them where there are any."""
SCHEMA_VERSION = 1
"""Of the JSON: raised when a field goes or changes its meaning; new fields do not raise it."""

_ANNOTATIONS = {"csv": csv_table, "textgrid": textgrid}
_SUFFIXES = {"textgrid": "TextGrid", "chat": "cha"}

T = TypeVar("T")

_MOST = 1e9  # of a number; in seconds 30 years
_LONGEST_NAME = 180  # bytes; file systems take 255, and a temporary name is longer
_FORBIDDEN = '<>:"/\\|?*'  # on some system or other


@dataclass(frozen=True)
class Transcript(types.Transcript):
    """The text of one recording, its segments and words; see `hyperasr.types.Transcript`.

    Each method takes `mode`: ``verbatim``, or ``clean`` for the text without fillers, part-words
    and repetitions, where it was asked for in transcribing.

    >>> transcript = model.transcribe(clip)
    >>> transcript.text == " ".join(word.text for word in transcript.words)
    True
    >>> print(transcript.to_srt().splitlines()[0])
    1
    """

    def to_text(self, mode: str = "verbatim", *, marks: bool = False) -> str:
        """Return the text; with `marks` each doubtful word is ``[?word]``."""
        return render(self._result, "txt", mode, marks=marks).removesuffix("\n")

    def to_srt(self, mode: str = "verbatim", *, marks: bool = False) -> str:
        """Return SubRip subtitles, one for each segment; `marks` as in `to_text`."""
        return render(self._result, "srt", mode, marks=marks)

    def to_vtt(self, mode: str = "verbatim") -> str:
        """Return WebVTT subtitles, with the times of words where they were asked for."""
        return render(self._result, "vtt", mode)

    def to_json(self, indent: int | None = 2) -> str:
        """Return JSON as `assets/transcript.schema.json` describes it."""
        return json.dumps(to_dict(self._result), ensure_ascii=False, indent=indent)

    @property
    def _result(self) -> Result:
        return Result(Recording(self.id), self)


@dataclass(frozen=True)
class Result:
    """What came of one recording.

    Attributes:
        recording: what was asked for.
        transcript: None where there is an error.
        base: the unadapted backbone's, where a comparison was asked for.
        error: why there is no transcript.

    >>> for result in model.transcribe([clip, "absent.wav"]):
    ...     print(result.error or result.transcript.language)
    en
    there is no file absent.wav; check the name
    """

    recording: Recording
    transcript: Transcript | None = None
    base: Transcript | None = None
    error: HyperASRError | None = None

    @property
    def id(self) -> str:
        """Name of the recording as the caller gave it."""
        return self.recording.id

    @property
    def reference(self) -> str | None:
        """What was said, where a manifest tells."""
        return self.recording.reference


def render(
    result: Result,
    form: str,
    mode: str = "verbatim",
    *,
    name: str | None = None,
    marks: bool = False,
) -> str:
    """Return the content of a file, ending with a line end unless it is empty.

    Args:
        result: of a recording that could be transcribed.
        form: one of `FORMATS`.
        mode: ``verbatim``, ``clean`` or ``both``, as in transcribing; subtitles show verbatim text
            for both.
        name: of the file, one of `file_names`, which CHAT repeats inside; None is the one that the
            recording would have alone.
        marks: write doubtful words of txt and srt as ``[?word]``; the other formats always mark
            them, each in its own way.
    Raises:
        ConfigError: another format, or a result without a transcript.
    """
    transcript = result.transcript
    if transcript is None:
        raise ConfigError(f"{result.id} has no transcript to write")
    if form == "txt":
        return "".join(
            f"{label}{shown if isinstance(shown, str) else _whole(shown, own, marks)}\n"
            for label, shown, own in labelled(result, mode)
        )
    if form == "json":
        return json.dumps(to_dict(result), ensure_ascii=False, indent=2) + "\n"
    if form == "srt":
        return _srt(transcript, mode, marks)
    if form == "vtt":
        return _vtt(transcript, mode)
    if form == "chat":
        name = file_names([result.recording], form)[0] if name is None else name
        return chat(transcript, PurePosixPath(name).stem)
    if form == "html":
        return html_page(result.recording, transcript, result.base, mode)
    if form in _ANNOTATIONS:
        return _ANNOTATIONS[form](transcript)
    raise ConfigError(f"no format {form!r}; there are {', '.join(FORMATS)}")


def marked_text(segment: Segment, mode: str = "verbatim", marks: bool = True) -> str:
    """Return the text of a segment as in `pieces`, its doubtful words as ``[?word]``."""
    return "".join(
        f"[?{part}]" if marks and word is not None and word.doubtful else part
        for part, word in pieces(segment, mode)
    )


def labelled(result: Result, mode: str) -> list[tuple[str, types.Transcript | str, str]]:
    """Return what a result shows as text, line by line.

    Returns:
        For each line a label, the transcript (or the reference itself) and the mode in which it is
        shown. All labels are of one width, so that the texts stand under each other; a lone
        transcript has none.
    """
    assert result.transcript is not None
    modes = ["verbatim", "clean"] if mode == "both" and result.transcript.clean is not None else []
    systems = {"": result.transcript}
    lines: list[tuple[str, types.Transcript | str, str]] = []
    if result.base is not None:
        systems = {"unadapted": result.base, "personalised": result.transcript}
        lines += [] if result.reference is None else [("reference", result.reference, mode)]
    for name, transcript in systems.items():
        for own in modes or [mode]:
            label = ", ".join(part for part in (name, own if modes else "") if part)
            lines.append((label, transcript, own))
    width = max(len(label) for label, _, _ in lines) + 1
    return [
        (f"{label + ':':<{width}} " if label else "", shown, own) for label, shown, own in lines
    ]


def shown_text(transcript: types.Transcript, mode: str) -> str:
    """Return the text a mode shows: clean where it is asked for alone, else verbatim."""
    clean = mode == "clean" and transcript.clean is not None
    return str(transcript.clean) if clean else transcript.text


def to_dict(result: Result) -> dict[str, Any]:
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
    below the folder they share, then with a number. Names of CHAT files hold nothing but letters,
    digits, hyphens and underscores: they stand in the file as well, where others are refused.
    """
    folder = _common_folder([Path(r.path) for r in recordings if r.path is not None])
    choices = [_choices(recording, folder, form) for recording in recordings]
    while True:
        # Some file systems do not tell upper from lower case.
        times = Counter(c[0].casefold() for c in choices)
        crowded = [c for c in choices if len(c) > 1 and times[c[0].casefold()] > 1]
        if not crowded:
            break
        for of_one in crowded:
            del of_one[0]
    return [f"{name}.{_SUFFIXES.get(form, form)}" for name in _numbered([c[0] for c in choices])]


def _choices(recording: Recording, folder: Path | None, form: str) -> list[str]:
    """Return names from the shortest to the one that tells most."""
    path = None if recording.path is None else Path(recording.path)
    if path is None or path != Path(recording.id):  # an array or a row of a manifest
        return [_safe(recording.id, form)]
    choices = [_safe(path.stem, form), _safe(path.name, form)]
    if folder is not None:
        parts = Path(os.path.abspath(path)).relative_to(folder).parts
        choices.append(str(PurePosixPath(*(_safe(part, form) for part in parts))))
    return choices


def _common_folder(paths: Sequence[Path]) -> Path | None:
    try:
        return Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))
    except ValueError:  # none, or on several drives
        return None


def _safe(name: str, form: str) -> str:
    """Return a name for one file that stays in its folder."""
    plain = "".join("_" if c in _FORBIDDEN or not c.isprintable() else c for c in name)
    if form == "chat":
        plain = "".join(
            c if c in "_-" or unicodedata.category(c)[0] in "LMN" else "_" for c in plain
        )
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


def _whole(transcript: types.Transcript, mode: str, marks: bool) -> str:
    if not (marks and transcript.segments):
        return shown_text(transcript, mode)
    return " ".join(text for s in transcript.segments if (text := marked_text(s, mode)))


def _transcript(transcript: types.Transcript) -> dict[str, Any]:
    clean = {} if transcript.clean is None else {"clean": transcript.clean}
    return {
        "text": transcript.text,
        **clean,
        "duration_s": round(transcript.duration_s, 3),
        "calibrated": transcript.calibrated,
        "segments": [segment_to_dict(segment) for segment in transcript.segments],
    }


def segment_to_dict(segment: Segment) -> dict[str, Any]:
    """Return one segment as it stands in the JSON of `to_dict`."""
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
    values["doubtful"] = word.doubtful
    if word.start is not None and word.end is not None:
        values |= {"start_s": round(word.start, 3), "end_s": round(word.end, 3)}
    if word.uncertainty is not None:
        values["uncertainty"] = round(word.uncertainty, 4)
    return values


def _plain(mark: Edit | Unclear) -> dict[str, Any]:
    """Return the fields that are known, times in milliseconds' precision."""
    values = {name: value for name, value in asdict(mark).items() if value is not None}
    return {n: round(v, 3) if isinstance(v, float) else v for n, v in values.items()}


def _srt(transcript: types.Transcript, mode: str, marks: bool) -> str:
    shown = [(s, text) for s in transcript.segments if (text := marked_text(s, mode, marks))]
    blocks = [
        f"{number}\n{_time(s.start_s, ',')} --> {_time(s.end_s, ',')}\n{_caption(text)}\n"
        for number, (s, text) in enumerate(shown, start=1)
    ]
    return "\n".join(blocks)


def _vtt(transcript: types.Transcript, mode: str) -> str:
    blocks = [
        f"{_time(s.start_s, '.')} --> {_time(s.end_s, '.')}\n{cue}\n"
        for s in transcript.segments
        if (cue := _cue(s, mode))
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _cue(segment: Segment, mode: str) -> str:
    """Return the words, each with the time it begins at, doubtful ones of the class `doubtful`."""
    parts = []
    latest = round(segment.start_s, 3)
    for text, word in pieces(segment, mode):
        shown = _caption(text)
        for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            shown = shown.replace(char, entity)
        if word is not None and word.doubtful:
            shown = f"<c.doubtful>{shown}</c>"
        start_s = word.start if word is not None and mode != "clean" else None
        # WebVTT wants them to grow and to lie inside the cue.
        if start_s is not None and latest < round(start_s, 3) < round(segment.end_s, 3):
            latest = round(start_s, 3)
            shown = f"<{_time(start_s, '.')}>{shown}"
        parts.append(shown)
    return "".join(parts)


def _caption(text: str) -> str:
    """Return text without line ends, in which nothing can be read as a time."""
    return re.sub(r"\s+", " ", text).replace("-->", "->")


def _time(seconds: float, point: str) -> str:
    ms = max(0, round(1000 * seconds))
    s, ms = divmod(ms, 1000)
    return f"{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}{point}{ms:03d}"


def from_dict(values: Any, recording: Recording) -> Result:
    """Return the result that `hyperasr.transcription.transcript.to_dict` made JSON of.

    Raises:
        ConfigError: it is no such JSON.
    """
    try:
        base = values.get("base")
        return Result(
            recording,
            _transcript_of(values, recording.id),
            None if base is None else _transcript_of(base, recording.id),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError("it is no transcript as hyperasr writes it in JSON") from error


def _transcript_of(values: Mapping[str, Any], id: str) -> Transcript:
    segments = tuple(map(_segment_of, values["segments"]))
    lines = tuple(map(str, values.get("warnings", ())))
    sure = bool(values["calibrated"])
    return _made(Transcript, values, id=id, segments=segments, warnings=lines, calibrated=sure)


def _segment_of(values: Mapping[str, Any]) -> Segment:
    names = {"text": "word", "start": "start_s", "end": "end_s"}
    words = tuple(
        _made(Word, word | {name: word.get(key) for name, key in names.items()})
        for word in values["words"]
    )
    edits = tuple(_made(Edit, edit) for edit in values.get("edits", ()))
    if not all(0 <= edit.first < edit.last <= len(words) for edit in edits):
        raise ValueError("an edit of words that are not there")
    unclear = tuple(_made(Unclear, one) for one in values.get("unclear", ()))
    return _made(Segment, values, words=words, edits=edits, unclear=unclear)


def _made(kind: type[T], values: Mapping[str, Any], **ready: Any) -> T:
    """Return a dataclass: what is ready, and each other field as its type says."""
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in values and field.name not in ready:
            value, (of_type, *or_none) = values[field.name], str(field.type).split(" | ")
            ready[field.name] = None if value is None and or_none else _AS[of_type](value)
    return kind(**ready)


def _number(value: Any) -> float:
    number = float(value)
    if not abs(number) <= _MOST:  # nor is NaN
        raise ValueError("a number that cannot be")
    return number


_AS: dict[str, Callable[[Any], Any]] = {"str": str, "int": int, "float": _number, "bool": bool}
