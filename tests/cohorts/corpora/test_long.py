"""Long recordings come in pieces that Whisper can hear, and their times map back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hyperasr.audio.reading import load
from hyperasr.cohorts.corpora.base import Description, Prepared
from hyperasr.types import Utterance

ABOUT = Description("x", "X", "", "", "", "rows", ("en",))
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
    return Prepared(ABOUT, Path(row.path).parent, lambda root, report: [row])


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


def test_ids_of_pieces_are_used_up(long: Path) -> None:
    row = Utterance("a", str(long), speaker="s", extra={"channel": "1"})
    named = replace(row, id="a-0001", end_s=1.0)
    for rows in ([row, named], [named, row]):
        ready = Prepared(ABOUT, long.parent, lambda root, report, rows=rows: rows)
        ids = [piece.id for piece in ready]
        assert len(ids) == len(set(ids))
        assert ready.report.skipped == {"duplicate id": 1}
        assert ready.report.n_rows == len(ids)


def test_a_header_without_a_length_hides_no_long_recording(long: Path, tmp_path: Path) -> None:
    """Writers that were interrupted leave a size of 0."""

    def unclosed(seconds: int) -> Utterance:
        path = tmp_path / f"{seconds}.wav"
        soundfile.write(path, soundfile.read(long, frames=seconds * RATE)[0], RATE)
        data = bytearray(path.read_bytes())
        data[4:8], data[40:44] = (36).to_bytes(4, "little"), bytes(4)
        path.write_bytes(data)
        return Utterance("a", str(path), extra={"channel": "1"})

    rows = unclosed(70), unclosed(5)
    pieces = list(prepared(rows[0]))
    assert len(pieces) >= 3
    assert all(piece.end_s - piece.start_s <= 30.0 for piece in pieces)
    short = prepared(rows[1])
    assert list(short) == [rows[1]]
    assert not short.report.notes
    spoken = prepared(replace(rows[0], text="a passage"))
    assert len(list(spoken)) == 1
    assert (spoken.report.notes, spoken.report.duration_s) == ({}, 0.0), "nobody knows its length"
