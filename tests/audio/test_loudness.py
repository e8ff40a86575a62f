"""The high-pass behind which levels are judged, beside scipy's."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.signal import cheby2, sosfilt, sosfilt_zi

from hyperasr.audio.loudness import _HIGH_PASS, LEVEL_SAMPLES, LevelMeter, _high_pass
from hyperasr.audio.mel import SAMPLE_RATE


def test_the_sections_are_the_filter_that_they_are_called() -> None:
    sections = cheby2(8, 40.0, 60.0, "highpass", output="sos", fs=SAMPLE_RATE)
    np.testing.assert_allclose(np.array(_HIGH_PASS), sections, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_samples", [1, 319, 320, 321, 16_000, 70_001])
def test_whole_frames_at_once_give_what_scipy_gives_sample_by_sample(n_samples: int) -> None:
    rng = np.random.default_rng(0)
    t = np.arange(n_samples) / SAMPLE_RATE
    samples = 0.3 + 0.2 * np.sin(2 * np.pi * 50 * t) + 0.05 * rng.standard_normal(n_samples)
    samples = samples.astype(np.float32)
    sections = np.array(_HIGH_PASS)
    start = sosfilt_zi(sections) * samples[0]
    expected, _ = sosfilt(sections, samples, zi=start)
    filtered, _ = _high_pass(samples)
    np.testing.assert_allclose(filtered, expected, rtol=0, atol=1e-9)

    cut = n_samples // 3 // LEVEL_SAMPLES * LEVEL_SAMPLES
    first, state = _high_pass(samples[:cut])
    second, _ = _high_pass(samples[cut:], state)
    np.testing.assert_allclose(np.concatenate([first, second]), expected, rtol=0, atol=1e-9)


def test_levels_do_not_depend_on_how_a_recording_is_cut() -> None:
    rng = np.random.default_rng(1)
    samples = rng.standard_normal(10_000).astype(np.float32)
    whole = LevelMeter()(samples, last=True)
    meter, found = LevelMeter(), []
    ends = [0, 5, 700, 701, 4_000, 10_000]
    for start, end in pairwise(ends):
        found.append(meter(samples[start:end], last=end == len(samples)))
    np.testing.assert_allclose(np.concatenate(found), whole, rtol=0, atol=1e-6)
