"""Marks and capitals of one text against another, by hand."""

from __future__ import annotations

import pytest

from eval.writing import Agreement, compare, rows_of


def test_marks_and_capitals_by_hand() -> None:
    marks, capitals, n_words = compare(
        "Well, he went home. Did Anna stay? Yes.", "well he went home, did Anna stay? Yes."
    )
    assert n_words == 8
    assert marks == Agreement(both=2, hypothesis=3, reference=4)  # ? and . alike, one comma wrong
    assert capitals == Agreement(both=2, hypothesis=2, reference=4)
    assert marks.precision == pytest.approx(2 / 3)
    assert marks.recall == pytest.approx(0.5)
    assert marks.f1 == pytest.approx(4 / 7)


def test_words_that_only_one_wrote_do_not_count() -> None:
    marks, capitals, n_words = compare('He said, "Stop!" Then left.', "He said stop. Left.")
    assert n_words == 4
    assert marks == Agreement(both=1, hypothesis=2, reference=3)
    assert capitals == Agreement(both=1, hypothesis=2, reference=2)
    assert compare("", "Anything.") == (Agreement(), Agreement(), 0)


def test_rows_add_up_over_utterances() -> None:
    marks, capitals = rows_of("hypernet", ["A b.", "C d."], ["A b.", "c d"])
    assert marks["value"] == pytest.approx(2 / 3)
    assert (marks["precision"], marks["recall"]) == (1.0, 0.5)
    assert (capitals["n_marked"], capitals["n_words"]) == (2, 4)
    nothing, _ = rows_of("hypernet", ["a"], ["a"])
    assert nothing["value"] is None
