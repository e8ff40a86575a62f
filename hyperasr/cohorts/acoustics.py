"""Other voices and other places for a recording: speed, room, noise and channel.

Training views vary with them, so that few recordings stand for many speakers and microphones.
"""

from __future__ import annotations

import numpy as np
import soxr
from scipy.signal import fftconvolve, lfilter

from hyperasr.audio.mel import SAMPLE_RATE


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


def change_place(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the recording as another microphone in another room would have taken it.

    Channel, room and noise come each with a chance of their own; the level is random too.

    Args:
        waveform: (n_samples,) float32, 16 kHz.
        rng: source of every choice.
    """
    out = waveform
    if rng.random() < 0.5:
        out = colour_channel(out, rng)
    if rng.random() < 0.4:
        out = reverberate(out, rng)
    if rng.random() < 0.6:
        out = add_noise(out, rng)
    level = 10 ** (rng.uniform(-18, -1) / 20)
    return (out * level / max(float(np.abs(out).max()), 1e-5)).astype(np.float32)
