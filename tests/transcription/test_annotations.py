"""Formats for annotators: read back by the libraries that annotators use."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperasr.transcription.annotations import COLUMNS, chat, csv_table, textgrid
from hyperasr.transcription.disfluency import apply_edits, clean_edits
from hyperasr.types import Segment, Transcript, Unclear, Word

TEXT = 'um turn on the the l- light "now" a-a-actually.'
WORDS = tuple(TEXT.split())


def segment(words: tuple[str, ...] = WORDS, start_s: float = 1.0) -> Segment:
    times = tuple((start_s + 0.3 * i, start_s + 0.3 * i + 0.25) for i in range(len(words)))
    edits = clean_edits(words, times)
    return Segment(
        start_s,
        start_s + 0.3 * len(words),
        " ".join(words),
        -0.2,
        tuple(Word(word, 0.9 - 0.05 * i, *times[i], 0.1) for i, word in enumerate(words)),
        edits,
        " ".join(apply_edits(words, edits)),
    )


RAN_AWAY = Segment(
    6.0,
    8.0,
    "go [unclear]",
    -1.0,
    (Word("go", 0.8, 6.1, 6.4), Word("[unclear]", 0.0, 6.4, 8.0)),
    unclear=(Unclear(6.4, 8.0, "no end of text", "na na na", 1),),
)
TRANSCRIPT = Transcript("a b.wav", f"{TEXT} go [unclear]", (segment(), RAN_AWAY), 9.0)
PLAIN = Transcript("p.wav", "go", (Segment(0.0, 1.0, "go", -0.1, (Word("go", 0.9),)),), 1.0)
EMPTY = Transcript("s.wav", "", (), 2.0)


def test_a_table_has_a_row_for_each_word() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_table(TRANSCRIPT))))
    assert tuple(rows[0]) == COLUMNS
    assert [row["word"] for row in rows] == [*WORDS, "go", "[unclear]"]
    assert [row["segment"] for row in rows] == ["1"] * len(WORDS) + ["2", "2"]
    assert rows[1]["start_s"] == "1.300"
    assert [row["edit"] for row in rows if row["edit"]] == [
        "filler",
        "repetition",
        "part_word",
        "part_word",
    ]
    assert rows[len(WORDS) - 1]["replacement"] == "actually."
    assert rows[-1]["unclear"] == "no end of text"
    assert rows[0]["uncertainty"] == "0.1000"
    (plain,) = csv.DictReader(io.StringIO(csv_table(PLAIN)))
    assert (plain["start_s"], plain["uncertainty"], plain["edit"]) == ("", "", "")
    assert csv_table(EMPTY) == ",".join(COLUMNS) + "\n"


def test_praat_reads_the_grid(tmp_path: Path) -> None:
    textgrids = pytest.importorskip("praatio.textgrid")
    path = tmp_path / "a.TextGrid"
    path.write_text(textgrid(TRANSCRIPT), encoding="utf-8")
    grid = textgrids.openTextgrid(str(path), includeEmptyIntervals=True)
    assert grid.tierNames == (
        "segments",
        "words",
        "probability",
        "uncertainty",
        "clean",
        "edits",
        "unclear",
    )
    assert grid.maxTimestamp == 9.0
    words = [e for e in grid.getTier("words").entries if e.label]
    assert [e.label for e in words] == [*WORDS, "go", "[unclear]"]
    assert (words[1].start, words[1].end) == (1.3, 1.55)
    assert [e.label for e in grid.getTier("unclear").entries if e.label] == ["no end of text"]
    assert [e.label for e in grid.getTier("clean").entries if e.label] == [
        TRANSCRIPT.segments[0].clean
    ]
    for name in grid.tierNames:
        entries = grid.getTier(name).entries
        assert entries[0].start == 0.0
        assert entries[-1].end == 9.0
        assert all(a.end == b.start for a, b in pairwise(entries))
    for transcript, names in ((PLAIN, 1), (EMPTY, 0)):
        path.write_text(textgrid(transcript), encoding="utf-8")
        grid = textgrids.openTextgrid(str(path), includeEmptyIntervals=False)
        assert len(grid.getTier("segments").entries) == names


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 5), st.floats(0, 1), st.text("a\"'b \n]", max_size=4))),
    st.floats(0, 6),
)
def test_every_grid_is_one_that_praat_takes(
    spans: list[tuple[float, float, str]], duration_s: float
) -> None:
    # Borders of words may coincide, overlap by rounding, or lie past the end of the recording.
    words = tuple(Word(t or "x", 0.5, start, start + length) for start, length, t in sorted(spans))
    one = Segment(0.0, 7.0, "x", -0.1, words)
    lines = textgrid(Transcript("a", "x", (one,), duration_s)).splitlines()
    borders = [float(line.split("=")[1]) for line in lines if re.match(r" {12}xm", line)]
    pairs = list(zip(borders[::2], borders[1::2], strict=True))
    assert all(start < end for start, end in pairs)
    assert all(b == c or c == 0.0 for (_, b), (c, _) in pairwise(pairs))
    texts = [line for line in lines if line.strip().startswith("text =")]
    assert all(line.split("= ", 1)[1].count('"') % 2 == 0 for line in texts)


def test_chat_has_the_marks_of_talkbank() -> None:
    lines = chat(TRANSCRIPT).splitlines()
    assert lines[:6] == [
        "@UTF8",
        "@Begin",
        "@Languages:\teng",
        "@Participants:\tPAR Participant",
        "@ID:\teng|hyperasr|PAR|||||Participant|||",
        "@Media:\ta_b, audio",
    ]
    assert lines[-1] == "@End"
    mains = [line for line in lines if line.startswith("*PAR:\t")]
    assert mains == [
        "*PAR:\t&-um turn on the [/] the &+l light now &+a &+a actually . \x151000_3700\x15",
        "*PAR:\tgo xxx . \x156000_8000\x15",
    ]
    times = next(line for line in lines if line.startswith("%wor:\t"))
    assert times.startswith("%wor:\tum \x151000_1250\x15 turn \x151300_1550\x15")
    assert sum(line.startswith("%xpro:\t") for line in lines) == 2
    assert not any(line.startswith("%wor") for line in chat(PLAIN).splitlines())


def test_chat_of_phrases_questions_and_other_languages() -> None:
    asked = Transcript("q", "", (segment(("I", "want", "I", "want", "[it]", "now?")),), 3.0)
    (main,) = [line for line in chat(asked).splitlines() if line.startswith("*")]
    assert main.startswith("*PAR:\t<I want> [/] I want it now ? \x15")
    assert "@Languages:\tdeu" in chat(replace(asked, language="de"))
    assert "@Languages:\tund" in chat(replace(asked, language="haw"))
    assert [line for line in chat(EMPTY).splitlines() if line.startswith("*")] == []
