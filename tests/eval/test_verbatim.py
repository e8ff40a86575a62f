"""What a text writes of repetitions, part-words and fillers, by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from eval.verbatim import invented, rows_of, written

MEANT = "I went to the light"
HEARD = "I went went went to er the l- l- light"


@pytest.mark.parametrize(
    ("hypothesis", "found"),
    [
        (HEARD, {"repetitions": 2, "part_words": 2, "fillers": 1}),
        (MEANT, {}),
        ("I went went to the light", {"repetitions": 1}),
        ("I to the l- light", {"part_words": 1}),
        ("I went to er the light light", {"fillers": 1}),
        ("", {}),
    ],
)
def test_what_is_written_by_hand(hypothesis: str, found: dict[str, int]) -> None:
    all_of, own = written(MEANT, HEARD, hypothesis)
    assert all_of == Counter(repetitions=2, part_words=2, fillers=1)
    assert +own == Counter(found)


@pytest.mark.parametrize(
    ("hypothesis", "n"),
    [
        (MEANT, 0),
        ("I went went to um the li- light", 3),
        ("I went out to the lights", 0),  # errors, but of another kind
        ("", 0),
    ],
)
def test_what_is_invented_by_hand(hypothesis: str, n: int) -> None:
    assert invented(MEANT, hypothesis) == n


def test_rows_of_a_system() -> None:
    cohorts = ["stuttering", "typical"]
    texts = [f"{HEARD.capitalize()}.", "I, I went to the light."]
    rows = {
        (row["measure"], row.get("kind", row.get("cohort"))): row["value"]
        for row in rows_of("one", cohorts, [MEANT] * 2, [HEARD, MEANT], texts)
    }
    assert rows == {
        ("recall", "repetitions"): 1.0,
        ("recall", "part_words"): 1.0,
        ("recall", "fillers"): 1.0,
        ("invented", None): 0.2,
        ("verbatim", "stuttering"): 0.0,
        ("verbatim", "typical"): 0.2,
        ("clean", "stuttering"): 0.0,
        ("clean", "typical"): 0.0,
    }
