"""Where an utterance begins and ends, by preset, however the sound is cut."""

from __future__ import annotations

import numpy as np
import pytest

from hyperasr.audio.vad import WINDOW
from hyperasr.service.utterances import PAUSES_S, Spoken, Utterances

RATE = 16_000


def loud(window: np.ndarray) -> float:
    return float(np.abs(window).max() > 0.1)


def sound(*parts: float) -> np.ndarray:
    """Speech of so many seconds, silence of so many where they are negative."""
    generator = np.random.default_rng(0)
    return np.concatenate(
        [
            (generator.uniform(0.2, 0.5, round(p * RATE)) if p > 0 else np.zeros(round(-p * RATE)))
            for p in parts
        ]
    ).astype(np.float32)


def spoken(
    pause: str, samples: np.ndarray, step: int = RATE, longest_s: float = 60
) -> list[Spoken]:
    utterances = Utterances(pause, loud, longest_s)
    found = []
    for first in range(0, len(samples), step):
        found += utterances.feed(samples[first : first + step])
    return found


@pytest.mark.parametrize("pause", ["typical", "stuttering", "dysarthria"])
def test_an_utterance_ends_after_the_pause_of_its_preset_and_not_before(pause: str) -> None:
    seconds = PAUSES_S[pause]
    assert seconds is not None
    before, after = seconds - 0.1, seconds + 0.1
    assert spoken(pause, sound(-1, 1.0, -before)) == []
    ((start_s, waveform),) = spoken(pause, sound(-1, 1.0, -before, 1.0, -after))
    assert start_s == pytest.approx(0.5, abs=0.04), "half a second before it begins"
    assert len(waveform) / RATE == pytest.approx(0.5 + 2.0 + before + 0.3, abs=0.1)
    assert len(spoken(pause, sound(1.0, -after, 1.0, -after))) == 2


def test_how_the_sound_is_cut_makes_no_difference() -> None:
    samples = sound(-0.7, 1.3, -0.4, 0.2, -1.5, 0.9, -2.0, 0.01, -1.2, 0.5, -1.0)
    whole = spoken("typical", samples, len(samples))
    assert len(whole) == 3
    for step in (7, 160, 511, 512, 513, 5_000):
        pieces = spoken("typical", samples, step)
        assert [start for start, _ in pieces] == [start for start, _ in whole]
        for (_, one), (_, other) in zip(pieces, whole, strict=True):
            np.testing.assert_array_equal(one, other)
    for start, waveform in whole:  # nothing is moved
        first = round(start * RATE)
        np.testing.assert_array_equal(waveform, samples[first : first + len(waveform)])


def test_a_click_is_no_utterance() -> None:
    click = sound(-1, WINDOW / RATE, -1)
    assert spoken("typical", click) == []
    utterances = Utterances("typical", loud, 60)
    utterances.feed(click)
    assert utterances.current is None
    assert utterances.end() is None


def test_held_all_is_the_utterance_and_the_end_ends_it() -> None:
    utterances = Utterances("hold", None, 60)
    samples = sound(-3, 1, -10, 0.5)[: 100 * WINDOW + 7]
    assert utterances.feed(samples) == []
    current = utterances.current
    assert current is not None
    np.testing.assert_array_equal(current, samples[: 100 * WINDOW])
    ended = utterances.end()
    assert ended is not None
    np.testing.assert_array_equal(ended[1], samples)
    assert utterances.end() is None
    assert utterances.current is None


def test_an_end_comes_at_once_and_the_next_utterance_is_its_own() -> None:
    utterances = Utterances("stuttering", loud, 60)
    utterances.feed(sound(1.0))
    first = utterances.end()
    assert first is not None
    assert len(first[1]) / RATE == pytest.approx(1.0, abs=0.05)
    utterances.feed(sound(0.5))
    second = utterances.end()
    assert second is not None
    assert second[0] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("pause", ["typical", "hold"])
def test_nobody_holds_more_memory_than_the_longest_utterance(pause: str) -> None:
    found = spoken(pause, sound(5.0), longest_s=2)
    assert [len(waveform) / RATE for _, waveform in found] == pytest.approx([2, 2], abs=0.05)
    quiet = Utterances("typical", loud, 2)
    quiet.feed(sound(-100))
    assert quiet.current is None
    assert sum(map(len, quiet._before)) <= 0.6 * RATE
