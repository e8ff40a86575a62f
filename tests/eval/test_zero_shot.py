"""The zero-shot table's own logic: which rows are made of what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from eval.lib.scores import Scores
from eval.zero_shot import EXCESS, differences, excess_rows, rows_of
from hyperasr.metrics.error_rates import EditCounts, error_rate
from hyperasr.metrics.protocols import protocol
from hyperasr.metrics.statistics import SpeakerBootstrap


@pytest.fixture
def small_set() -> Scores:
    """Four speakers of three corpora, each typical once and stuttering at two severities."""
    sources = {"v1": "synthetic", "v2": "synthetic", "p1": "an4", "p2": "fsdd"}
    table = [
        (speaker, source, cohort, severity)
        for speaker, source in sources.items()
        for cohort, severity in (("typical", 0.0), ("stuttering", 0.5), ("stuttering", 1.0))
    ]
    names = ("speaker", "source", "cohort", "severity")
    meta = {name: [row[i] for row in table] for i, name in enumerate(names)}
    meta["domain"] = ["simulated" if severity else "recorded" for *_, severity in table]
    base = [EditCounts(8, 2, 0, 0) if s else EditCounts(9, 1, 0, 0) for *_, s in table]
    hyper = [EditCounts(9, 1, 0, 0) for _ in table]
    return Scores(protocol("spoken"), "wer", meta, {"backbone": base, "hypernet": hyper})


def by_cell(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    names = ("system", "against", "cohort", "domain", "severity", "corpus")
    cells = {tuple(row.get(name) for name in names): row for row in rows}
    assert len(cells) == len(rows), "two rows for one cell"
    return cells


def test_rows_group_by_cohort_severity_domain_and_corpus(small_set) -> None:
    key = by_cell(rows_of(small_set))
    everything = key["backbone", None, "stuttering", "simulated", None, None]
    assert everything["value"] == pytest.approx(0.2)
    assert everything["n_utterances"] == 8
    assert everything["n_speakers"] == 4
    assert everything["macro"] == pytest.approx(0.2)
    assert not any(cell[2] == "atypical" for cell in key), "there is but one cohort"
    assert key["backbone", None, "typical", "recorded", None, None]["value"] == pytest.approx(0.1)
    assert key["hypernet", None, "stuttering", "simulated", 1.0, None]["n_utterances"] == 4
    alone = key["hypernet", None, "stuttering", "simulated", None, "fsdd"]
    assert alone["n_speakers"] == 1
    assert alone["low"] is None
    assert alone["reason"] == "one speaker: no interval"
    difference = key["hypernet", "backbone", "stuttering", "simulated", None, None]
    assert difference["value"] == pytest.approx(-0.1)
    # All four speakers are better: 2 of 16 exchanges are as far apart.
    assert difference["p"] == pytest.approx(2 / 16)
    coarse = by_cell(rows_of(small_set, severities=False))
    assert coarse == {cell: key[cell] for cell in coarse}
    assert set(key) - set(coarse) == {cell for cell in key if cell[4] is not None}


def test_rows_agree_with_counting_by_hand(small_set) -> None:
    """The slow twin: each row's interval from its own draws, outside of any table."""
    cohorts = list(small_set.meta["cohort"])
    cohorts[1] = cohorts[2] = "parkinson"  # v1's
    made = replace(small_set, meta={**small_set.meta, "cohort": cohorts})
    rows = rows_of(made)
    assert any(row["cohort"] == "atypical" for row in rows)
    for row in rows:
        chosen = [
            i
            for i in range(len(made))
            if made.meta["domain"][i] == row["domain"]
            and (row.get("corpus") is None or made.meta["source"][i] == row["corpus"])
            and cohorts[i]
            in ({"atypical": ("stuttering", "parkinson")}.get(row["cohort"], (row["cohort"],)))
            and row.get("severity") in (None, made.meta["severity"][i])
        ]
        who = [made.meta["speaker"][i] for i in chosen]
        counts = {s: [c[i] for i in chosen] for s, c in made.counts.items()}
        if "against" in row:
            found = SpeakerBootstrap(who).difference(counts[row["system"]], counts[row["against"]])
            assert row.get("p") == found.p
        else:
            found = SpeakerBootstrap(who).rate(counts[row["system"]])
            assert row["value"] == error_rate(counts[row["system"]])
        assert (row["value"], row["low"], row["high"]) == (found.value, found.low, found.high)


def test_differences_name_only_systems_that_are_there() -> None:
    pairs = differences(["backbone", "global_lora", "hypernet"])
    assert ("hypernet", "global_lora") in pairs
    assert ("hypernet", "backbone") in pairs
    assert all("encoder" not in a + b for a, b in pairs)
    assert len(set(pairs)) == len(pairs)


def test_recovered_share_of_the_excess_error() -> None:
    def row(system: str, cohort: str, value: float) -> dict[str, Any]:
        return {"system": system, "cohort": cohort, "domain": "simulated", "value": value}

    rows = [
        row("backbone", "typical", 0.10),
        row("backbone_plain", "typical", 0.15),
        row("hypernet", "typical", 0.12),
        row("backbone", "stuttering", 0.50),
        row("backbone_plain", "stuttering", 0.90),
        row("hypernet", "stuttering", 0.30),
        {**row("hypernet", "stuttering", 0.9), "severity": 1.0},
        {**row("hypernet", "stuttering", 0.9), "against": "backbone"},
    ]
    (found,) = excess_rows(rows)
    assert found["value"] == pytest.approx(0.5)
    assert (found["system"], found["base"], found["measure"]) == ("hypernet", "backbone", EXCESS)
    assert excess_rows(rows[3:]) == [], "no typical speech, no excess"
    easy = [r for r in rows if r["cohort"] == "typical"] + [row("backbone", "als", 0.05)]
    (none,) = excess_rows([*easy, row("hypernet", "als", 0.04)])
    assert none["value"] is None
