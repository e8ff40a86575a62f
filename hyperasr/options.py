"""How recordings are transcribed: settings alone, so that the command line can read them fast."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hyperasr.errors import ConfigError

__all__ = ["LONGEST_SEGMENT_S", "TranscribeOptions"]

# Whisper hears 30 s at once; two seconds are left for a pause to cut at.
LONGEST_SEGMENT_S = {"full": 28.0, "trimmed": 10.0}
_CHUNK_S = 30.0


@dataclass(frozen=True)
class TranscribeOptions:
    """How recordings are transcribed."""

    batch_size: int = 16
    """Segments decoded together, at least 1; the text does not depend on it."""

    beam_size: int = 1
    """Hypotheses kept for each segment, at least 1; 1 is greedy."""

    language: str = "en"
    """Language that is spoken, for models that know several."""

    adapt: bool = True
    """Decode each segment with weights of its own; without, with the unadapted backbone."""

    compare: bool = False
    """Decode with the unadapted backbone as well, beside the personalised transcript."""

    normalise_loudness: bool = True
    """Bring the speech of each segment to one level, which quiet speech needs."""

    max_segment_s: float | None = None
    """Longest segment in seconds, 1 to 30; null is 10 for trimmed audio context, 28 for full."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "beam_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least 1")
        longest = self.max_segment_s
        if longest is not None and not (math.isfinite(longest) and 1 <= longest <= _CHUNK_S):
            raise ConfigError(f"max_segment_s is {longest}; give 1 to {_CHUNK_S:g} seconds")
        if self.compare and not self.adapt:
            raise ConfigError("compare sets the adapted model beside the other; it needs adapt")

    def segment_s(self, audio_context: str) -> float:
        """Return the longest segment in seconds for a model with this audio context."""
        return self.max_segment_s or LONGEST_SEGMENT_S[audio_context]
