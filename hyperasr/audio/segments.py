"""Cut long recordings at pauses, as they are read, in flat memory.

A recording that fits is one segment: a block of someone who stutters, or a long breath, is part of
the utterance. A longer one is cut in the longest pause of the second half of each stretch; silence
of seconds is left out. How many seconds is a preset: people who stutter block for long, people with
dysarthria take their time to breathe. Only what is fainter than `SILENCE_DBFS` is ever left out, so
soft speech beside loud speech is not lost; in a recording that is soft throughout, only what is
hardly louder than its own background. Hum does not count as sound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from hyperasr.audio.loudness import LEVEL_SAMPLES, SILENCE_DBFS, LevelMeter
from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.errors import ConfigError

_SMOOTHING = 10  # frames (0.2 s)
_TAIL = 50  # frames (1 s) that are not left over as a segment of their own
_NO_PAUSES_DB = 6.0  # loud and faint frames that differ by less show no pauses
_SOFT_DBFS = -30.0  # where no 20 ms are louder, a voice is soft; the demo clips reach -6 to -26
_FAINTEST_DBFS = -90.0  # 10 dB over the rounding of 16 bits
_OVER_BACKGROUND_DB = 6.0
_PAUSE_SHARE = 0.3  # of the way from the faint to the loud level, in decibels


@dataclass(frozen=True)
class Pauses:
    """What counts as a pause. Our choice, after the lengths that the presets name."""

    long_silence_s: float = 2.0
    """Silence that ends a segment, and the shortest that is ever left out."""
    shortest_pause_s: float = 0.16
    """Shortest pause to cut a long segment at; closures of plosives are shorter."""
    margin_s: float = 0.24
    """Silence left around speech."""

    def frames(self) -> tuple[int, int, int]:
        """Return the three in frames of 20 ms."""
        values = (self.long_silence_s, self.shortest_pause_s, self.margin_s)
        long_silence, shortest, margin = (round(v * SAMPLE_RATE / LEVEL_SAMPLES) for v in values)
        return long_silence, shortest, margin


PAUSES = {
    "typical": Pauses(),
    # Blocks of severe stuttering last seconds, in the middle of a word.
    "stuttering": Pauses(long_silence_s=5.0, shortest_pause_s=0.6, margin_s=0.5),
    # Short breath groups, long breaths, weak onsets and releases of words.
    "dysarthria": Pauses(long_silence_s=4.0, shortest_pause_s=0.3, margin_s=0.5),
}
"""Presets by name."""


def cut_at_pauses(
    pieces: Iterable[np.ndarray], max_segment_s: float, pauses: Pauses | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a recording into segments.

    Args:
        pieces: the recording in order, each (n_samples,) float32, 16 kHz, of any length.
        max_segment_s: no segment is longer, in seconds; at least 1.
        pauses: what counts as one.
    Yields:
        First sample of the segment within the recording, and its waveform (n_samples,) float32.
        Segments are in order and do not overlap. A recording that is not longer than
        `max_segment_s` is one segment, exactly as it came.
    Raises:
        ConfigError: `max_segment_s` is under 1.
    """
    if not max_segment_s >= 1:
        raise ConfigError(f"max_segment_s is {max_segment_s}; it must be at least 1 second")
    longest = int(max_segment_s * SAMPLE_RATE) // LEVEL_SAMPLES  # frames
    pauses = pauses or Pauses()
    source = iter(pieces)
    buffer, start, whole, ended = np.zeros(0, dtype=np.float32), 0, True, False
    meter, levels, loudest = LevelMeter(), np.zeros(0), -np.inf
    unmeasured: list[np.ndarray] = []  # what fits as it is needs no levels
    while True:
        while not ended and len(buffer) <= (longest + _TAIL) * LEVEL_SAMPLES:
            piece = next(source, None)
            ended = piece is None
            piece = buffer[:0] if piece is None else piece
            buffer = np.concatenate([buffer, piece]) if len(buffer) else piece
            unmeasured.append(piece)
        if whole and len(buffer) <= max_segment_s * SAMPLE_RATE:
            if len(buffer):
                yield start, buffer
            return
        whole = False
        if unmeasured:
            levels = np.append(levels, meter(np.concatenate(unmeasured), last=ended))
            unmeasured = []
        ahead = levels[: longest + _TAIL]
        loudest = max(loudest, ahead.max())
        silence = _silence_dbfs(ahead, loudest)
        skipped, n = _next_segment(buffer, ahead, silence, longest, pauses)
        if n:
            yield start, buffer[:n]
        buffer, start = buffer[skipped + n :], start + skipped + n
        levels = levels[(skipped + n) // LEVEL_SAMPLES :]
        if ended and not len(buffer):
            return


def _silence_dbfs(levels: np.ndarray, loudest: float) -> float:
    """Return the level under which there is silence; `loudest` is the highest until now."""
    if not SILENCE_DBFS <= loudest < _SOFT_DBFS:
        return SILENCE_DBFS
    return min(SILENCE_DBFS, max(_FAINTEST_DBFS, float(levels.min()) + _OVER_BACKGROUND_DB))


def _next_segment(
    buffer: np.ndarray, levels: np.ndarray, silence: float, longest: int, pauses: Pauses
) -> tuple[int, int]:
    """Return how many samples of silence to leave out first, and how many the segment has.

    One of the two is 0.
    """
    long_silence, shortest_pause, margin = pauses.frames()
    heard = np.flatnonzero(levels >= silence)
    if not len(heard):
        keep = min(margin, len(levels) - 1) * LEVEL_SAMPLES  # speech may begin right after it
        everything = len(buffer) <= longest * LEVEL_SAMPLES
        return (len(buffer), 0) if everything else (len(levels) * LEVEL_SAMPLES - keep, 0)
    if heard[0] > margin:
        return int(heard[0] - margin) * LEVEL_SAMPLES, 0
    gaps = np.diff(np.append(heard, len(levels)))
    at = np.flatnonzero(gaps > long_silence)
    if len(at) and heard[at[0]] + 1 + margin <= longest:
        return 0, (int(heard[at[0]]) + 1 + margin) * LEVEL_SAMPLES
    if len(buffer) <= longest * LEVEL_SAMPLES:
        return 0, len(buffer)
    latest = min(longest, max(longest // 2 + 1, len(buffer) // LEVEL_SAMPLES - _TAIL))
    return 0, _best_pause(levels, silence, longest // 2, latest, shortest_pause) * LEVEL_SAMPLES


def _best_pause(levels: np.ndarray, silence: float, first: int, last: int, shortest: int) -> int:
    """Return the frame to cut at, in [first, last]: mid of the longest pause, or the faintest."""
    faint, loud = np.percentile(levels, [10, 95])
    if loud - faint >= _NO_PAUSES_DB:
        threshold = max(silence, faint + _PAUSE_SHARE * (loud - faint))
        quiet = np.concatenate([[False], levels[first : last + 1] < threshold, [False]])
        edges = np.flatnonzero(quiet[1:] != quiet[:-1]).reshape(-1, 2)
        lengths = edges[:, 1] - edges[:, 0]
        if len(lengths) and lengths.max() >= shortest:
            begin, end = edges[
                len(lengths) - 1 - int(lengths[::-1].argmax())
            ]  # the later of equals
            return min(first + int(begin + end) // 2, last)
    smooth = np.convolve(levels, np.full(_SMOOTHING, 1 / _SMOOTHING), mode="same")
    return first + int(smooth[first : last + 1].argmin())
