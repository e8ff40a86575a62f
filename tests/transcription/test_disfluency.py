"""Clean text is an edit list over the verbatim words: what goes and what stays."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperasr.transcription.disfluency import apply_edits, clean_edits, pieces
from hyperasr.types import Segment, Word

CLEANED = [
    ("a-a-actually i like it", "actually i like it"),
    ("A-a-Actually", "Actually"),
    ("S-s-seven", "Seven"),
    ("um-um turn on the light", "turn on the light"),
    ("um uh turn er on", "turn on"),
    ("l- l- light", "light"),
    ("turn on li- the light", "turn on the light"),
    ("the the the the light", "the light"),
    ("the um the light", "the light"),
    ("the l- the light", "the light"),
    ("i i i want", "i want"),
    ("a a cat", "a cat"),
    ("i want i want to go", "i want to go"),
    ("turn on turn on turn on the light", "turn on the light"),
    ("go to the go to the store", "go to the store"),
    ("the-the light", "the light"),
    ("the the-the light", "the light"),
    ("wi-wi-with the the l- light", "with the light"),
    ("re-re-read it", "re-read it"),
    ("call two two call two two", "call two two"),
    ("that that that is", "that that is"),
    ("the, the light", "the light"),
    ("Um, the the cat sat, um.", "The cat sat."),
    ("um", ""),
    ("", ""),
]

KEPT = [
    "had had",
    "what he had had that that was",
    "very very good",
    "no no stop",
    "bye-bye",
    "two two five five",
    "nine nine nine",
    "one two one two",
    "twenty one twenty one",
    "b b c",
    "spell b a a c",
    "a b a b",
    "alpha alpha bravo",
    "3 3 4 4",
    "re-read it",
    "co-coordinate",
    "t-test",
    "twenty-two",
    "over and over and over",
    "mm-hmm",
    "uh-huh",
    "uh-oh",
    "oh",
    "Yes. Yes.",
    "turn on the light in the kitchen",
    "the more the better",
    "[unclear] [unclear] light",
]


@pytest.mark.parametrize(("verbatim", "clean"), CLEANED)
def test_what_goes(verbatim: str, clean: str) -> None:
    words = verbatim.split()
    edits = clean_edits(words)
    assert " ".join(apply_edits(words, edits)) == clean


@pytest.mark.parametrize("text", KEPT)
def test_what_stays(text: str) -> None:
    assert clean_edits(text.split()) == ()


def test_each_edit_says_what_and_when() -> None:
    words = "um the the l- light a-a-actually".split()
    times = [(float(i), i + 0.5) for i in range(len(words))]
    edits = clean_edits(words, times)
    found = [(e.kind, e.text, e.replacement, e.start_s, e.end_s) for e in edits]
    assert found == [
        ("filler", "um", "", 0.0, 0.5),
        ("repetition", "the", "", 1.0, 1.5),
        ("part_word", "l-", "", 3.0, 3.5),
        ("part_word", "a-a-actually", "actually", 5.0, 5.5),
    ]
    assert [e.start_s for e in clean_edits(words)] == [None] * 4


def test_the_last_copy_is_the_one_that_stays() -> None:
    # It is the fluent one; the times of the clean word are its own.
    (edit,) = clean_edits("the the the light".split())
    assert (edit.first, edit.last) == (0, 2)


@pytest.mark.parametrize(
    ("verbatim", "shown", "said"),
    [
        ("I saw the dog um.", "dog.", "dog"),
        ("Um, the dog", "The", "the"),
        ("um a-a-actually", "actually", "a-a-actually"),
    ],
)
def test_a_word_takes_a_capital_or_a_full_stop_and_stays_itself(
    verbatim: str, shown: str, said: str
) -> None:
    words = verbatim.split()
    edits = clean_edits(words)
    clean = " ".join(apply_edits(words, edits))
    segment = Segment(0.0, 9.0, verbatim, -0.5, tuple(Word(w, 0.9) for w in words), edits, clean)
    found = {text: word.text for text, word in pieces(segment, "clean") if word is not None}
    assert found[shown] == said


def test_fillers_are_a_languages_own() -> None:
    (edit,) = clean_edits(["ähm", "licht"], language="de")
    assert (edit.kind, edit.text) == ("filler", "ähm")
    assert clean_edits(["ähm", "licht"]) == ()
    # `um` is a word in German and in Portuguese, and of most languages nothing is known.
    for language in ("de", "pt", "sw"):
        assert clean_edits(["um", "acht"], language=language) == ()


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            "um Um, um. the The the, the. l- li- light a-a-actually A-a-Actually the-the had two "
            "b i I a [unclear] bye-bye - -- . go go-".split()
        ),
        max_size=12,
    )
)
def test_every_edit_says_what_it_changes(words: list[str]) -> None:
    edits = clean_edits(words)
    clean = apply_edits(words, edits)
    for one, following in pairwise(edits):
        assert one.first < one.last <= following.first
    assert all(" ".join(words[e.first : e.last]) == e.text for e in edits)
    # Cleaning takes away; it invents no word.
    said = {part for word in words for part in word.casefold().strip(".,").split("-")}
    assert all(part in said for w in clean for part in w.casefold().strip(".,").split("-"))
