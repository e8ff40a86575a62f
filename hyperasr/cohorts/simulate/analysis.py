"""Take a recording apart: fundamental frequency, glottal marks, spectral envelope, level.

Everything is computed once per recording, over all frames at a time, on one 10 ms grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import fft, ndimage, signal

SAMPLE_RATE = 16_000
HOP = 160  # samples between frames: 10 ms
N_ENVELOPE = 512  # transform length of the envelope: 257 bins of 31.25 Hz
FREQUENCIES = np.linspace(0.0, SAMPLE_RATE / 2, N_ENVELOPE // 2 + 1).astype(np.float32)

F0_MIN_HZ, F0_MAX_HZ = 65.0, 420.0
FLOOR_DB = -100.0


@dataclass(frozen=True)
class Analysis:
    """A recording on the 10 ms grid.

    Attributes:
        waveform: (n_samples,) float32.
        f0_hz: (n_frames,) fundamental frequency, interpolated through unvoiced frames.
        voiced: (n_frames,) bool.
        marks: (n_marks,) samples of one glottal cycle each, ascending; voiced stretches only.
        envelope: (n_frames, 257) natural log of the spectral envelope's magnitude.
        level_db: (n_frames,) level in dB relative to full scale.
        active: (n_frames,) bool, whether somebody speaks.
        f0_median_hz: median over voiced frames (120 where nothing is voiced).
        speech_db: level of the active frames (power mean), dB.
    """

    waveform: np.ndarray
    f0_hz: np.ndarray
    voiced: np.ndarray
    marks: np.ndarray
    envelope: np.ndarray
    level_db: np.ndarray
    active: np.ndarray
    f0_median_hz: float
    speech_db: float

    @property
    def n_frames(self) -> int:
        """Number of 10 ms frames."""
        return len(self.level_db)

    @property
    def duration_s(self) -> float:
        """Length of the recording in seconds."""
        return len(self.waveform) / SAMPLE_RATE

    def frame_at(self, time_s: np.ndarray) -> np.ndarray:
        """Index of the frame nearest to each time."""
        frames = np.rint(np.asarray(time_s) * (SAMPLE_RATE / HOP)).astype(np.intp)
        return np.clip(frames, 0, self.n_frames - 1)


def _frames(x: np.ndarray, length: int, hop: int) -> np.ndarray:
    padded = np.pad(x, (length // 2, length // 2 + hop))
    return sliding_window_view(padded, length)[::hop][: len(x) // hop + 1]


def _level_db(waveform: np.ndarray) -> np.ndarray:
    frames = _frames(waveform, 2 * HOP, HOP)
    power = np.einsum("ij,ij->i", frames, frames) / (2 * HOP)
    return 10.0 * np.log10(np.maximum(power, 10.0 ** (FLOOR_DB / 10)))


def _activity(level_db: np.ndarray) -> np.ndarray:
    """Frames near the loud ones and above the floor, without clicks; short gaps are speech."""
    loud, floor = np.percentile(level_db, [95, 5])
    if loud < -75.0:
        return np.zeros(len(level_db), dtype=bool)
    threshold = max(loud - 35.0, min(floor + 8.0, loud - 18.0))
    active = ndimage.binary_opening(level_db > threshold, np.ones(3))
    active |= ndimage.binary_closing(np.pad(active, 8), np.ones(7))[8:-8]
    runs, n_runs = ndimage.label(ndimage.binary_dilation(active, np.ones(11)))
    if n_runs > 1:
        # a short sound with 100 ms of silence around it is a click or a smack of the lips
        length = ndimage.sum_labels(active, runs, np.arange(n_runs + 1))
        active &= length[runs] >= 7
    return np.asarray(active)


def _best_lag(correlation: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Lag of the highest peak (parabolic) and its strength, favouring short lags a little."""
    lags = np.arange(low, high)
    score = correlation[:, low:high] - 0.04 * np.log2(lags / low)
    best = np.clip(score.argmax(axis=1) + low, low + 1, high - 2)
    rows = np.arange(len(best))
    left, mid, right = (correlation[rows, best + d] for d in (-1, 0, 1))
    bend = left - 2 * mid + right
    shift = np.where(bend < -1e-6, 0.5 * (left - right) / np.where(bend < -1e-6, bend, -1.0), 0.0)
    return best + np.clip(shift, -0.5, 0.5), mid


