"""Copies of waveforms that sound otherwise; masking, warping and timing of log-mel features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hyperasr.audio.mel import FRAMES_PER_SECOND, SAMPLE_RATE, mel_centres
from hyperasr.cohorts.acoustics import add_noise, change_speed, colour_channel, reverberate
from hyperasr.errors import ConfigError
from hyperasr.types import Batch
from hyperasr.whisper.backbone import SHORTEST_S

__all__ = [
    "FeatureVariety",
    "augment_waveform",
    "change_margins",
    "change_rate",
    "mask_features",
    "narrow_band",
    "vary_features",
    "warp_frequency",
]

_DYNAMIC_RANGE = 2.0  # of Whisper's log-mel: 8 decades, divided by 4
_LONGEST = 3_000  # frames; Whisper hears 30 s
_SHORTEST = round(SHORTEST_S * FRAMES_PER_SECOND)


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
        loud = np.flatnonzero(energy >= min(threshold, energy.max()))
        first, last = loud[0] - int(rng.integers(0, 6)), loud[-1] + 1 + int(rng.integers(0, 6))
        out = mel[max(0, first) : last]
    if rng.random() < 0.5:
        before, after = rng.integers(0, 45, size=2)
        out = np.pad(out, ((before, after), (0, 0)), constant_values=floor)
    return out


def narrow_band(mel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Leave out what a recording at 8 kHz or a telephone line does not carry.

    Args:
        mel: (n_frames, n_mels), Whisper's log-mel; a changed copy is returned.
    Source: 4 kHz are what 8 kHz of sampling can hold; 300 to 3,400 Hz is the band of ITU-T G.712.
    """
    out = mel.copy()
    centres_hz = mel_centres(mel.shape[1])
    outside = centres_hz > rng.uniform(3_400, 4_000)
    if rng.random() < 0.5:
        outside |= centres_hz < 300
    out[:, outside] = mel[:, ~outside].max() - _DYNAMIC_RANGE
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


@dataclass(frozen=True)
class FeatureVariety:
    """How the log-mel of cached views is changed anew for every batch.

    Each batch is then encoded again: for decoder targets that costs what the cache of encoder
    states saved. The training voices are known by heart to a backbone that was trained on them, so
    this is what unseen voices have to be made of.
    """

    warp: float = 0.0
    """Largest relative stretch of the mel axis, in [0, 0.5): voices of other vocal tracts."""
    rate: float = 0.0
    """Largest relative change of the speaking rate, in [0, 0.5); nothing gets longer than 30 s."""
    noise: float = 0.0
    """Standard deviation of what is added to every value (log10 energy / 4), at least 0."""
    margins: bool = False
    """Whether silence at both ends is cut off or added; see `change_margins`."""
    band: float = 0.0
    """Share of the utterances heard as by telephone, in [0, 1]; see `narrow_band`."""
    mask: bool = False
    """Whether stretches of time and frequency are masked; see `mask_features`."""
    embed: bool = False
    """Whether speaker embeddings are of what is heard after these changes, but for noise and masks.
    It takes one more pass of the encoder; without it they are of the recordings."""

    def __post_init__(self) -> None:
        for name in ("warp", "rate"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be in [0, 0.5)")
        if not self.noise >= 0:
            raise ConfigError(f"noise is {self.noise}; it must be at least 0")
        if not 0 <= self.band <= 1:
            raise ConfigError(f"band is {self.band}; it must be in [0, 1]")

    @property
    def changes(self) -> bool:
        """Whether anything is changed at all."""
        return self.mask or self.margins or max(self.warp, self.rate, self.noise, self.band) > 0

    def voice(self, mel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return one utterance (n_frames, n_mels) in another voice or place, of other length."""
        out = mel
        if self.warp:
            out = warp_frequency(out, 1 + rng.uniform(-self.warp, self.warp))
        if self.rate:
            factor = 1 + rng.uniform(-self.rate, self.rate)
            out = change_rate(out, max(factor, len(out) / _LONGEST))
        if self.margins:
            out = _long_enough(change_margins(out, rng))[:_LONGEST]
        if self.band and rng.random() < self.band:
            out = narrow_band(out, rng)
        return out

    def damage(self, mel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return one utterance (n_frames, n_mels) noisy and with holes, as nobody would sound."""
        out = mel + rng.normal(0, self.noise, size=mel.shape) if self.noise else mel
        return (mask_features(out, rng) if self.mask else out).astype(np.float32)


def _long_enough(mel: np.ndarray) -> np.ndarray:
    """Put silence on both sides of what is shorter than a model of trimmed context hears."""
    missing = max(0, _SHORTEST - len(mel))
    margins = ((missing // 2, missing - missing // 2), (0, 0))
    return np.pad(mel, margins, constant_values=mel.max() - _DYNAMIC_RANGE)


def vary_features(
    batch: Batch,
    variety: FeatureVariety,
    seed: tuple[int, ...],
    embed: Callable[[Batch], Tensor] | None = None,
) -> Batch:
    """Return the batch with other log-mel; encoder states it brings stay as they were.

    Args:
        batch: with mel (n_utt, n_mels, n_frames), zero beyond each utterance's frames.
        variety: what is changed.
        seed: of every choice.
        embed: speaker embeddings of a batch with mel. It is given the voices before they are
            damaged, and what it returns takes the place of the batch's embeddings; without it these
            stay as they were.
    """
    assert batch.mel is not None
    rng = np.random.default_rng(seed)
    lengths = batch.n_frames.tolist()
    rows = [
        variety.voice(mel[:, :n].T.cpu().numpy(), rng)
        for mel, n in zip(batch.mel, lengths, strict=True)
    ]
    if embed is not None:
        batch = replace(batch, speaker_emb=embed(_with_mel(batch, rows)))
    return _with_mel(batch, [variety.damage(row, rng) for row in rows])


def _with_mel(batch: Batch, rows: Sequence[np.ndarray]) -> Batch:
    """Return the batch with the log-mel of `rows`, each (n_frames, n_mels)."""
    assert batch.mel is not None
    mel = batch.mel.new_zeros(*batch.mel.shape[:2], max(len(row) for row in rows))
    for target, row in zip(mel, rows, strict=True):
        target[:, : len(row)] = torch.from_numpy(np.ascontiguousarray(row.T, np.float32))
    return replace(batch, mel=mel, n_frames=batch.n_frames.new_tensor([len(r) for r in rows]))
