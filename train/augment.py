"""Rooms, noises, channels and speeds for waveforms; masking and warping for log-mel features."""

from __future__ import annotations

import numpy as np
import soxr
from scipy.signal import fftconvolve, lfilter

from hyperasr.audio import SAMPLE_RATE

__all__ = ["augment_waveform", "mask_features", "warp_frequency"]


def change_speed(waveform: np.ndarray, factor: float) -> np.ndarray:
    """Play `factor` times as fast; pitch and formants move along (Ko et al., Interspeech 2015)."""
    return soxr.resample(waveform, SAMPLE_RATE * factor, SAMPLE_RATE, quality="LQ")


def reverberate(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Convolve with a synthetic room: a direct path and an exponentially decaying noise tail."""
    t60_s = rng.uniform(0.1, 0.6)
    time_s = np.arange(int(t60_s * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(time_s)) * np.exp(-6.9 * time_s / t60_s)
    tail[: int(0.002 * SAMPLE_RATE)] = 0.0
    tail *= 10 ** (rng.uniform(-15, -2) / 20) / max(np.sqrt((tail**2).sum()), 1e-9)
    tail[0] = 1.0
    return fftconvolve(waveform, tail)[: len(waveform)].astype(np.float32)


def add_noise(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add noise of a random colour at 5 to 40 dB below the speech, or a faint mains hum."""
    n = len(waveform)
    noise = lfilter([1.0], [1.0, -rng.uniform(0.0, 0.97)], rng.standard_normal(n))
    if rng.random() < 0.2:
        mains_hz = rng.choice([50.0, 60.0]) * rng.integers(1, 4)
        noise = noise + 3 * np.std(noise) * np.sin(
            2 * np.pi * mains_hz * np.arange(n) / SAMPLE_RATE
        )
    snr_db = rng.uniform(5, 40)
    gain = np.sqrt(np.mean(waveform**2) / max(np.mean(noise**2), 1e-12)) * 10 ** (-snr_db / 20)
    return (waveform + gain * noise).astype(np.float32)


def colour_channel(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tilt and band-limit, as microphones and telephone lines do."""
    tilt = rng.uniform(-0.6, 0.6)
    out = lfilter([1.0, -tilt], [1.0], waveform)
    if rng.random() < 0.15:  # telephone band
        narrow = soxr.resample(out.astype(np.float32), SAMPLE_RATE, 8_000, quality="LQ")
        out = soxr.resample(narrow, 8_000, SAMPLE_RATE, quality="LQ")
    return out.astype(np.float32)


def augment_waveform(
    waveform: np.ndarray, rng: np.random.Generator, speed: tuple[float, float] = (0.9, 1.1)
) -> np.ndarray:
    """Return a randomly changed copy: silence around, speed, channel, room, noise, level.

    Args:
        waveform: (n_samples,) float32, 16 kHz.
        rng: source of every choice.
        speed: range of the speed factor.
    """
    out = change_speed(waveform, rng.uniform(*speed)) if rng.random() < 0.7 else waveform
    before, after = (rng.uniform(0, 0.35, size=2) * SAMPLE_RATE).astype(int)
    out = np.concatenate([np.zeros(before), out, np.zeros(after)]).astype(np.float32)
    if rng.random() < 0.5:
        out = colour_channel(out, rng)
    if rng.random() < 0.5:
        out = reverberate(out, rng)
    if rng.random() < 0.75:
        out = add_noise(out, rng)
    level = 10 ** (rng.uniform(-18, -1) / 20)
    return (out * level / max(float(np.abs(out).max()), 1e-5)).astype(np.float32)


def warp_frequency(mel: np.ndarray, factor: float) -> np.ndarray:
    """Stretch the mel axis by `factor`, as a vocal tract of another length would.

    Args:
        mel: (n_frames, n_mels).
        factor: above 1 moves formants up.
    Source: vocal tract length perturbation, Jaitly and Hinton, ICML WDLASL 2013; here linear on
        the mel axis.
    """
    n_mels = mel.shape[1]
    position = np.clip(np.arange(n_mels) / factor, 0, n_mels - 1)
    low = np.minimum(position.astype(int), n_mels - 2)
    part = (position - low).astype(np.float32)
    return mel[:, low] * (1 - part) + mel[:, low + 1] * part


def mask_features(mel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """SpecAugment: two frequency masks of up to 16 channels, time masks of up to 0.1 s.

    Args:
        mel: (n_frames, n_mels); a changed copy is returned.
    Source: Park et al., Interspeech 2019, with widths for short utterances.
    """
    out = mel.copy()
    n_frames, n_mels = out.shape
    fill = out.mean()
    for _ in range(2):
        width = int(rng.integers(0, 17))
        start = int(rng.integers(0, n_mels - width + 1))
        out[:, start : start + width] = fill
    for _ in range(max(1, n_frames // 100)):
        width = int(rng.integers(0, min(10, n_frames // 8) + 1))
        start = int(rng.integers(0, n_frames - width + 1))
        out[start : start + width] = fill
    return out
