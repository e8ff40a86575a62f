"""The loop guard finds a decoder that runs away, and lets people who stutter repeat words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hyperasr.transcription.repetition_loop import (
    COMPRESSION,
    Evidence,
    evidence_of,
    is_suspicious,
    judge,
    runaway_stretch,
    sounding_s,
)
from hyperasr.transcription.words import Attention

RATE = 16_000


def sound(seconds: float, pause_s: float = 0.0) -> np.ndarray:
    noise = 0.1 * np.random.default_rng(0).normal(size=round(seconds * RATE))
    return np.concatenate([noise, np.zeros(round(pause_s * RATE))]).astype("f4")


def looking(states: list[int], n_states: int = 400) -> Attention:
    """Attention of tokens that look at one state each, over a faint rest everywhere."""
    mean = np.full((len(states) + 1, n_states), 0.1 / n_states)
    mean[np.arange(len(states)), states] += 0.9
    return Attention(mean, mean)


def verdict(text: str, seconds: float, states: list[int], finished: bool = True) -> object:
    evidence = evidence_of(text, sound(seconds), finished)
    if not is_suspicious(evidence):
        return None
    chars = [len(text) // len(states)] * len(states)
    stalled, stretch = runaway_stretch(looking(states), chars)
    return judge(replace(evidence, stalled=stalled, stretch=stretch), len(states))


def test_a_real_repetition_survives() -> None:
    # Each `the` takes a fifth of a second, and attention goes on with it.
    for n in (4, 10, 40):
        assert verdict("the " * n, 0.2 * n, [10 * i for i in range(n)]) is None


def test_a_real_repetition_that_compresses_like_a_loop_survives() -> None:
    text = "the " * 40
    evidence = evidence_of(text, sound(8.0), finished=True)
    assert evidence.compression > COMPRESSION
    assert is_suspicious(evidence), "attention has to decide"
    assert verdict(text, 8.0, [10 * i for i in range(40)]) is None


def test_a_loop_that_stands_still_is_found_from_its_first_token() -> None:
    states = [10 * i for i in range(8)] + [72] * 40
    found = verdict("turn on the light " + "the light " * 20, 1.6, states, finished=False)
    assert found is not None
    assert 7 <= found.first <= 9
    assert found.last == 48
    for sign in ("no end of text", "attention that stands still", "characters a second"):
        assert sign in found.reason


def test_a_loop_that_hears_the_sound_again_and_again_is_found() -> None:
    states = [10 * i for i in range(8)] * 6
    found = verdict("six " * 48, 1.6, states, finished=False)
    assert found is not None
    assert 7 <= found.first <= 10


def test_a_loop_that_ends_by_itself_is_found() -> None:
    # End of text comes, but there is far more text than sound.
    assert verdict("na " * 60, 1.0, [min(45, i) for i in range(60)], finished=True) is not None


def test_one_sign_alone_is_not_enough() -> None:
    calm = Evidence(chars_per_s=10.0, compression=0.9, finished=True, stalled=5.0, stretch=(0, 5))
    assert judge(calm, 20) is None
    for change in ({"chars_per_s": 40.0}, {"finished": False}, {"stalled": 90.0}):
        assert judge(replace(calm, **change), 20) is None, change
        with_loop = judge(replace(calm, **change, compression=3.0), 20)
        assert with_loop is not None, change
        assert "compresses 3.0 times" in with_loop.reason
    assert judge(replace(calm, compression=9.0), 20) is None, "compression is never enough"
    both = judge(replace(calm, chars_per_s=40.0, finished=False), 20)
    assert both is not None
    assert (both.first, both.last) == (0, 20), "attention tells no stretch"


def test_nothing_decoded_is_no_runaway() -> None:
    assert judge(Evidence(0.0, 0.0, False, 0.0), 0) is None
    assert evidence_of("", sound(1.0), True).compression == 0.0


def test_the_worst_stretch_against_all_stretches() -> None:
    """The slow, obvious twin: every stretch is tried."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        n = int(rng.integers(1, 30))
        states = np.sort(rng.integers(0, 200, n)).tolist()
        chars = rng.integers(1, 9, n).tolist()
        worst, (first, last) = runaway_stretch(looking(states), chars)
        padded = [states[0], *states, states[-1]]
        smooth = [sorted(padded[i : i + 3])[1] for i in range(n)]
        front = np.maximum.accumulate(smooth)
        best = 0.0
        for a in range(n):
            for b in range(a + 1, n + 1):
                before = front[a - 1] if a else 0
                passed_s = (front[b - 1] - before) / 50
                best = max(best, sum(chars[a:b]) - 30.0 * passed_s)
        assert worst == pytest.approx(best)
        assert 0 <= first <= last <= n


def test_glances_elsewhere_do_not_move_the_front() -> None:
    states = [0, 2, 4, 199, 6, 8, 10, 0, 12]
    assert runaway_stretch(looking(states), [1] * 9)[0] < 9


def test_only_what_sounds_is_time_to_speak() -> None:
    assert sounding_s(sound(1.0, pause_s=9.0)) == pytest.approx(1.0, abs=0.05)
    assert sounding_s(np.zeros(RATE, "f4")) == pytest.approx(0.2)
    assert evidence_of("x" * 50, sound(1.0, 9.0), True).chars_per_s == pytest.approx(50, rel=0.05)
