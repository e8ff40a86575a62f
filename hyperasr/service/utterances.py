"""Sound as it comes becomes utterances: where one begins, and after which pause it is over."""

from __future__ import annotations

from collections import deque

import numpy as np

from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.audio.vad import THRESHOLD, WINDOW, Speech

PAUSES_S: dict[str, float | None] = {
    "typical": 0.8,
    # A block of severe stuttering lasts seconds, and nobody is to be cut off in one.
    "stuttering": 4.0,
    "dysarthria": 3.0,
    "hold": None,
}
"""Silence that ends an utterance, in seconds, by preset; None: only the speaker ends it."""

_BEFORE = round(0.5 * SAMPLE_RATE / WINDOW)  # windows kept before speech: weak onsets
_AFTER = round(0.3 * SAMPLE_RATE / WINDOW)  # and after it
_SHORTEST = 3  # windows of speech (0.1 s); less is a click

Spoken = tuple[float, np.ndarray]
"""Start of an utterance in seconds of all that was heard, and its waveform (n_samples,)."""


class Utterances:
    """Cuts sound into utterances.

    Args:
        pause: a preset, one of `PAUSES_S`.
        speech: tells speech from silence; not needed for ``hold``.
        longest_s: an utterance ends there by itself, in seconds.
    """

    def __init__(self, pause: str, speech: Speech | None, longest_s: float) -> None:
        seconds = PAUSES_S[pause]
        self._n_pause = None if seconds is None else round(seconds * SAMPLE_RATE / WINDOW)
        self._speech = speech
        self._n_longest = round(longest_s * SAMPLE_RATE / WINDOW)
        self._rest = np.zeros(0, np.float32)
        self._before: deque[np.ndarray] = deque(maxlen=_BEFORE)
        self._windows: list[np.ndarray] = []
        self._n_heard = 0  # windows, of all
        self._n_until_speech_ends = self._n_speech = 0  # windows of this utterance

    @property
    def current(self) -> np.ndarray | None:
        """What was heard of the utterance that goes on (n_samples,); None where nobody speaks."""
        return np.concatenate(self._windows) if self._is_speech() else None

    def feed(self, samples: np.ndarray) -> list[Spoken]:
        """Hear more, and return the utterances that are over with it.

        Args:
            samples: (n_samples,) float32, 16 kHz, of any length.
        """
        sound = np.concatenate([self._rest, samples])
        n_whole = len(sound) // WINDOW * WINDOW
        self._rest = sound[n_whole:]
        over = [self._heard(window) for window in sound[:n_whole].reshape(-1, WINDOW)]
        return [spoken for spoken in over if spoken is not None]

    def end(self) -> Spoken | None:
        """End the utterance that goes on, and return it; None where nobody speaks."""
        if self._n_pause is None and len(self._rest):
            self._windows.append(self._rest)
            self._n_heard += 1
        self._rest = np.zeros(0, np.float32)
        return self._over(len(self._windows))

    def _heard(self, window: np.ndarray) -> Spoken | None:
        self._n_heard += 1
        if self._n_pause is None or self._speech is None:
            self._windows.append(window)
        else:
            spoken = self._speech(window) >= THRESHOLD
            if not (self._windows or spoken):
                self._before.append(window)
                return None
            if not self._windows:
                self._windows.extend(self._before)
                self._before.clear()
            self._windows.append(window)
            if spoken:
                self._n_speech += 1
                self._n_until_speech_ends = len(self._windows)
            elif len(self._windows) - self._n_until_speech_ends >= self._n_pause:
                return self._over(self._n_until_speech_ends + _AFTER)
        return self._over(len(self._windows)) if len(self._windows) >= self._n_longest else None

    def _is_speech(self) -> bool:
        return bool(self._windows) and (self._n_pause is None or self._n_speech >= _SHORTEST)

    def _over(self, n: int) -> Spoken | None:
        """Return the first `n` windows as an utterance; what follows may begin the next one."""
        windows, is_speech = self._windows[:n], self._is_speech()
        start = self._n_heard - len(self._windows)
        self._before.extend(self._windows[n:])
        self._windows, self._n_speech, self._n_until_speech_ends = [], 0, 0
        if not is_speech:
            return None
        return start * WINDOW / SAMPLE_RATE, np.concatenate(windows)
