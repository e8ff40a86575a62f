"""Ways to bend log spectral envelopes (n_frames, 257): smoothing, formant shifts, nasality."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from hyperasr.cohorts.simulate.analysis import FREQUENCIES, Analysis

_DB = np.float32(np.log(10.0) / 20.0)  # natural log of magnitude per dB
_BIN_HZ = float(FREQUENCIES[1])
_LEVEL_SHARE = 0.4  # of the time constant of the shape


def formants(analysis: Analysis) -> np.ndarray:
    """Rough F1, F2, F3 of every frame: centres of gravity of the envelope in three bands.

    Returns:
        (n_frames, 3) hertz, median-filtered over 70 ms. Coarse by design: it steers a warp.
    """
    bands = ((250.0, 950.0), (950.0, 2500.0), (2300.0, 3600.0))
    emphasised = analysis.envelope + np.log(np.maximum(FREQUENCIES, 100.0) / 100.0)
    result = np.empty((analysis.n_frames, 3), dtype=np.float32)
    for i, (low, high) in enumerate(bands):
        inside = (low <= FREQUENCIES) & (high >= FREQUENCIES)
        part = emphasised[:, inside]
        weight = np.exp(3.0 * (part - part.max(axis=1, keepdims=True)))
        result[:, i] = (weight * FREQUENCIES[inside]).sum(axis=1) / weight.sum(axis=1)
    return ndimage.median_filter(result, (7, 1))


def speaker_mean(analysis: Analysis) -> np.ndarray:
    """Mean log envelope of voiced speech, level removed, (257,): a neutral vocal tract."""
    rows = analysis.envelope[analysis.voiced]
    if not len(rows):
        rows = analysis.envelope
    return (rows - rows.mean(axis=1, keepdims=True)).mean(axis=0)


def smooth_in_time(analysis: Analysis, sigma_s: float) -> np.ndarray:
    """Let articulation lag: smooth the envelope's shape over time, its level by a share of it.

    Silence does not count in the average, so that vowels do not fade into pauses.
    """
    if sigma_s <= 0.002:
        return analysis.envelope.copy()
    envelope = analysis.envelope
    level = envelope.mean(axis=1, keepdims=True)
    loud = np.percentile(analysis.level_db, 95)
    weight = 10.0 ** (np.clip(analysis.level_db - loud, -60.0, 0.0) / 30)
    weight = weight[:, None].astype(np.float32)

    def smooth(values: np.ndarray, frames: float) -> np.ndarray:
        return ndimage.gaussian_filter1d(values, frames, axis=0, mode="nearest", truncate=3.0)

    sigma = sigma_s * 100.0
    shape = smooth((envelope - level) * weight, sigma) / np.maximum(smooth(weight, sigma), 1e-6)
    slow = smooth(level * weight, _LEVEL_SHARE * sigma)
    slow /= np.maximum(smooth(weight, _LEVEL_SHARE * sigma), 1e-6)
    return shape + slow


def reduce_contrast(envelope: np.ndarray, mean: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Move each frame's shape towards a neutral one; its level stays.

    Args:
        envelope: (n_frames, 257).
        mean: (257,) neutral shape of level zero.
        amount: (n_frames,) share in [0, 1].
    """
    level = envelope.mean(axis=1, keepdims=True)
    return envelope + amount[:, None].astype(np.float32) * (mean - (envelope - level))


def warp(envelope: np.ndarray, place: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Move resonances: stretch the frequency axis so that `place` comes to lie at `goal`.

    Args:
        envelope: (n_frames, 257).
        place: (n_frames, 3) hertz, ascending formant frequencies.
        goal: (n_frames, 3) hertz; forced to be ascending.
    """
    nyquist = float(FREQUENCIES[-1])
    goal = goal.copy()
    goal[:, 0] = np.clip(goal[:, 0], 180.0, 1100.0)
    goal[:, 1] = np.clip(goal[:, 1], goal[:, 0] + 150.0, 3200.0)
    goal[:, 2] = np.clip(goal[:, 2], goal[:, 1] + 150.0, 4500.0)
    place = place.copy()
    place[:, 1] = np.maximum(place[:, 1], place[:, 0] + 100.0)
    place[:, 2] = np.maximum(place[:, 2], place[:, 1] + 100.0)
    n = len(envelope)
    ends = np.zeros((n, 1)), np.full((n, 1), nyquist)
    xs, ys = np.hstack([ends[0], goal, ends[1]]), np.hstack([ends[0], place, ends[1]])
    slope = np.diff(ys, axis=1) / np.diff(xs, axis=1)
    position = np.zeros(envelope.shape, dtype=np.float32)
    for k in range(4):
        run = np.clip(FREQUENCIES[None, :], xs[:, k, None], xs[:, k + 1, None]) - xs[:, k, None]
        position += (slope[:, k, None] * run).astype(np.float32)
    position /= _BIN_HZ
    low = np.clip(position.astype(np.intp), 0, envelope.shape[1] - 2)
    share = position - low
    left = np.take_along_axis(envelope, low, axis=1)
    right = np.take_along_axis(envelope, low + 1, axis=1)
    return left + share * (right - left)


def _bump(centre_hz: float, width_hz: float) -> np.ndarray:
    return 1.0 / (1.0 + ((FREQUENCIES - centre_hz) / (0.5 * width_hz)) ** 2)


def nasal_curve(amount: float, pole_hz: float, zero_hz: float) -> np.ndarray:
    """Log gain of a coupled nose (257,): poles near 250 to 300 and 1000 Hz, a zero between.

    Source: Hawkins and Stevens 1985, JASA 77; Chen 1997, JASA 102 (weaker F1, extra peaks).
    """
    curve = 10.0 * _bump(pole_hz, 160.0) + 4.0 * _bump(1000.0, 250.0)
    curve = curve - 15.0 * _bump(zero_hz, 320.0) - 5.0 * np.clip((FREQUENCIES - 1200) / 1500, 0, 1)
    return (amount * curve * _DB).astype(np.float32)


def murmur_curve() -> np.ndarray:
    """Log gain that makes a vowel a nasal murmur ("m"): strong at 250 Hz, weak above (257,)."""
    fall = -22.0 * np.clip((FREQUENCIES - 350.0) / 500.0, 0.0, 1.0)
    return ((6.0 * _bump(250.0, 200.0) + fall) * _DB).astype(np.float32)


def tilt_curve(db_per_octave: float) -> np.ndarray:
    """Log gain of a spectral tilt above 400 Hz (257,)."""
    octaves = np.log2(np.maximum(FREQUENCIES, 400.0) / 400.0)
    return (db_per_octave * octaves * _DB).astype(np.float32)
