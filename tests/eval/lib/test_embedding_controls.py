"""The controls: whose embedding a row gets."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from eval.lib.embedding_controls import (
    cohort_mean,
    control_embeddings,
    impossible,
    same_speaker_partner,
    shuffled_across_speakers,
)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_shuffling_gives_every_row_an_embedding_of_another_speaker(seed) -> None:
    speakers = ["a"] * 7 + ["b"] * 5 + ["c"] * 7 + ["d"] * 3 + ["a"] * 2
    partner = shuffled_across_speakers(speakers, seed)
    assert all(speakers[i] != speakers[j] for i, j in enumerate(partner))
    assert Counter(partner) == Counter(range(len(speakers)))  # each used once


def test_shuffling_depends_on_the_seed_and_nothing_else() -> None:
    speakers = [s for s in "abcdefgh" for _ in range(5)]
    assert shuffled_across_speakers(speakers, 1) == shuffled_across_speakers(speakers, 1)
    assert shuffled_across_speakers(speakers, 1) != shuffled_across_speakers(speakers, 2)


def test_one_speaker_of_most_rows_borrows_others_more_than_once() -> None:
    speakers = ["a"] * 7 + ["b"] * 2 + ["c"]
    for seed in range(4):
        partner = shuffled_across_speakers(speakers, seed)
        assert all(speakers[i] != speakers[j] for i, j in enumerate(partner))


def test_controls_that_mean_nothing_say_why() -> None:
    assert impossible("shuffled", ["a", "b"], ["als", "als"]) is None
    assert "one speaker" in (impossible("shuffled", ["a", "a"], ["als", "typical"]) or "")
    assert "one cohort" in (impossible("cohort_mean", ["a", "b"], ["als", "als"]) or "")
    two = ["als", "als", "typical"]
    reason = impossible("cohort_mean", ["a", "b", "c"], two)
    assert reason == "the cohort 'typical' has one speaker, and nobody else to take the mean of"
    assert impossible("cohort_mean", ["a", "b", "c", "d"], [*two, "typical"]) is None
    assert impossible("mean", ["a"], ["als"]) is None


def test_the_cohort_mean_leaves_the_speaker_out() -> None:
    embs = torch.tensor([[1.0], [3.0], [10.0], [20.0], [100.0], [5.0]])
    cohorts = ["x", "x", "x", "x", "y", "y"]
    speakers = ["ann", "ann", "bob", "cay", "ann", "bob"]
    found = cohort_mean(embs, cohorts, speakers)[:, 0].tolist()
    assert found == pytest.approx([15.0, 15.0, 8.0, 14.0 / 3, 5.0, 100.0])


def test_the_same_person_in_another_utterance(caplog) -> None:
    persons = ["a", "a", "a", "a", "b", "b", "c"]
    severities = [0.2, 0.5, 0.2, 0.9, 0.2, 0.5, 0.2]
    partner = same_speaker_partner(persons, severities)
    assert partner[0] == 2  # of the same severity
    assert partner[2] == 0
    assert partner[1] != 1  # of another one, since there is none
    assert (partner[4], partner[5]) == (5, 4)
    assert partner[6] == 6
    assert all(persons[i] == persons[j] for i, j in enumerate(partner))
    assert "1 of 7 rows have no other utterance" in caplog.text


def test_controls_by_name() -> None:
    embs = torch.arange(8.0).view(4, 2)
    columns = {
        "speakers": ["a", "a", "b", "b"],
        "persons": ["a", "a", "b", "b"],
        "cohorts": ["x", "y", "x", "y"],
        "severities": [0.5] * 4,
    }
    mean = torch.tensor([7.0, 9.0])

    def made(name: str) -> torch.Tensor:
        return control_embeddings(name, embs, mean, seed=0, **columns)

    assert made("mean").tolist() == [[7.0, 9.0]] * 4
    assert made("same_speaker").tolist() == embs[[1, 0, 3, 2]].tolist()
    assert made("cohort_mean").tolist() == embs[[2, 3, 0, 1]].tolist()
    assert {tuple(row) for row in made("shuffled")[:2].tolist()} == {(4.0, 5.0), (6.0, 7.0)}