def _track_f0(waveform: np.ndarray, level_db: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Autocorrelation tracker with the window's own correlation divided out.

    The second look searches only around the recording's median, which removes octave errors.
    Source: Boersma 1993, "Accurate short-term analysis of the fundamental frequency and the
    harmonics-to-noise ratio of a sampled sound", IFA Proceedings 17.
    """
    rate, length = SAMPLE_RATE // 2, 360
    half = signal.resample_poly(waveform, 1, 2).astype(np.float32)
    frames = _frames(half, length, HOP // 2)[: len(level_db)]
    frames = np.pad(frames, ((0, len(level_db) - len(frames)), (0, 0)))
    window = np.hanning(length).astype(np.float32)
    low, high = int(rate / F0_MAX_HZ), int(rate / F0_MIN_HZ)
    power = np.abs(fft.rfft((frames - frames.mean(1, keepdims=True)) * window, 512)) ** 2
    correlation = fft.irfft(power, 512)[:, : high + 1]
    own = fft.irfft(np.abs(fft.rfft(window, 512)) ** 2, 512)[: high + 1]
    correlation = correlation / np.maximum(correlation[:, :1], 1e-9) / (own / own[0])

    lag, strength = _best_lag(correlation, low, high)
    loud = level_db > np.percentile(level_db, 95) - 30.0
    sure = loud & (strength > 0.75)
    if sure.sum() >= 5:
        centre = np.median(lag[sure])
        around = max(low, int(centre / 1.9)), min(high, int(centre * 1.8) + 3)
        lag, strength = _best_lag(correlation, *around)
    voiced = (strength > 0.45) & loud & (level_db > -70.0)
    voiced = ndimage.binary_opening(ndimage.binary_closing(voiced, np.ones(3)), np.ones(4))
    if not voiced.any():
        return np.full(len(lag), 120.0), voiced, 120.0
    f0 = ndimage.median_filter(rate / lag, 5)
    at = np.flatnonzero(voiced)
    return np.interp(np.arange(len(f0)), at, f0[at]), voiced, float(np.median(f0[at]))


def _walk(y: np.ndarray, mark: int, end: int, f0: np.ndarray, direction: int) -> list[int]:
    """From one mark to the next peak a period away, until `end`."""
    marks: list[int] = []
    while True:
        period = SAMPLE_RATE / f0[min(mark // HOP, len(f0) - 1)]
        near, far = int(0.75 * period), int(1.25 * period) + 1
        low, high = (mark + near, mark + far) if direction > 0 else (mark - far, mark - near)
        if (high > end) if direction > 0 else (low < end):
            return marks
        mark = low + int(y[low:high].argmax())
        marks.append(mark)


def _pitch_marks(waveform: np.ndarray, f0: np.ndarray, voiced: np.ndarray) -> np.ndarray:
    """One mark per glottal cycle: peaks of the low-passed waveform, a period apart."""
    smooth = ndimage.uniform_filter1d(ndimage.uniform_filter1d(waveform, 11), 11)
    smooth = smooth - ndimage.uniform_filter1d(smooth, 401)
    y = smooth if np.mean(smooth**3) >= 0 else -smooth  # the sharper side
    edges = np.flatnonzero(np.diff(np.pad(voiced.astype(np.int8), 1)))
    marks: list[int] = []
    for start, stop in edges.reshape(-1, 2):
        a, b = max(0, start * HOP - HOP // 2), min(len(y), stop * HOP - HOP // 2)
        if b - a < 2 * HOP:
            continue
        strongest = a + int(y[a:b].argmax())
        left = _walk(y, strongest, a, f0, -1)
        marks += [*left[::-1], strongest, *_walk(y, strongest, b, f0, 1)]
    return np.asarray(marks, dtype=np.intp)


def _envelope(waveform: np.ndarray, f0_median_hz: float) -> np.ndarray:
    """Cepstrally smoothed log spectrum lifted onto the harmonics' peaks.

    Source: Roebel and Rodet 2005, "Efficient spectral envelope estimation and its application
    to pitch shifting and envelope preservation", DAFx (the true envelope; two iterations here).
    """
    window = np.hanning(N_ENVELOPE).astype(np.float32)
    window /= np.sqrt(np.sum(window**2))
    spectrum = fft.rfft(_frames(waveform, N_ENVELOPE, HOP) * window, axis=1)
    log_magnitude = 0.5 * np.log(spectrum.real**2 + spectrum.imag**2 + np.float32(1e-9))
    order = int(min(50, 0.75 * SAMPLE_RATE / f0_median_hz))
    n_bins = log_magnitude.shape[1]
    lifter = np.zeros(n_bins, dtype=np.float32)
    lifter[:order] = 0.5 + 0.5 * np.cos(np.pi * np.arange(order) / order)
    lifter[: order // 2] = 1.0
    envelope = log_magnitude
    for iteration in range(3):
        raised = log_magnitude if iteration == 0 else np.maximum(log_magnitude, envelope)
        envelope = fft.idct(fft.dct(raised, type=1, axis=1) * lifter, type=1, axis=1)
    return envelope


def analyse(waveform: np.ndarray) -> Analysis:
    """Analyse a recording.

    Args:
        waveform: (n_samples,) float32, 16 kHz; at least one sample.
    """
    level_db = _level_db(waveform)
    f0, voiced, median = _track_f0(waveform, level_db)
    active = _activity(level_db)
    spoken = 10.0 ** (level_db[active] / 10) if active.any() else np.array([10.0**-10])
    return Analysis(
        waveform=waveform,
        f0_hz=f0,
        voiced=voiced,
        marks=_pitch_marks(waveform, f0, voiced),
        envelope=_envelope(waveform, median),
        level_db=level_db,
        active=active,
        f0_median_hz=median,
        speech_db=float(10.0 * np.log10(spoken.mean())),
    )
