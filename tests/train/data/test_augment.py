"""Augmentation: lengths, finite values, and the same for the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hyperasr.audio.mel import log_mel, mel_centres
from hyperasr.errors import ConfigError
from hyperasr.types import Batch
from hyperasr.whisper.backbone import Backbone
from train.baselines import FineTuneConfig
from train.config import MetaConfig
from train.data.augment import (
    FeatureVariety,
    augment_waveform,
    change_margins,
    change_rate,
    mask_features,
    narrow_band,
    vary_features,
    warp_frequency,
)

RATE = 16_000


def tone(hz: float, duration_s: float = 0.5) -> np.ndarray:
    time_s = np.arange(round(duration_s * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * hz * time_s)).astype(np.float32)


WAVEFORMS = {
    "tone": tone(440),
    "silence": np.zeros(8_000, np.float32),
    "10 ms": tone(440, 0.01),
    "clipped": np.sign(tone(440)).astype(np.float32),
}


@pytest.mark.parametrize("name", WAVEFORMS)
def test_waveforms_stay_finite_and_within_bounds(name: str) -> None:
    waveform = WAVEFORMS[name]
    kept = waveform.copy()
    for seed in range(25):
        out = augment_waveform(waveform, np.random.default_rng(seed))
        assert out.dtype == np.float32
        assert out.ndim == 1
        assert np.isfinite(out).all()
        assert np.abs(out).max() <= 10 ** (-1 / 20) + 1e-6, "1 dB of headroom"
        assert len(waveform) / 1.1 - 2 <= len(out) <= len(waveform) / 0.9 + 0.7 * RATE + 2
    assert np.array_equal(waveform, kept), "a changed copy"


def test_the_seed_decides() -> None:
    outs = [augment_waveform(tone(440), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(outs[0], outs[1])
    assert outs[0].shape != outs[2].shape or not np.array_equal(outs[0], outs[2])


def test_warping_moves_a_formant() -> None:
    mel = np.zeros((3, 80), np.float32)
    mel[:, 20] = 1.0
    assert np.array_equal(warp_frequency(mel, 1.0), mel)
    for factor in (0.9, 1.1):
        out = warp_frequency(mel, factor)
        assert out.shape == mel.shape
        assert out.dtype == np.float32
        centre = (out[0] * np.arange(80)).sum() / out[0].sum()
        assert centre == pytest.approx(20 * factor, abs=0.5)
    ramp = np.arange(80, dtype=np.float32)[None]
    assert np.allclose(warp_frequency(ramp, 1.25)[0], np.arange(80) / 1.25, atol=1e-4)
    assert warp_frequency(ramp, 0.8).max() == 79, "beyond the top it is the top"


@pytest.mark.parametrize("n_frames", [1, 5, 40, 300])
def test_masks_are_bands_of_the_mean(n_frames: int) -> None:
    mel = np.random.default_rng(9).standard_normal((n_frames, 80)).astype(np.float32)
    kept = mel.copy()
    share = []
    for seed in range(30):
        out = mask_features(mel, np.random.default_rng(seed))
        again = mask_features(mel, np.random.default_rng(seed))
        assert np.array_equal(out, again)
        assert out.shape == mel.shape
        masked = out != mel
        assert np.allclose(out[masked], mel.mean())
        rows, columns = masked.all(axis=1), masked.all(axis=0)
        # Every masked cell lies in a masked frame or in a masked channel.
        assert (masked <= (rows[:, None] | columns[None])).all()
        if n_frames >= 40:
            assert columns.sum() <= 2 * 16
            assert rows.sum() <= 20 * max(1, n_frames // 100)
        share.append(masked.mean())
    assert np.array_equal(mel, kept), "a changed copy"
    assert max(share) > 0.1


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_rate_moves_events_and_keeps_frames_as_they_are(factor: float) -> None:
    mel = np.zeros((101, 80), np.float32)
    mel[40:60] = np.linspace(-1, 1, 80, dtype=np.float32)
    out = change_rate(mel, factor)
    assert out.shape == (round(101 / factor), 80)
    assert out.dtype == np.float32
    spoken = np.flatnonzero(np.abs(out).sum(axis=1) > 40)
    assert len(spoken) == pytest.approx(20 / factor, abs=2)
    assert spoken.mean() == pytest.approx(49.5 / factor, abs=1)
    assert np.allclose(out[spoken[3]], mel[50], atol=1e-6), "frequencies stay where they are"
    if factor == 1.0:
        assert np.array_equal(out, mel)


def test_margins_take_silence_and_put_silence_but_keep_the_speech() -> None:
    rng = np.random.default_rng(3)
    mel = np.full((120, 80), -1.0, np.float32)
    mel[50:70] = rng.uniform(0.5, 1.0, (20, 80))
    lengths = set()
    for seed in range(60):
        out = change_margins(mel, np.random.default_rng(seed))
        loud = np.flatnonzero(out.mean(axis=1) > 0.3)
        assert np.array_equal(out[loud], mel[50:70]), "the speech itself is untouched"
        assert out.min() >= mel.max() - 2.0 - 1e-6
        lengths.add(len(out))
    assert min(lengths) <= 30, "cut close"
    assert max(lengths) > 150, "and set apart"
    assert change_margins(np.zeros((5, 80), np.float32), rng).shape[1] == 80


def test_margins_of_what_is_loud_but_for_a_moment() -> None:
    mel = np.full((100, 80), 1.0, np.float32)
    mel[:3] = -1.0
    for seed in range(20):
        out = change_margins(mel, np.random.default_rng(seed))
        assert (out == 1.0).all(axis=1).sum() == 97


@pytest.mark.parametrize("n_mels", [80, 128])
def test_a_narrow_band_is_what_a_recording_at_8_khz_has(n_mels: int) -> None:
    time_s = np.arange(RATE) / RATE
    both = np.random.default_rng(0).normal(0, 0.05, RATE).astype(np.float32)
    low = sum(np.sin(2 * np.pi * hz * time_s) for hz in (500, 1_000, 2_000))
    spectrum = np.fft.rfft(both)
    spectrum[np.fft.rfftfreq(RATE, 1 / RATE) > 3_700] = 0
    narrow = np.fft.irfft(spectrum).astype(np.float32) + 0.1 * low.astype(np.float32)
    wide = both + 0.1 * low.astype(np.float32)
    # The edges of a filtered waveform are steps, which have all frequencies.
    mel, twin = (log_mel(wave, n_mels=n_mels).T.numpy()[3:-3] for wave in (wide, narrow))
    kept = mel.copy()
    speech = (mel_centres(n_mels) > 400) & (mel_centres(n_mels) < 3_200)
    beyond = mel_centres(n_mels) > 4_200
    low_cuts = set()
    for seed in range(20):
        out = narrow_band(mel, np.random.default_rng(seed))
        assert np.array_equal(out[:, speech], mel[:, speech])
        assert np.allclose(out[:, beyond], twin[:, beyond], atol=0.02), "the floor, as of 8 kHz"
        assert np.allclose(out[:, speech], twin[:, speech], atol=0.3)
        low_cuts.add(bool((out[:, mel_centres(n_mels) < 200] == out.min()).all()))
    assert np.array_equal(mel, kept), "a changed copy"
    assert low_cuts == {True, False}, "half of them are telephone lines"


def test_what_margins_leave_is_as_long_as_the_backbone_hears(random_backbone: Backbone) -> None:
    variety, digit = FeatureVariety(margins=True), tone(440, 0.4)
    shortest = int(random_backbone.features([digit])[1])
    for seed in range(20):
        out = variety.voice(log_mel(digit).T.numpy(), np.random.default_rng(seed))
        assert len(out) >= shortest
        assert out.min() == pytest.approx(out.max() - 2.0, abs=1e-5), "with digital silence"


def mel_batch(lengths: list[int], n_mels: int = 80) -> Batch:
    generator = torch.Generator().manual_seed(0)
    mel = torch.zeros(len(lengths), n_mels, max(lengths))
    for row, n in zip(mel, lengths, strict=True):
        row[:, :n] = torch.randn(n_mels, n, generator=generator)
    return Batch(n_frames=torch.tensor(lengths), mel=mel)


def test_features_without_variety_stay_as_they_are() -> None:
    batch = mel_batch([40, 90])
    same = vary_features(batch, FeatureVariety(), (0, 0))
    assert not FeatureVariety().changes
    assert torch.equal(same.mel, batch.mel)
    assert torch.equal(same.n_frames, batch.n_frames)


def test_each_utterance_is_varied_on_its_own_frames() -> None:
    batch, variety = mel_batch([40, 90, 7]), FeatureVariety(0.1, 0.2, 0.05, mask=True)
    varied = vary_features(batch, variety, (3, 5))
    rng = np.random.default_rng((3, 5))
    voices = [
        variety.voice(batch.mel[row, :, :n].T.numpy(), rng) for row, n in enumerate([40, 90, 7])
    ]
    for row, voice in enumerate(voices):
        twin = variety.damage(voice, rng)
        assert len(twin) == int(varied.n_frames[row])
        assert np.array_equal(varied.mel[row, :, : len(twin)].T.numpy(), twin)
        assert not varied.mel[row, :, len(twin) :].any()
    assert varied.mel.shape[-1] == int(varied.n_frames.max())
    assert not torch.equal(varied.n_frames, batch.n_frames)
    again = vary_features(batch, variety, (3, 5))
    assert torch.equal(again.mel, varied.mel)
    assert not torch.equal(vary_features(batch, variety, (3, 6)).n_frames, varied.n_frames)


def test_embeddings_are_of_the_changed_voice_without_noise_and_holes() -> None:
    batch = mel_batch([140, 190])
    voice = FeatureVariety(0.1, 0.2, margins=True, band=0.5)
    heard = []

    def embed(batch: Batch) -> torch.Tensor:
        heard.append(batch)
        return batch.mel.mean(-1)

    damaged = vary_features(batch, replace(voice, noise=0.05, mask=True), (3, 5), embed)
    whole = vary_features(batch, voice, (3, 5))
    assert torch.equal(heard[0].mel, whole.mel)
    assert torch.equal(heard[0].n_frames, whole.n_frames)
    assert torch.equal(damaged.speaker_emb, whole.mel.mean(-1))
    assert not torch.equal(damaged.mel, whole.mel)
    assert whole.speaker_emb is batch.speaker_emb


def test_nothing_gets_longer_than_whisper_hears() -> None:
    longest = [
        len(FeatureVariety(rate=0.4).voice(np.zeros((2_900, 80), np.float32), rng))
        for rng in map(np.random.default_rng, range(20))
    ]
    assert max(longest) == 3_000
    assert min(longest) < 2_900


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warp": 0.5}, "warp"),
        ({"rate": -0.1}, "rate"),
        ({"noise": float("nan")}, "noise"),
        ({"band": 1.5}, "band"),
    ],
)
def test_variety_that_makes_no_sense_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FeatureVariety(**settings)


def test_embeddings_of_what_is_heard_are_refused_where_there_are_none() -> None:
    data = MetaConfig(features=FeatureVariety(mask=True, embed=True))
    with pytest.raises(ConfigError, match="full_ft has no speaker embedding"):
        FineTuneConfig(method="full_ft", data=data)
