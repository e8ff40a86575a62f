"""Marks and capitals of one text against another, by hand."""

from __future__ import annotations

import pytest

from eval.writing import compare, rows_of


@pytest.mark.parametrize(
    ("reference", "hypothesis", "n_words", "marks", "capitals"),
    [
        # ? and . alike, one comma wrong
        (
            "Well, he went home. Did Anna stay? Yes.",
            "well he went home, did Anna stay? Yes.",
            8,
            (2, 3, 4),
            (2, 2, 4),
        ),
        # words that only one wrote do not count
        (
            'He said, "Stop!" Then left.',
            "He said stop. Left.",
            4,
            (1, 2, 3),
            (1, 2, 2),
        ),
        ("", "Anything.", 0, (0, 0, 0), (0, 0, 0)),
    ],
)
def test_marks_and_capitals_by_hand(reference, hypothesis, n_words, marks, capitals) -> None:
    *counts, n = compare(reference, hypothesis)
    names = ("both", "hypothesis", "reference")
    assert [tuple(count[name] for name in names) for count in counts] == [marks, capitals]
    assert n == n_words


def test_rows_add_up_over_utterances() -> None:
    marks, capitals = rows_of("hypernet", ["A b.", "C d."], ["A b.", "c d"])
    assert marks["value"] == pytest.approx(2 / 3)
    assert (marks["precision"], marks["recall"]) == (1.0, 0.5)
    assert (capitals["n_marked"], capitals["n_words"]) == (2, 4)
    nothing, _ = rows_of("hypernet", ["a"], ["a"])
    assert nothing["value"] is None
