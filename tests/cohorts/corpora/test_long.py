"""Long recordings come in pieces that Whisper can hear, and their times map back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from hyperasr.audio.reading import load
from hyperasr.cohorts.corpora.base import Description, Prepared
from hyperasr.types import Utterance

RATE = 16_000
TALKS = [(0.0, 18.0), (19.0, 34.0), (36.0, 61.0), (62.0, 70.0)]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventy seconds: noise with three pauses, in the second of two channels."""
    wave = np.zeros((70 * RATE, 2), np.float32)
    noise = np.random.default_rng(0).normal(0, 0.1, 70 * RATE)
    for start, end in TALKS:
        wave[round(start * RATE) : round(end * RATE), 1] = noise[
            round(start * RATE) : round(end * RATE)
        ]
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, wave, RATE)
    return path


def prepared(row: Utterance) -> Prepared:
    about = Description("x", "X", "", "", "", "rows", ("en",))
    return Prepared(about, Path(row.path).parent, lambda root, report: [row])


def test_a_long_recording_is_cut_in_its_pauses(long: Path) -> None:
    row = Utterance("a", str(long), speaker="s", extra={"channel": "1"})
    ready = prepared(row)
    pieces = list(ready)
    assert [piece.id for piece in pieces] == [f"a-{k:04d}" for k in range(len(pieces))]
    assert len(pieces) >= 3
    total_s = 0.0
    for piece in pieces:
        assert 0 < piece.end_s - piece.start_s <= 30.0
        assert (piece.speaker, piece.path, piece.channel) == ("s", str(long), 1)
        total_s += piece.end_s - piece.start_s
    # No talk is lost, and no cut goes through one.
    for start, end in TALKS:
        inside = [p for p in pieces if p.start_s <= start + 0.1 and p.end_s >= end - 0.1]
        assert len(inside) == 1
    assert ready.report.n_rows == len(pieces)
    assert ready.report.duration_s == pytest.approx(total_s)
    assert any("cut at pauses" in what for what in ready.report.notes)


def test_times_of_pieces_are_those_of_the_recording(long: Path) -> None:
    """The second half alone, cut: what a piece names is what is heard there."""
    row = Utterance("a", str(long), start_s=36.0, end_s=70.0, extra={"channel": "1"})
    whole = load(long, channel=1)
    pieces = list(prepared(row))
    assert pieces[0].start_s >= 36.0
    for piece in pieces:
        heard = load(piece.path, start_s=piece.start_s, end_s=piece.end_s, channel=1)
        first = round(piece.start_s * RATE)
        np.testing.assert_array_equal(heard, whole[first : first + len(heard)])
        assert np.abs(heard).max() > 0.05


def test_a_text_without_times_is_not_torn(long: Path) -> None:
    row = Utterance("a", str(long), text="a whole passage", extra={"channel": "1"})
    ready = prepared(row)
    assert list(ready) == [row]
    assert any("training leaves it out" in what for what in ready.report.notes)


def test_what_is_short_stays(long: Path) -> None:
    short = Utterance("a", str(long), start_s=0.0, end_s=30.0)
    assert list(prepared(short)) == [short]
