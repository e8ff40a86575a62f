"""Copies of waveforms that sound otherwise; masking, warping and timing of log-mel features."""

from __future__ import annotations

import numpy as np

from hyperasr.audio import SAMPLE_RATE
from hyperasr.cohorts.acoustics import add_noise, change_speed, colour_channel, reverberate

__all__ = ["augment_waveform", "change_margins", "change_rate", "mask_features", "warp_frequency"]

_DYNAMIC_RANGE = 2.0  # of Whisper's log-mel: 8 decades, divided by 4


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


def change_rate(mel: np.ndarray, factor: float) -> np.ndarray:
    """Speak `factor` times as fast with pitch and formants kept, by interpolation of frames.

    Args:
        mel: (n_frames, n_mels).
        factor: above 0; the result has round(n_frames / factor) frames, at least 2.
    """
    n_frames = len(mel)
    position = np.linspace(0, n_frames - 1, max(2, round(n_frames / factor)))
    low = np.minimum(position.astype(int), n_frames - 2)
    part = (position - low).astype(np.float32)[:, None]
    return mel[low] * (1 - part) + mel[low + 1] * part


def change_margins(mel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Take silence off both ends, put other silence there, or both: recordings are cut at will.

    Args:
        mel: (n_frames, n_mels), Whisper's log-mel; digital silence is 2 below its maximum.
    """
    floor = mel.max() - _DYNAMIC_RANGE
    out = mel
    if rng.random() < 0.5:
        energy = mel.mean(axis=1)
        threshold = np.quantile(energy, 0.05) + 0.2 * np.ptp(energy)
        loud = np.flatnonzero(energy > threshold)
        first, last = loud[0] - int(rng.integers(0, 6)), loud[-1] + 1 + int(rng.integers(0, 6))
        out = mel[max(0, first) : last]
    if rng.random() < 0.5:
        before, after = rng.integers(0, 45, size=2)
        out = np.pad(out, ((before, after), (0, 0)), constant_values=floor)
    return out


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
