"""The domain's text: lower-case words, spoken numbers, the same for the same seed."""

from __future__ import annotations

import random
import re

import pytest

from train import domain
from train.domain import number_words, sample_text

WORDS = set(
    " ".join(
        [
            *(" ".join(value) for value in vars(domain).values() if isinstance(value, list)),
            # What the sentences are made of, besides the lists.
            "oh hundred thousand and an area code nineteen thirtieth the of a m p turn switch on",
            "off in set timer alarm for minutes seconds hours wake me up at remind call my send",
            "message to play some i want order volume temperature heater how is weather add",
            "shopping list open door window garage",
        ]
    ).split()
)


def test_all_text_is_lower_case_words_of_the_domain() -> None:
    rng = random.Random(1)
    said = set()
    for _ in range(4_000):
        text = sample_text(rng)
        assert re.fullmatch(r"[a-z]+( [a-z]+)*", text), text
        said |= set(text.split())
    assert said <= WORDS
    assert {*domain.DIGITS, *domain.LETTERS, *domain.RADIO, *domain.CONTROL} <= said


def test_text_is_its_seed() -> None:
    texts = [[sample_text(random.Random(seed)) for seed in range(50)] for _ in range(2)]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 35, "and another one for another seed"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "zero"),
        (9, "nine"),
        (13, "thirteen"),
        (20, "twenty"),
        (45, "forty five"),
        (100, "one hundred"),
        (1000, "one thousand"),
    ],
)
def test_numbers(value: int, words: str) -> None:
    assert number_words(value, random.Random(0)) == words


def test_numbers_with_and_without_and() -> None:
    said = {number_words(342, random.Random(seed)) for seed in range(30)}
    assert said == {"three hundred forty two", "three hundred and forty two"}


def value_of(words: list[str]) -> int:
    """Read a spoken number: the slow way back."""
    total = part = 0
    for word in words:
        if word == "thousand":
            total, part = total + 1000 * part, 0
        elif word == "hundred":
            part *= 100
        elif word in domain.TENS:
            part += 20 + 10 * domain.TENS.index(word)
        elif word in domain.TEENS:
            part += 10 + domain.TEENS.index(word)
        elif word != "and":
            part += domain.DIGITS.index(word)
    return total + part


def test_every_number_is_said_right() -> None:
    rng = random.Random(0)
    for value in [*range(1_200), *range(1_200, 10_000, 37), 9_999]:
        assert value_of(number_words(value, rng).split()) == value
