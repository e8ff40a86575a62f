"""What is not speech is silenced where it lasts, and every sample keeps its time."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hyperasr.audio.reading import load
from hyperasr.audio.segments import Pauses
from hyperasr.audio.vad import WINDOW, Silencer, silero
from hyperasr.cli.parser import main
from hyperasr.errors import MissingExtra
from hyperasr.whisper.weights import ASSETS

RATE = 16_000
PAUSES = Pauses(long_silence_s=0.5, margin_s=0.1)  # 16 and 3 windows
LONG, MARGIN = 16, 3


def by_level(window: np.ndarray) -> float:
    """A detector for these tests: loud is speech."""
    return float(np.abs(window).max() > 0.5)


def windows(pattern: str) -> np.ndarray:
    """A recording from letters, one a window: S is speech, n is noise; no sample is 0."""
    return np.concatenate([np.full(WINDOW, 1.0 if c == "S" else 0.1, "f4") for c in pattern])


def silenced_pattern(pattern: str) -> str:
    """The slow, obvious twin: look at the whole pattern at once."""
    out = list(pattern)
    start = 0
    while start < len(pattern):
        end = start
        while end < len(pattern) and pattern[end] == pattern[start]:
            end += 1
        if pattern[start] == "n" and end - start > LONG:
            first = start + (MARGIN if start else 0)
            last = end - (MARGIN if end < len(pattern) else 0)
            out[first:last] = "." * (last - first)
        start = end
    return "".join(out)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("Sn"), st.integers(1, 40)), max_size=7),
    st.integers(32, 3 * WINDOW),
    st.integers(0, WINDOW - 1),
)
@example([("S", 2), ("n", LONG + 1), ("S", 1)], 1, 7)
def test_long_noise_becomes_silence(runs: list[tuple[str, int]], size: int, rest: int) -> None:
    pattern = "".join(letter * n for letter, n in runs)
    waveform = windows(pattern) if pattern else np.zeros(0, "f4")
    waveform = np.concatenate([waveform, np.full(rest, 0.1, "f4")])
    pattern += "n" * (rest > 0)
    silencer = Silencer(by_level, PAUSES)
    pieces = (waveform[i : i + size] for i in range(0, len(waveform), size))
    out = np.concatenate([np.zeros(0, "f4"), *silencer(pieces)])
    assert len(out) == len(waveform)
    expected = waveform.copy()
    for index, letter in enumerate(silenced_pattern(pattern)):
        if letter == ".":
            expected[index * WINDOW : (index + 1) * WINDOW] = 0.0
    assert np.array_equal(out, expected)
    assert silencer.n_silenced(0, len(waveform)) == np.count_nonzero(out == 0)
    half = len(waveform) // 2
    assert silencer.n_silenced(0, half) == np.count_nonzero(out[:half] == 0)


def test_it_holds_no_more_than_a_pause() -> None:
    n_read = 0

    def noise() -> object:
        nonlocal n_read
        while True:
            n_read += 1
            yield np.full(WINDOW, 0.1, "f4")

    out = Silencer(by_level, PAUSES)(noise())  # type: ignore[arg-type]
    for index in range(200):
        next(out)
        assert n_read - index <= LONG + 2


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(MissingExtra, match=r"install hyperasr\[vad\]"):
        silero()


def test_the_package_tells_speech_from_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("silero_vad")
    spoken = load(ASSETS / "demo" / "10-typical.ogg")
    rng = np.random.default_rng(0)
    noise = (0.03 * rng.normal(size=6 * RATE)).astype(np.float32)
    ready = silero()
    quiet = [ready()(noise[:WINDOW]) for _ in range(2)]
    assert quiet[0] == quiet[1], "each recording begins afresh"
    pauses = Pauses(long_silence_s=0.5, margin_s=0.1)
    silencer = Silencer(ready(), pauses)
    out = np.concatenate(list(silencer([noise, spoken, noise])))
    assert len(out) == len(spoken) + 2 * len(noise)
    parts = (0, len(noise), len(noise) + len(spoken), len(out))
    before, during, after = (silencer.n_silenced(a, b) / (b - a) for a, b in pairwise(parts))
    assert before > 0.8
    assert after > 0.8
    assert during < 0.3
    # The whole way: times stay true, and seconds without speech are counted.
    wav = tmp_path / "a.wav"
    soundfile.write(wav, np.concatenate([noise, spoken, noise]), RATE, subtype="FLOAT")
    call = ["transcribe", str(wav), "--offline", "--format", "json", "--vad", "silero"]
    assert main(call) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["discarded_s"] > 8
    first = min(word["start_s"] for s in values["segments"] for word in s["words"])
    assert 5.5 < first < 6 + len(spoken) / RATE
