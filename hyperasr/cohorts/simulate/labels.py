"""What a simulation returns: the recording, both transcripts, events and word times."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hyperasr.audio.mel import SAMPLE_RATE


@dataclass(frozen=True)
class Event:
    """One labelled moment of atypical speech.

    Attributes:
        kind: such as `sound_repetition`, `block`, `pitch_break`, `palilalia`.
        start_s, end_s: times in the output recording, seconds.
        word_index: the word of `text` it belongs to, or None.
    """

    kind: str
    start_s: float
    end_s: float
    word_index: int | None


@dataclass(frozen=True)
class WordTime:
    """An intended word and where its (last, complete) utterance lies, seconds."""

    word: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Simulated:
    """A recording of a simulated speaker.

    Attributes:
        waveform: (n_samples,) float32, 16 kHz, peak at most 0.99.
        text: the intended words, exactly as given.
        verbatim: what is heard: `l- l- light`, `the the`, `um`.
        events: labelled moments in order of time; times refer to `waveform`.
        cohort: one of the simulated cohorts.
        severity: in [0, 1].
        words: times of the intended words; estimated, see `align`.
    """

    waveform: np.ndarray
    text: str
    verbatim: str
    events: tuple[Event, ...]
    cohort: str
    severity: float
    words: tuple[WordTime, ...]

    def labels(self) -> dict[str, Any]:
        """Return all but the waveform as plain values."""
        return {
            "simulated": True,
            "cohort": self.cohort,
            "severity": self.severity,
            "duration_s": round(len(self.waveform) / SAMPLE_RATE, 3),
            "text_clean": self.text,
            "text_verbatim": self.verbatim,
            "events": [asdict(event) for event in self.events],
            "words": [asdict(word) for word in self.words],
        }
