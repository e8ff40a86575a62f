"""What comes of a recording: a transcript that writes itself in the common formats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperasr import types
from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.transcription.formats import render, to_dict
from hyperasr.transcription.recordings import Recording

_MOST = 1e9  # of a number; in seconds 30 years


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


def from_dict(values: Any, recording: Recording) -> Result:
    """Return the result that `hyperasr.transcription.formats.to_dict` made JSON of.

    Args:
        values: of JSON, perhaps with other words in it.
        recording: what it is the text of.
    Raises:
        ConfigError: it is no such JSON.
    """
    try:
        base = values.get("base")
        return Result(
            recording,
            _transcript(values, recording.id),
            None if base is None else _transcript(base, recording.id),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError("it is no transcript as hyperasr writes it in JSON") from error


def _transcript(values: Mapping[str, Any], id: str) -> Transcript:
    return Transcript(
        id,
        str(values["text"]),
        tuple(_segment(segment) for segment in values["segments"]),
        _number(values["duration_s"]),
        tuple(str(line) for line in values.get("warnings", ())),
        _text(values.get("clean")),
        _number(values.get("discarded_s", 0.0)),
        str(values.get("language", "en")),
        bool(values["calibrated"]),
    )


def _segment(values: Mapping[str, Any]) -> types.Segment:
    words = tuple(_word(word) for word in values["words"])
    edits = tuple(_edit(edit) for edit in values.get("edits", ()))
    if not all(0 <= edit.first < edit.last <= len(words) for edit in edits):
        raise ValueError("an edit of words that are not there")
    return types.Segment(
        _number(values["start_s"]),
        _number(values["end_s"]),
        str(values["text"]),
        float(values["logprob"]),
        words,
        edits,
        _text(values.get("clean")),
        tuple(
            types.Unclear(
                _number(u["start_s"]),
                _number(u["end_s"]),
                str(u["reason"]),
                str(u["text"]),
                int(u["word"]),
            )
            for u in values.get("unclear", ())
        ),
    )


def _word(values: Mapping[str, Any]) -> types.Word:
    return types.Word(
        str(values["word"]),
        float(values["probability"]),
        _number_or_none(values.get("start_s")),
        _number_or_none(values.get("end_s")),
        _number_or_none(values.get("uncertainty")),
    )


def _edit(values: Mapping[str, Any]) -> types.Edit:
    return types.Edit(
        int(values["first"]),
        int(values["last"]),
        str(values["kind"]),
        str(values["text"]),
        str(values.get("replacement", "")),
        _number_or_none(values.get("start_s")),
        _number_or_none(values.get("end_s")),
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number_or_none(value: Any) -> float | None:
    return None if value is None else _number(value)


def _number(value: Any) -> float:
    number = float(value)
    if not abs(number) <= _MOST:  # nor is NaN
        raise ValueError("a number that cannot be")
    return number
