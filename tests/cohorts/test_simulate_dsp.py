"""The signal processing under the simulated cohorts, each part against something simpler."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from hyperasr.cohorts.simulate import COHORTS, parkinson, simulate
from hyperasr.cohorts.simulate.align import count_syllables, word_spans
from hyperasr.cohorts.simulate.analysis import FREQUENCIES, HOP, SAMPLE_RATE, analyse
from hyperasr.cohorts.simulate.spectrum import formants, nasal_curve, reduce_contrast, warp
from hyperasr.cohorts.simulate.synthesis import Voice, render
from hyperasr.cohorts.simulate.timeline import Piece, Timeline

Speech = tuple[np.ndarray, str]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("f0_hz", [80.0, 130.0, 220.0, 310.0])
def test_f0_of_a_known_tone(f0_hz: float) -> None:
    t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = sum(np.cos(2 * np.pi * k * f0_hz * t + k) / k for k in range(1, 12))
    result = analyse((0.1 * tone).astype(np.float32))
    assert result.voiced.mean() > 0.9
    assert np.abs(result.f0_hz[result.voiced] / f0_hz - 1.0).max() < 0.01
    gaps = np.diff(result.marks) * f0_hz / SAMPLE_RATE
    assert np.abs(gaps - 1.0).max() < 0.05  # one mark a cycle


def test_noise_is_unvoiced() -> None:
    result = analyse((0.1 * rng().standard_normal(SAMPLE_RATE)).astype(np.float32))
    assert result.voiced.mean() < 0.1


def test_envelope_peaks_at_the_formants(sustained: np.ndarray) -> None:
    result = analyse(sustained)
    mean = result.envelope[result.voiced].mean(axis=0)
    for formant in (600.0, 1400.0, 2500.0):
        near = np.abs(FREQUENCIES - formant) < 250.0
        assert abs(FREQUENCIES[near][mean[near].argmax()] - formant) < 80.0


def test_copying_gives_the_input_back(speech: Speech) -> None:
    result, timeline = analyse(speech[0]), Timeline()
    timeline.play(0.0, 1.0)
    timeline.play(1.0, result.duration_s)
    out = render(result, timeline, Voice(), rng())
    np.testing.assert_allclose(out[400:-400], speech[0][: len(out)][400:-400], atol=1e-5)


def test_resynthesis_at_another_rate_keeps_pitch_and_envelope(sustained: np.ndarray) -> None:
    result, timeline = analyse(sustained), Timeline()
    timeline.play(0.0, result.duration_s, 1.5)
    out = analyse(render(result, timeline, Voice(), rng()))
    assert out.duration_s == pytest.approx(1.5 * result.duration_s, abs=0.01)
    assert out.f0_median_hz == pytest.approx(130.0, rel=0.01)
    before, after = (a.envelope[a.voiced].mean(axis=0)[:110] for a in (result, out))
    assert np.abs(before - after).max() < 0.35  # 3 dB


@pytest.mark.parametrize("ratio", [0.8, 1.25])
def test_pitch_moves_and_formants_stay(sustained: np.ndarray, ratio: float) -> None:
    result, timeline = analyse(sustained), Timeline()
    timeline.play(0.0, result.duration_s)
    voice = Voice(pitch_ratio=np.full(len(timeline.frames()), ratio))
    out = analyse(render(result, timeline, voice, rng()))
    assert out.f0_median_hz == pytest.approx(130.0 * ratio, rel=0.01)
    before, after = (np.median(formants(a)[a.voiced], axis=0) for a in (result, out))
    assert np.abs(after / before - 1.0).max() < 0.08


def test_locate_equals_walking_the_pieces() -> None:
    timeline = Timeline()
    timeline.play(0.2, 0.5, 2.0, gain_db=-6.0)
    timeline.pause(0.3)
    timeline.add(Piece(0.4, (0.1, 0.15), hold=True))
    timeline.play(0.5, 0.6)
    time_s = np.arange(0.0, timeline.now, 0.013)
    source, gain, _ = timeline.locate(time_s)
    for t, s, g in zip(time_s, source, gain, strict=True):
        start = 0.0
        for piece in timeline.pieces:
            if t < start + piece.duration_s:
                break
            start += piece.duration_s
        if piece.source is None:
            assert g == 0.0
        elif piece.hold:
            assert 0.1 - 1e-9 <= s <= 0.15 + 1e-9
        else:
            share = (t - start) / piece.duration_s
            assert s == pytest.approx(piece.source[0] + share * np.diff(piece.source)[0])
            assert g == pytest.approx(10 ** (piece.gain_db / 20))


def test_warp_moves_a_peak_where_it_is_told() -> None:
    peak = -(((FREQUENCIES - 1500.0) / 200.0) ** 2)[None].astype(np.float32)
    place, goal = np.array([[500.0, 1500.0, 2600.0]]), np.array([[500.0, 1150.0, 2600.0]])
    moved = warp(np.maximum(peak, -20.0), place, goal)
    assert FREQUENCIES[moved[0].argmax()] == pytest.approx(1150.0, abs=20.0)
    np.testing.assert_allclose(warp(peak, place, place), peak, atol=0.05)


def test_contrast_goes_to_neutral_and_level_stays() -> None:
    envelope = rng().standard_normal((5, 257)).astype(np.float32)
    mean = np.linspace(1.0, -1.0, 257, dtype=np.float32)
    full = reduce_contrast(envelope, mean, np.ones(5))
    np.testing.assert_allclose(full - full.mean(1, keepdims=True), np.tile(mean, (5, 1)), atol=1e-5)
    np.testing.assert_allclose(full.mean(1), envelope.mean(1), atol=1e-5)


def test_nose_has_a_pole_and_a_zero() -> None:
    curve = nasal_curve(1.0, 270.0, 650.0)
    at = dict(zip(FREQUENCIES.astype(int), curve, strict=True))
    assert at[281] > 0.3 > 0.0 > at[656]
    assert np.abs(nasal_curve(0.0, 270.0, 650.0)).max() == 0.0


@pytest.mark.parametrize(
    ("word", "n"),
    [("yes", 1), ("seven", 2), ("W", 3), ("H", 1), ("light", 1), ("alarm", 2), ("table", 2),
     ("move", 1), ("42", 2), ("", 1)],
)  # fmt: skip
def test_syllables(word: str, n: int) -> None:
    assert count_syllables(word) == n


def test_words_are_found_between_pauses(speech: Speech) -> None:
    spans = word_spans(analyse(speech[0]), speech[1].split())
    true_starts = 0.2 + 0.45 * np.arange(6)  # see conftest.talk
    assert np.abs(spans[:, 0] - true_starts).max() < 0.06
    assert (spans[:, 1] > spans[:, 0]).all()


def test_tremor_is_at_the_speakers_rate(sustained: np.ndarray) -> None:
    deep = sorted(range(40), key=lambda k: -parkinson.profile(k, 1.0).tremor_db)[:4]
    for person in deep:
        traits = parkinson.profile(person, 1.0)
        heights = []
        for severity in (0.0, 0.4, 1.0):
            # an empty text: no words, so no rushes
            out = simulate(sustained, "", "parkinson", severity, seed=1, speaker=person).waveform
            level = analyse(out).level_db[20:-20]
            level = signal.detrend(level) * np.hanning(len(level))
            power = np.abs(np.fft.rfft(level, 4096)) / len(level)
            hertz = np.arange(len(power)) * (SAMPLE_RATE / HOP) / 4096
            band = (hertz > 2.0) & (hertz < 12.0)
            heights.append(power[band].max())
        assert heights == sorted(heights)
        assert hertz[band][power[band].argmax()] == pytest.approx(traits.tremor_hz, rel=0.12)
        assert 4.0 <= traits.tremor_hz <= 7.0


def test_centralisation_narrows_the_formants(speech: Speech) -> None:
    spread = []
    for severity in (0.0, 1.0):
        f2 = []
        for person in range(8):
            out = simulate(*speech, "dysarthria", severity, seed=1, speaker=person).waveform
            result = analyse(out)
            f2.append(formants(result)[result.voiced][:, 1].std())
        spread.append(np.mean(f2))
    assert spread[1] < 0.9 * spread[0]


@pytest.mark.parametrize("cohort", COHORTS)
def test_no_clicks(cohort: str) -> None:
    # Cosines below 3.5 kHz: whatever appears above 6 kHz was made by joins.
    t = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    phase = 2 * np.pi * np.cumsum(120.0 * (1.0 + 0.1 * np.sin(7.0 * t))) / SAMPLE_RATE
    tone = sum(np.cos(k * phase) / k for k in range(1, 26)) * np.abs(np.sin(np.pi * t)) ** 0.5
    tone = (0.5 * tone / np.abs(tone).max()).astype(np.float32)
    high = signal.butter(8, 6000, "highpass", fs=SAMPLE_RATE, output="sos")
    for person in range(6):
        out = simulate(tone, "one two three four", cohort, 1.0, seed=1, speaker=person).waveform
        clicks = signal.sosfiltfilt(high, out)
        assert np.abs(clicks).max() < 0.004 * np.abs(out).max()  # -48 dB, room noise included
