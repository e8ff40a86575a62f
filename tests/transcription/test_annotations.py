"""Formats for annotators: read back by the libraries that annotators use."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
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
        tuple(Word(word, 0.9 - 0.055 * i, *times[i], 0.1) for i, word in enumerate(words)),
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
    assert [row["word"] for row in rows if row["doubtful"] == "yes"] == ["a-a-actually."]
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
        "doubtful",
        "clean",
        "edits",
        "unclear",
    )
    assert grid.maxTimestamp == 9.0
    words = [e for e in grid.getTier("words").entries if e.label]
    assert [e.label for e in words] == [*WORDS, "go", "[unclear]"]
    assert (words[1].start, words[1].end) == (1.3, 1.55)
    assert [e.label for e in grid.getTier("unclear").entries if e.label] == ["no end of text"]
    assert [e.label for e in grid.getTier("doubtful").entries if e.label] == ["a-a-actually."]
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
    lines = chat(TRANSCRIPT, "a_b").splitlines()
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
        "*PAR:\t&-um turn on the [/] the &+l light now &+a &+a actually [?] . \x151000_3700\x15",
        "*PAR:\tgo xxx . \x156000_8000\x15",
    ]
    times = next(line for line in lines if line.startswith("%wor:\t"))
    assert times.startswith("%wor:\tum \x151000_1250\x15 turn \x151300_1550\x15")
    assert sum(line.startswith("%xpro:\t") for line in lines) == 2
    assert not any(line.startswith("%wor") for line in chat(PLAIN, "p").splitlines())


def test_chat_of_phrases_questions_and_other_languages() -> None:
    asked = Transcript("q", "", (segment(("I", "want", "I", "want", "[it]", "now?")),), 3.0)
    (main,) = [line for line in chat(asked, "q").splitlines() if line.startswith("*")]
    assert main.startswith("*PAR:\t<I want> [/] I want it now ? \x15")
    for code, iso in (("de", "deu"), ("haw", "haw"), ("xx", "und")):
        assert f"@Languages:\t{iso}" in chat(replace(asked, language=code), "q")
    assert [line for line in chat(EMPTY, "s").splitlines() if line.startswith("*")] == []


def read_back(words: Sequence[str], text: str | None = None) -> list[str]:
    """Return the words that pylangacq finds in a CHAT file of these, without the stop."""
    pylangacq = pytest.importorskip("pylangacq")
    spoken = tuple(Word(word, 0.9, 0.1 * i, 0.1 * i + 0.1) for i, word in enumerate(words))
    one = Segment(0.0, 9.0, " ".join(words) if text is None else text, -0.1, spoken)
    made = pylangacq.CHAT.from_strs([chat(Transcript("a", "", (one,), 9.0), "a")])
    return [token.word for u in made.utterances() for token in u.tokens][:-1]


@pytest.mark.parametrize(
    ("decoded", "written"),
    [
        ("we\u2019re", "we're"),  # CHAT takes straight apostrophes only
        *[(word, word) for word in ("3.5", "0.5", "-5", "10:30", "007", "'tis")],
        *[(word, word) for word in ("goin'", "well-known", "cafe\u0301", "हिन्दी", "می\u200cرود")],
        *[(word, word) for word in ("日本語", "Ἑλλάς", "x_y", "F_B_I", "½")],
        ("(yes),", "yes"),
        ("“go!”", "go"),
        ("¿qué?", "qué"),
        ("AT&T", "AT_T"),
        ("me@home.org", "me_home_org"),
        ("3,000", "3_000"),
        ("100%", "100"),
        (".5", "5"),
        ("&", "_"),
        ("0", "_0"),
        ("2-0", "2_0"),
        ("xxx", "_xxx"),
    ],
)
def test_words_come_back_from_chat(decoded: str, written: str) -> None:
    assert read_back(["so", decoded, "then"]) == ["so", written, "then"]
    (main,) = [line for line in chat_of(decoded) if line.startswith("*")]
    bare = decoded.replace("\u2019", "'").strip("“”!¿?(),")
    assert (f" [= {bare}]" in main) is (bare != written)


def chat_of(*words: str) -> list[str]:
    one = Segment(0.0, 1.0, "x", -0.1, tuple(Word(word, 0.9) for word in words))
    return chat(Transcript("a", "x", (one,), 1.0), "a").splitlines()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.text("a0.'-_&@[]<>()*+^:;,%$#/\\\"“’xéÉ\u0301हिİ𝔸日♪", min_size=1, max_size=5),
        max_size=6,
    )
)
def test_pylangacq_reads_whatever_is_decoded(words: list[str]) -> None:
    found = read_back(words)
    letters = [w for w in words if any(c.isalnum() for c in w)]
    lines = chat_of(*words)
    edited = any(mark in line for line in lines for mark in ("[/]", "&-", "&+"))
    assert edited or len(found) >= len(letters)


def test_chat_has_no_time_without_length() -> None:
    still = (Word("a", 0.9, 0.5, 0.5), Word("b", 0.9, 0.5004, 0.5001), Word("c", 0.9, -0.2, 0.1))
    one = Segment(0.0, 0.0, "a b c", -0.1, still)
    main, wor = chat(Transcript("a", "", (one,), 1.0), "a").splitlines()[7:9]
    assert (main, wor) == ("*PAR:\ta b c .", "%wor:\ta b c \x150_100\x15 .")
