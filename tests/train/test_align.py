"""Words are found where they were said, by the most probable of all paths."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from hyperasr.errors import ConfigError, ShapeError
from train.align import Aligner, WordSpan

TEXTS = ["one two", "two one", "a b a b", "two a one b", "b", "too"]
LETTERS = sorted({c for text in TEXTS for c in text})


def said(text: str, rng: np.random.Generator) -> tuple[Tensor, list[tuple[int, int]]]:
    """Return states in which each character is another direction, and where each of them is."""
    directions = np.random.default_rng(0).normal(size=(len(LETTERS) + 1, 16))
    labels, places = [len(LETTERS)] * int(rng.integers(1, 5)), []
    for character in text:
        n = int(rng.integers(2, 5))
        places.append((len(labels), len(labels) + n))
        labels += [LETTERS.index(character)] * n + [len(LETTERS)] * int(rng.integers(1, 4))
    states = directions[labels] + rng.normal(scale=0.3, size=(len(labels), 16))
    return torch.tensor(states, dtype=torch.float32), places


def best_path(scores: np.ndarray, ids: list[int]) -> list[int]:
    """Return the place of each state on the path with blanks, of all ways there are."""
    path = [0]
    for i in ids:
        path += [i, 0]
    n, best = len(scores), (-np.inf, [0])
    for cuts in combinations(range(1, n), len(path) - 1):
        ends = (0, *cuts, n)
        places = [p for p, (a, b) in enumerate(pairwise(ends)) for _ in range(a, b)]
        total = sum(scores[t, path[p]] for t, p in enumerate(places))
        best = max(best, (total, places))
    return best[1]


@pytest.fixture(scope="module")
def learnt() -> Aligner:
    rng = np.random.default_rng(1)
    texts = [TEXTS[i % len(TEXTS)] for i in range(120)]
    torch.manual_seed(0)
    aligner = Aligner(16, TEXTS)
    assert aligner.learn([said(text, rng)[0] for text in texts], texts, epochs=40, lr=0.02) < 0.3
    return aligner


def test_words_are_where_they_were_said(learnt: Aligner) -> None:
    rng = np.random.default_rng(2)
    states, places = zip(*(said(text, rng) for text in TEXTS), strict=True)
    for text, where, spans in zip(TEXTS, places, learnt.spans(states, TEXTS), strict=True):
        assert [span.word for span in spans] == text.split()
        first = 0
        for span in spans:
            (a, b), (c, d) = where[first], where[first + len(span.word) - 1]
            assert a - 1 <= 50 * span.start_s <= b
            assert c <= 50 * span.end_s <= d + 1
            first += len(span.word) + 1


def test_path_is_the_best_of_all(learnt: Aligner) -> None:
    text = "a b"
    rng = np.random.default_rng(3)
    states = said(text, rng)[0][:12]
    with torch.no_grad():
        scores = learnt.net(states).numpy()
    places = best_path(scores, [learnt.id_of[c] for c in text])
    expected = []
    for word, place in (("a", 1), ("b", 5)):
        at = [t for t, p in enumerate(places) if p == place]
        expected.append(WordSpan(word, at[0] / 50, (at[-1] + 1) / 50))
    assert learnt.spans([states], [text]) == [expected]


def test_company_changes_nothing(learnt: Aligner) -> None:
    rng = np.random.default_rng(4)
    states = [said(text, rng)[0] for text in TEXTS]
    alone = [learnt.spans([x], [text])[0] for x, text in zip(states, TEXTS, strict=True)]
    assert learnt.spans(states, TEXTS) == alone


def test_text_that_does_not_fit_has_no_words(learnt: Aligner) -> None:
    states = said("b", np.random.default_rng(5))[0]
    assert learnt.spans([states, states[:2]], ["b", "one two"])[1] == []


def test_unknown_character_is_named(learnt: Aligner) -> None:
    states = said("b", np.random.default_rng(6))[0]
    with pytest.raises(ConfigError, match="'x', which the aligner never learnt"):
        learnt.spans([states], ["b x"])


def test_as_many_texts_as_utterances() -> None:
    with pytest.raises(ShapeError, match="0 utterances with 1 texts"):
        Aligner(4, ["a"]).learn([], ["a"])
