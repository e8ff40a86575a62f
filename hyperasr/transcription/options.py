"""How recordings are transcribed: settings alone, so that the command line can read them fast."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

from hyperasr.errors import ConfigError
from hyperasr.util.closest import closest
from hyperasr.util.config import check_types

AUTO = "auto"
"""As a language: find out which one is spoken."""

# Whisper hears 30 s at once; two seconds are left for a pause to cut at.
LONGEST_SEGMENT_S = {"full": 28.0, "trimmed": 10.0}
_CHUNK_S = 30.0


@dataclass(frozen=True)
class TranscribeOptions:
    """How recordings are transcribed."""

    batch_size: int = 16
    """Segments decoded together, at least 1, on a processor no more than 70 seconds of them; the
    text does not depend on it."""

    beam_size: int = 1
    """Hypotheses kept for each segment, at least 1; 1 is greedy."""

    language: str = "en"
    """Language that is spoken, by code or English name, for models that know several; auto finds it
    for each recording, from its first segment."""

    task: Literal["transcribe", "translate"] = "transcribe"
    """Write what was said, or translate it into English; only for models of several languages."""

    adapt: bool = True
    """Decode each segment with weights of its own; without, with the Whisper as it was published,
    which hears 30 s."""

    compare: bool = False
    """Decode with the unadapted Whisper as well, as published, beside the personalised
    transcript."""

    max_segment_s: float | None = None
    """Longest segment in seconds, 1 to 30; null is 10 for trimmed audio context, 28 for full."""

    mode: Literal["verbatim", "clean", "both"] = "verbatim"
    """Text as decoded, or without fillers, part-words and repetitions, or both."""

    word_times: bool = False
    """Find start and end of each word; formats that hold word times turn it on."""

    loop_guard: bool = True
    """Mark as [unclear] where the decoder runs away; real repetitions are kept."""

    temperatures: tuple[float, ...] = ()
    """Where a segment runs away or is very unsure, decode it again with tokens drawn at these
    temperatures, such as [0.2, 0.4, 0.6], until one is better; empty never does."""

    samples: int = 0
    """Posterior samples a segment that tell how much each word is in doubt; 0 draws none. Only for
    models with a distribution over their weights."""

    seed: int = 0
    """Of drawn tokens and samples, 0 or more; a segment draws the same in every batch."""

    prompt: str = ""
    """Text that comes before. The embedded adapters were trained without one and err a little more
    with it; for names use `expect`."""

    expect: str = ""
    """Words or names to expect, separated by commas: they are favoured where the sound leaves them
    open. Searches with 5 beams where beam_size is 1."""

    pauses: Literal["typical", "stuttering", "dysarthria"] = "typical"
    """How long a pause in speech may be: silence of 2, 5 or 4 seconds ends a segment."""

    vad: Literal["energy", "silero"] = "energy"
    """What tells speech from silence; silero (an extra) also silences noise without speech."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, least in (("batch_size", 1), ("beam_size", 1), ("samples", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        longest = self.max_segment_s
        if longest is not None and not (math.isfinite(longest) and 1 <= longest <= _CHUNK_S):
            raise ConfigError(f"max_segment_s is {longest}; give 1 to {_CHUNK_S:g} seconds")
        if self.compare and not self.adapt:
            raise ConfigError("compare sets the adapted model beside the other; it needs adapt")
        if self.samples and not self.adapt:
            raise ConfigError("samples are drawn of adapted weights; they need adapt")
        # A list would pass as well, but the options are to be hashable.
        object.__setattr__(self, "temperatures", tuple(self.temperatures))
        if not all(math.isfinite(t) and t > 0 for t in self.temperatures):
            raise ConfigError(f"temperatures are {list(self.temperatures)}; each must be above 0")

    def segment_s(self, audio_context: str) -> float:
        """Return the longest segment in seconds for a model with this audio context."""
        return self.max_segment_s or LONGEST_SEGMENT_S[audio_context]


class TranscribeKeywords(TypedDict, total=False):
    """The fields of `TranscribeOptions` as keywords, which editors complete and mypy checks."""

    batch_size: int
    beam_size: int
    language: str
    task: Literal["transcribe", "translate"]
    adapt: bool
    compare: bool
    max_segment_s: float | None
    mode: Literal["verbatim", "clean", "both"]
    word_times: bool
    loop_guard: bool
    temperatures: tuple[float, ...]
    samples: int
    seed: int
    prompt: str
    expect: str
    pauses: Literal["typical", "stuttering", "dysarthria"]
    vad: Literal["energy", "silero"]


def options_of(keywords: dict[str, Any]) -> TranscribeOptions:
    """Return the options of keywords.

    Raises:
        ConfigError: a keyword that is none, or a value out of range.
    """
    names = [field.name for field in fields(TranscribeOptions)]
    for name in keywords:
        if name not in names:
            close = closest(name, names)
            raise ConfigError(f"transcribe has no option {name!r}; did you mean {close!r}?")
    return TranscribeOptions(**keywords)
