"""The zero-shot table's own logic: the shuffling control and which rows are made of what."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from eval.zero_shot import TestSet as Rows
from eval.zero_shot import differences, rows_of, shuffled_across_speakers
from hyperasr.metrics import EditCounts, error_rate


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


@pytest.fixture
def small_set() -> tuple[Rows, dict[str, list[EditCounts]]]:
    """Two synthetic and two real speakers, each typical once and stuttering at two severities."""
    table = [
        (speaker, source, cohort, severity)
        for speaker, source in (
            ("v1", "synthetic"),
            ("v2", "synthetic"),
            ("p1", "an4"),
            ("p2", "fsdd"),
        )
        for cohort, severity in (("typical", 0.0), ("stuttering", 0.5), ("stuttering", 1.0))
    ]
    names = ("speaker", "source", "cohort", "severity")
    meta = {name: [row[i] for row in table] for i, name in enumerate(names)}
    cache = SimpleNamespace(meta=meta)
    base = [EditCounts(8, 2, 0, 0) if s else EditCounts(9, 1, 0, 0) for *_, s in table]
    hyper = [EditCounts(9, 1, 0, 0) for _ in table]
    return Rows(cache, len(table)), {"backbone": base, "hypernet": hyper}


def test_rows_group_by_cohort_severity_domain_and_corpus(small_set) -> None:
    rows = rows_of(*small_set, seed=0)
    key = {
        (
            r["system"],
            r.get("against"),
            r["cohort"],
            r["domain"],
            r.get("severity"),
            r.get("corpus"),
        ): r
        for r in rows
    }
    assert len(key) == len(rows), "two rows for one cell"
    everything = key["backbone", None, "atypical", "all", None, None]
    assert everything["value"] == pytest.approx(0.2)
    assert everything["n_utterances"] == 8
    assert everything["n_speakers"] == 4
    assert key["backbone", None, "typical", "real", None, None]["value"] == pytest.approx(0.1)
    assert key["hypernet", None, "stuttering", "synthetic", 1.0, None]["n_utterances"] == 2
    assert key["hypernet", None, "stuttering", "real", None, "fsdd"]["n_speakers"] == 1
    difference = key["hypernet", "backbone", "atypical", "all", None, None]
    assert difference["value"] == pytest.approx(-0.1)
    assert ("backbone", None, "dysarthria", "all", None, None) not in key  # there was none


def test_rows_agree_with_counting_by_hand(small_set) -> None:
    test, counts = small_set
    rows = rows_of(test, counts, seed=0)
    chosen = [
        c
        for c, cohort, source in zip(
            counts["backbone"], test.column("cohort"), test.column("source"), strict=True
        )
        if cohort == "stuttering" and source != "synthetic"
    ]
    row = next(
        r
        for r in rows
        if (r["system"], r["cohort"], r["domain"]) == ("backbone", "stuttering", "real")
        and "against" not in r
        and "severity" not in r
        and "corpus" not in r
    )
    assert row["value"] == pytest.approx(error_rate(chosen))


def test_differences_name_only_systems_that_are_there() -> None:
    pairs = differences(["backbone", "global_lora", "hypernet"])
    assert ("hypernet", "global_lora") in pairs
    assert ("hypernet", "backbone") in pairs
    assert all("encoder" not in a + b for a, b in pairs)
