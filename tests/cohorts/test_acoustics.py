"""Rooms, noises, channels and speeds: lengths, levels, and the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hyperasr.cohorts.acoustics import (
    add_noise,
    change_place,
    change_speed,
    colour_channel,
    reverberate,
)

RATE = 16_000


def tone(hz: float, duration_s: float = 0.5) -> np.ndarray:
    time_s = np.arange(round(duration_s * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * hz * time_s)).astype(np.float32)


@pytest.mark.parametrize(
    "change", [change_place, reverberate, add_noise, colour_channel], ids=lambda f: f.__name__
)
def test_the_seed_decides_and_the_length_stays(change: Callable[..., np.ndarray]) -> None:
    outs = [change(tone(440), np.random.default_rng(seed)) for seed in range(20)]
    assert np.array_equal(outs[1], change(tone(440), np.random.default_rng(1)))
    assert not np.array_equal(outs[1], outs[2])
    assert {(out.shape, out.dtype) for out in outs} == {((8_000,), np.dtype(np.float32))}


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


def test_a_place_changes_the_level_within_bounds() -> None:
    peaks = [
        np.abs(change_place(tone(440), np.random.default_rng(seed))).max() for seed in range(40)
    ]
    assert 10 ** (-18 / 20) - 1e-6 <= min(peaks)
    assert max(peaks) <= 10 ** (-1 / 20) + 1e-6
    assert max(peaks) > 2 * min(peaks)
    assert np.isfinite(change_place(np.zeros(800, np.float32), np.random.default_rng(0))).all()
