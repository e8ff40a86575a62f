"""Expected words: what the prefix tree adds, against a slow twin; beam search with it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from hyperasr.errors import ConfigError
from hyperasr.whisper.biasing import ExpectedWords, word_starts
from hyperasr.whisper.search import SearchConfig, beam

EOS, A, B, C, D = 0, 1, 2, 3, 4  # a and b begin words, c and d go on with them
STARTS = torch.tensor([True, True, True, False, False])
WORDS = ((A, C), (A, C, D), (B,), (B, A, D), (A, B))


def slow_total(text: tuple[int, ...]) -> float:
    """The bonus of a whole text: its expected words, each as long as possible, from the left."""
    total, at = 0.0, 0
    while at < len(text):
        fits = [
            len(word)
            for word in WORDS
            if text[at : at + len(word)] == word
            and (at + len(word) == len(text) or bool(STARTS[text[at + len(word)]]))
        ]
        total += max(fits, default=0)
        at += max(fits, default=1)
    return total


def test_the_bonus_of_a_text_is_that_of_its_words() -> None:
    expected = ExpectedWords(WORDS, STARTS, bonus=1.0)
    # Where one word begins inside another that is left unfinished, the two may differ: the tree
    # follows one word at a time. Here none does.
    for n in range(1, 6):
        for text in itertools.product((A, B, C, D), repeat=n):
            added = sum(
                float(expected(torch.tensor([text[:i]]))[0, token])
                for i, token in enumerate((*text, EOS))
            )
            assert added >= 0, text
            if not any(text[i : i + 2] == (B, A) for i in range(n)):
                assert added == slow_total(text), text


def test_a_phrase_may_be_longer_than_python_recurses() -> None:
    expected = ExpectedWords([(A, *[C] * 5_000)], STARTS, bonus=1.0)
    assert float(expected(torch.tensor([[A]]))[0, C]) == 1.0


def test_the_bonus_is_per_token_and_in_nats() -> None:
    expected = ExpectedWords([(A, C, D)], STARTS, bonus=0.5)
    assert expected(torch.tensor([[B, A, C]]))[0].tolist() == [-1.0, -0.5, -1.0, -1.0, 0.5]


def logits_of(favoured: dict[int, float]) -> Tensor:
    return torch.tensor([[favoured.get(token, -9.0) for token in range(5)]])


@pytest.mark.parametrize(("bonus", "text"), [(0.0, (A,)), (0.4, (A,)), (1.0, (B, D))])
def test_beam_search_takes_an_expected_word_where_the_sound_leaves_it_open(
    bonus: float, text: tuple[int, ...]
) -> None:
    # a alone is a little more probable than b followed by d; b followed by d is expected.
    state: list[tuple[int, ...]] = [(), ()]

    def step(new: Tensor) -> Tensor:
        nonlocal state
        state = [(*old, token) for old, token in zip(state, new[:, -1].tolist(), strict=True)]
        rows = []
        for said in state:
            if said[-1] == A or len(said) == 3:
                rows.append(logits_of({EOS: 5.0}))
            elif said[-1] == B:
                rows.append(logits_of({D: 5.0}))
            else:
                rows.append(logits_of({A: 3.0, B: 2.0}))
        return torch.cat(rows)

    def reorder(rows: Tensor) -> None:
        nonlocal state
        state = [state[row] for row in rows.tolist()]

    config = SearchConfig(beam_size=2, expected=((B, D),), bonus=bonus)
    expected = ExpectedWords(config.expected, STARTS, bonus)
    found = beam(step, reorder, torch.tensor([[C]]), eos=EOS, config=config, expected=expected)
    assert found.tokens == (text,)
    # Log-probabilities are the model's own.
    first = torch.tensor([3.0, 2.0, -9.0, -9.0, -9.0]).log_softmax(-1)[int(text[0] == B)]
    assert found.logprobs[0][0] == pytest.approx(float(first), abs=1e-5)


def test_expected_words_need_beams() -> None:
    with pytest.raises(ConfigError, match="need beams"):
        SearchConfig(expected=((1,),))


def test_where_words_begin() -> None:
    vocabulary = {
        "\u0120cat": 0,
        "alog": 1,
        ",": 2,
        "\u0120": 3,
        "'s": 4,
        "<|endoftext|>": 5,
        "4": 6,
    }
    assert word_starts(vocabulary, 5, 7).tolist() == [True, False, True, True, True, True, True]
    # Multilingual Whispers have an empty token before the end of text.
    assert word_starts({"a": 0, "": 1, "<|endoftext|>": 2}, 2, 3).tolist() == [False, True, True]
