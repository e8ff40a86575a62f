"""What is marked for a person at a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from hyperasr.cli.terminal import (
    DOUBTFUL_STYLE,
    UNCLEAR_STYLE,
    marked,
    marked_segment,
)
from hyperasr.transcription.disfluency import apply_edits, clean_edits
from hyperasr.types import Segment, Transcript, Word

WORDS = ("Um,", "the", "the", "a-a-apple", "[unclear]")
CHANCES = (0.9, 0.4, 0.6, 0.3, 0.0)


def segment(doubt: Sequence[float | None] = (None,) * len(WORDS)) -> Segment:
    edits = clean_edits(WORDS)
    return Segment(
        0.0,
        1.0,
        " ".join(WORDS),
        -0.1,
        tuple(Word(*word, uncertainty=u) for *word, u in zip(WORDS, CHANCES, doubt, strict=True)),
        edits=edits,
        clean=" ".join(apply_edits(WORDS, edits)),
    )


def styles(segment: Segment, mode: str = "verbatim") -> list[tuple[str, str]]:
    text = marked_segment(segment, mode)
    return [(text.plain[s.start : s.end], str(s.style)) for s in text.spans if str(s.style)]


def test_improbable_words_are_marked() -> None:
    assert styles(segment()) == [
        ("[?the]", DOUBTFUL_STYLE),
        ("[?a-a-apple]", DOUBTFUL_STYLE),
        ("[unclear]", UNCLEAR_STYLE),
    ]


def test_words_that_samples_doubt_are_marked() -> None:
    doubted = segment((0.0, 0.0, 0.6, 0.0, 0.0))
    assert doubted.words[2].doubtful
    assert not segment().words[2].doubtful
    assert ("[?the]", DOUBTFUL_STYLE) in styles(doubted)
    assert len(styles(doubted)) == 4


def test_clean_text_keeps_the_marks_of_its_words() -> None:
    text = marked_segment(segment(), "clean")
    assert text.plain == "The [?apple] [unclear]"
    assert styles(segment(), "clean") == [
        ("[?apple]", DOUBTFUL_STYLE),
        ("[unclear]", UNCLEAR_STYLE),
    ]


def test_text_is_changed_by_nothing_but_marks() -> None:
    joined = Segment(0.0, 1.0, "日本", -0.1, (Word("日", 0.9), Word("本", 0.2)))
    wordless = Segment(1.0, 2.0, "turn on", -0.1)
    assert marked_segment(joined).plain == "日[?本]"
    assert marked_segment(wordless, "clean").plain == "turn on"
    empty = Segment(2.0, 3.0, "", 0.0)
    transcript = Transcript("a", "日本 turn on", (joined, wordless, empty), 3.0)
    assert marked(transcript, marks=False).plain == "日本 turn on"
