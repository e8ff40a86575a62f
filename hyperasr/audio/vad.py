"""Silence what is not speech, in flat memory: nothing is cut, so that times stay true.

Energy alone needs no silencing: what it calls silence is silent. A voice activity detector also
finds noise without speech; such a stretch becomes digital silence where it is longer than the
longest pause a speaker may make, and never right beside speech.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.audio.segments import Pauses
from hyperasr.errors import MissingExtra

WINDOW = 512  # samples (32 ms) judged at once; what silero-vad takes at 16 kHz
THRESHOLD = 0.35
"""Probability from which a window is speech; under the 0.5 that is usual for typical speech."""
_WINDOW_S = WINDOW / SAMPLE_RATE

Speech = Callable[[np.ndarray], float]
"""A window (512,) float32, 16 kHz -> probability that someone speaks; windows come in order."""


class Silencer:
    """Pass a recording through, with long stretches without speech silenced.

    Args:
        speech: the detector.
        pauses: stretches up to `long_silence_s` stay, and `margin_s` beside speech.
    Attributes:
        silenced: first and one after the last sample of each stretch silenced so far.
    """

    def __init__(self, speech: Speech, pauses: Pauses) -> None:
        self.silenced: list[tuple[int, int]] = []
        self._speech, self._n_passed = speech, 0
        self._n_margin = max(1, round(pauses.margin_s / _WINDOW_S))
        self._n_long = max(2 * self._n_margin + 1, round(pauses.long_silence_s / _WINDOW_S))

    def n_silenced(self, first: int, last: int) -> int:
        """Return how many samples from `first` to `last - 1` were silenced."""
        return sum(max(0, min(last, b) - max(first, a)) for a, b in self.silenced)

    def __call__(self, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the recording (n_samples,) float32 in pieces; as many samples as came in."""
        waiting: deque[np.ndarray] = deque()  # without speech, and it may have to stay
        n_run = n_out = 0  # windows of this stretch without speech: in all, and handed on
        spoken = False
        for window in _windows(pieces):
            # The detector takes whole windows; what is missing from the last one is silence.
            if self._speech(np.pad(window, (0, WINDOW - len(window)))) >= THRESHOLD:
                for kept in (*waiting, window):
                    yield self._passed(kept)
                waiting.clear()
                n_run, n_out, spoken = 0, 0, True
                continue
            waiting.append(window)
            n_run += 1
            while n_run > self._n_long and len(waiting) > self._n_margin:
                beside = spoken and n_out < self._n_margin
                yield self._passed(waiting.popleft(), silence=not beside)
                n_out += 1
        for window in waiting:
            beside = n_run <= self._n_long or (spoken and n_out < self._n_margin)
            yield self._passed(window, silence=not beside)
            n_out += 1

    def _passed(self, window: np.ndarray, silence: bool = False) -> np.ndarray:
        first, self._n_passed = self._n_passed, self._n_passed + len(window)
        if not silence:
            return window
        if self.silenced and self.silenced[-1][1] == first:
            first = self.silenced.pop()[0]
        self.silenced.append((first, self._n_passed))
        return np.zeros_like(window)


def _windows(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the recording in windows; the last one may be shorter."""
    rest = np.zeros(0, dtype=np.float32)
    for piece in pieces:
        rest = np.concatenate([rest, piece])
        n_whole = len(rest) // WINDOW * WINDOW
        yield from rest[:n_whole].reshape(-1, WINDOW)
        rest = rest[n_whole:]
    if len(rest):
        yield rest


def silero() -> Callable[[], Speech]:
    """Return what makes the detector of the package silero-vad ready for the next recording.

    Raises:
        MissingExtra: it is not installed.
    """
    import torch

    n_threads = torch.get_num_threads()
    try:
        from silero_vad import load_silero_vad
    except ImportError as error:
        raise MissingExtra(
            "the voice activity detector needs silero-vad; install hyperasr[vad], or use "
            "--vad energy"
        ) from error
    finally:
        torch.set_num_threads(n_threads)  # importing it leaves one thread for everything

    model = load_silero_vad()

    @torch.no_grad()
    def speech(window: np.ndarray) -> float:
        return float(model(torch.from_numpy(np.ascontiguousarray(window)), SAMPLE_RATE))

    def ready() -> Speech:
        model.reset_states()
        return speech

    return ready
