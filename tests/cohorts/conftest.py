"""A talker made of formulas: words of hiss, vowel and pause, offline and the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

RATE = 16_000
TEXT = "seven lights two kitchen start music"


def vowel(
    duration_s: float, f0_hz: np.ndarray | float, formants_hz: tuple[float, ...]
) -> np.ndarray:
    """Harmonics through a few resonances, float64, peak 1."""
    n = round(duration_s * RATE)
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(np.asarray(f0_hz, dtype=float), n)) / RATE
    source = sum(np.cos(k * phase) / k for k in range(1, 30))
    for formant in formants_hz:
        pole = np.exp(-np.pi * 90.0 / RATE)
        b, a = [1.0], [1.0, -2 * pole * np.cos(2 * np.pi * formant / RATE), pole**2]
        source = signal.lfilter(b, a, source)
    return source / np.abs(source).max()


def talk(f0_hz: float = 120.0) -> np.ndarray:
    """Six words with gaps: the words of TEXT, roughly; float32, peak 0.5."""
    rng = np.random.default_rng(3)
    hiss = signal.butter(4, [2500, 6000], "bandpass", fs=RATE, output="sos")
    shapes = [(500, 1800), (700, 1200), (320, 900), (420, 2000), (750, 1300), (330, 1000)]
    words = [np.zeros(3200)]
    for i, (f1, f2) in enumerate(shapes):
        pitch = f0_hz * np.linspace(1.25, 0.85, round(0.28 * RATE)) * (1.0 + 0.05 * (i % 2))
        body = vowel(0.28, pitch, (f1, f2, 2600.0)) * np.hanning(round(0.28 * RATE)) ** 0.3
        noise = 0.15 * signal.sosfilt(hiss, rng.standard_normal(round(0.09 * RATE)))
        words += [noise * np.hanning(len(noise)), body, np.zeros(round(0.08 * RATE))]
    speech = np.concatenate([*words, np.zeros(3200)])
    speech = 0.5 * speech / np.abs(speech).max() + 3e-4 * rng.standard_normal(len(speech))
    return speech.astype(np.float32)


@pytest.fixture(scope="session")
def speech() -> tuple[np.ndarray, str]:
    """Waveform (n_samples,) float32 of 16 kHz and its text."""
    return talk(), TEXT


@pytest.fixture(scope="session")
def sustained() -> np.ndarray:
    """Four seconds of a level vowel at 130 Hz, float32."""
    return (0.4 * vowel(4.0, 130.0, (600.0, 1400.0, 2500.0))).astype(np.float32)
