"""How loud a waveform is where someone speaks: silence, gain without clipping, and a hash."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from hyperasr.audio.mel import SAMPLE_RATE

__all__ = [
    "LEVEL_SAMPLES",
    "SILENCE_DBFS",
    "active_level_dbfs",
    "content_hash",
    "frame_levels_dbfs",
    "is_silent",
    "normalise_loudness",
]

SILENCE_DBFS = -60.0  # 10 dB over faint hiss (-70), 10 dB under very quiet speech (-50)

LEVEL_SAMPLES = SAMPLE_RATE // 50  # 20 ms, the length of a level measurement
_TINY_POWER = 1e-20  # -200 dBFS, in place of the logarithm of 0
_SUSTAINED_FRAMES = 15  # 0.3 s in all: louder is a door or a cough, not the voice
_OUTLIER_DB = 10.0  # over the sustained level
_ACTIVE_DB = 20.0  # under the sustained level; fainter is pause
_NOISE_FRAMES = 15  # 0.3 s; in less, a vowel may be as steady
_NOISE_SWING_DB = 3.0  # white noise swings by 1, running speech by 10 and more
_NOISE_PITCH = 0.35  # normalised autocorrelation; white noise reaches 0.25, a steady vowel 0.9
_PITCH_HZ = (70, 400)
_PITCH_SAMPLES = 2 * LEVEL_SAMPLES  # 40 ms: three periods of a low voice
_MAX_PITCH_FRAMES = 512
_PEAK = 0.99
_LIMITER_SAMPLES = SAMPLE_RATE // 200  # 5 ms


def is_silent(waveform: np.ndarray, threshold_dbfs: float = SILENCE_DBFS) -> bool:
    """Say whether nobody can be heard.

    A waveform is silent where its loudest 20 ms are fainter than the threshold, or where it is
    steady hiss of any level: at least 0.3 s that never leave their median level by 3 dB and have
    no trace of a pitch. Anything else may be speech, however noisy. An offset (DC) does not
    count. Ask before `normalise_loudness`, which would raise hiss as it raises speech.

    Args:
        waveform: (n_samples,) float32, 16 kHz.
        threshold_dbfs: in decibels under full scale (RMS of a full-scale square wave: 0).
    """
    levels = _levels_dbfs(waveform)
    if len(levels) == 0 or float(levels.max()) < threshold_dbfs:
        return True
    return _is_steady_noise(waveform, levels)


def active_level_dbfs(waveform: np.ndarray) -> float:
    """Measure the level of the speech alone.

    The RMS over the frames of 20 ms that are at most 20 dB under, and 10 dB over, the level that
    is exceeded for 0.3 s in all: pauses and single bangs do not count.

    Args:
        waveform: (n_samples,) float32, 16 kHz.
    Returns:
        Decibels under full scale; -200 for digital silence or no samples.
    """
    levels = np.sort(_levels_dbfs(waveform))[::-1]
    if len(levels) == 0:
        return float(10 * np.log10(_TINY_POWER))
    sustained = levels[min(_SUSTAINED_FRAMES, len(levels) // 4)]
    active = levels[(levels >= sustained - _ACTIVE_DB) & (levels <= sustained + _OUTLIER_DB)]
    return float(10 * np.log10(np.mean(10 ** (active / 10))))


def normalise_loudness(
    waveform: np.ndarray, target_dbfs: float = -23.0, max_gain_db: float = 40.0
) -> np.ndarray:
    """Bring the speech to a common level: hypophonic (quiet) speech is otherwise lost.

    Peaks that the gain would carry over full scale are turned down by a limiter with 5 ms of
    lookahead, so that a click does not keep the speech quiet.

    Args:
        waveform: (n_samples,) float32, 16 kHz.
        target_dbfs: level of the speech afterwards, see `active_level_dbfs`.
        max_gain_db: no waveform is raised by more.
    Returns:
        (n_samples,) float32, within [-0.99, 0.99]; a silent waveform comes back as it is.
    """
    if is_silent(waveform):
        return waveform
    gain_db = min(target_dbfs - active_level_dbfs(waveform), max_gain_db)
    raised = waveform.astype(np.float32) * np.float32(10 ** (gain_db / 20))
    return _limit(raised)


def frame_levels_dbfs(waveform: np.ndarray) -> np.ndarray:
    """Return the level of each 20 ms around its mean (n_frames,); a begun frame counts.

    Args:
        waveform: (n_samples,) float32, 16 kHz.
    """
    n_frames = -(-len(waveform) // LEVEL_SAMPLES)
    padded = np.zeros(n_frames * LEVEL_SAMPLES)
    padded[: len(waveform)] = waveform
    power = padded.reshape(n_frames, LEVEL_SAMPLES).var(axis=1)
    return 10 * np.log10(np.maximum(power, _TINY_POWER))


def content_hash(waveform: np.ndarray) -> str:
    """Return the SHA-256, 64 hex digits, of the samples as little-endian float32."""
    return hashlib.sha256(np.ascontiguousarray(waveform, dtype="<f4").tobytes()).hexdigest()


def _levels_dbfs(waveform: np.ndarray) -> np.ndarray:
    """Return the RMS level of each 20 ms around its mean."""
    samples = waveform.astype(np.float64)
    if len(samples) == 0:
        return samples
    starts = np.arange(0, len(samples), LEVEL_SAMPLES)
    if len(starts) > 1 and len(samples) % LEVEL_SAMPLES:
        starts = starts[:-1]  # the rest joins the last whole frame
    sizes = np.diff(np.append(starts, len(samples)))
    offset = np.add.reduceat(samples, starts) / sizes
    power = np.add.reduceat(samples**2, starts) / sizes - offset**2
    return 10 * np.log10(np.maximum(power, _TINY_POWER))


def _is_steady_noise(waveform: np.ndarray, levels: np.ndarray) -> bool:
    if len(levels) < _NOISE_FRAMES:
        return False
    if float(np.abs(levels - np.median(levels)).max()) > _NOISE_SWING_DB:
        return False
    return float(np.quantile(_periodicity(waveform), 0.95)) < _NOISE_PITCH


def _periodicity(waveform: np.ndarray) -> np.ndarray:
    """Return how well some pitch explains each frame: 1 for a steady vowel, 0.2 for noise."""
    frames = torch.from_numpy(waveform.astype(np.float32)).unfold(0, _PITCH_SAMPLES, LEVEL_SAMPLES)
    frames = frames[:: -(-len(frames) // _MAX_PITCH_FRAMES)]
    window = torch.hann_window(_PITCH_SAMPLES)
    # Divided by that of the window, as in Boersma (1993, IFA Proceedings 17, 97-110).
    correlation = _autocorrelation(frames * window) / _autocorrelation(window)
    first, last = SAMPLE_RATE // _PITCH_HZ[1], SAMPLE_RATE // _PITCH_HZ[0]
    energy = correlation[:, :1].clamp_min(_TINY_POWER)
    return (correlation[:, first:last] / energy).amax(dim=1).numpy()


def _autocorrelation(frames: torch.Tensor) -> torch.Tensor:
    spectrum = torch.fft.rfft(frames, 2 * _PITCH_SAMPLES)
    return torch.fft.irfft(spectrum.abs().square())[..., : _PITCH_SAMPLES - 1]


def _limit(waveform: np.ndarray) -> np.ndarray:
    peak = float(np.abs(waveform).max())
    if peak <= _PEAK:
        return waveform
    samples = torch.from_numpy(waveform)[None]
    # The lowest gain within half a window, then its average over half a window: smooth, and
    # nowhere above what any single sample needs.
    needed = _PEAK / samples.abs().clamp_min(_PEAK)
    window, reach = 2 * _LIMITER_SAMPLES + 1, _LIMITER_SAMPLES
    lowest = -F.max_pool1d(-needed, window, stride=1, padding=reach)
    smooth = F.avg_pool1d(lowest, window, stride=1, padding=reach, count_include_pad=False)
    return (samples * smooth).clamp_(-_PEAK, _PEAK)[0].numpy()
