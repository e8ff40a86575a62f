"""What comes of a recording: a transcript that writes itself in the common formats."""

from __future__ import annotations

import json
from dataclasses import dataclass

from hyperasr import types
from hyperasr.errors import HyperASRError
from hyperasr.transcription.formats import render, to_dict
from hyperasr.transcription.recordings import Recording

__all__ = ["Result", "Transcript"]


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
    absent.wav is not there
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
