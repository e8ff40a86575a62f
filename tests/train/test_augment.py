"""Augmentation: lengths, finite values, and the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from train.augment import (
    add_noise,
    augment_waveform,
    change_speed,
    colour_channel,
    mask_features,
    reverberate,
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


@pytest.mark.parametrize(
    "change", [augment_waveform, reverberate, add_noise, colour_channel], ids=lambda f: f.__name__
)
def test_the_seed_decides(change: Callable[..., np.ndarray]) -> None:
    outs = [change(tone(440), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(outs[0], outs[1])
    assert outs[0].shape != outs[2].shape or not np.array_equal(outs[0], outs[2])


@pytest.mark.parametrize("change", [reverberate, add_noise, colour_channel])
def test_these_keep_the_length(change: Callable[..., np.ndarray]) -> None:
    for seed in range(20):
        out = change(tone(440), np.random.default_rng(seed))
        assert out.shape == (8_000,)
        assert out.dtype == np.float32


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_speed_moves_length_and_pitch(factor: float) -> None:
    out = change_speed(tone(1_000, 1.0), factor)
    assert len(out) == pytest.approx(RATE / factor, abs=2)
    spectrum = np.abs(np.fft.rfft(out))
    assert np.argmax(spectrum) * RATE / len(out) == pytest.approx(1_000 * factor, abs=3)


def test_noise_is_as_loud_as_it_says() -> None:
    speech = tone(440, 1.0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        noise = add_noise(speech, rng) - speech
        snr_db = 10 * np.log10(np.mean(speech**2) / np.mean(noise**2))
        assert 4.9 <= snr_db <= 40.1


def test_a_room_is_a_direct_path_and_a_tail() -> None:
    click = np.zeros(8_000, np.float32)
    click[0] = 1.0
    out = reverberate(click, np.random.default_rng(0))
    assert out[0] == pytest.approx(1.0, abs=1e-5)
    assert np.abs(out[1:31]).max() < 1e-5, "nothing comes back within 2 ms"
    assert np.square(out[32:1_600]).sum() > np.square(out[1_600:]).sum() > 0


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
