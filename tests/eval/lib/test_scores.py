"""Scores: picking, joining, grouping, and the rows made of them."""

from __future__ import annotations

from dataclasses import replace

from eval.lib.scores import Group, Scores, groups_of, in_order, labels, levels_of, targets
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.metrics.protocols import protocol


def scores(name: str = "spoken", metric: str = "wer") -> Scores:
    meta = {
        "speaker": ["ann", "ann", "bob", "cay"],
        "cohort": ["typical", "stuttering", "stuttering", "typical"],
        "domain": ["recorded", "simulated", "simulated", "recorded"],
        "severity": [0.0, 0.5, 1.0, 0.0],
        "source": ["an4", "an4", "synthetic", "synthetic"],
    }
    counts = {
        "backbone": [EditCounts(3, 1), EditCounts(1, 0, 1, 6), EditCounts(4), EditCounts(2.5, 0.5)],
        "hypernet": [EditCounts(4), EditCounts(2), EditCounts(3, 1), EditCounts(3)],
    }
    return Scores(protocol(name), metric, meta, counts)


def test_rows_are_of_systems_and_of_pairs_that_are_there() -> None:
    pairs = [("hypernet", "backbone"), ("hypernet", "nobody")]
    group = Group("atypical", "simulated", (0, 1, 2), "x")
    rows = scores().rows(group, pairs=pairs, severity=0.5)
    assert [row.get("against") for row in rows] == [None, None, "backbone"]
    assert {(row["corpus"], row["severity"]) for row in rows} == {("x", 0.5)}


def test_a_clipping_protocol_clips_value_and_interval() -> None:
    group = Group("stuttering", "simulated", (1, 2))
    row, _ = scores("sap2").rows(group)
    assert row["value"] == row["clipped"] == 2 / 6
    assert row["high"] <= 1.0
    plain, _ = scores().rows(group)
    assert plain["value"] == 7 / 6
    assert plain["clipped"] == 2 / 6


def test_parts_and_joins() -> None:
    made = scores()
    halves = made.part([0, 1]), made.part([2, 3])
    assert halves[0].joined(halves[1]) == made
    fewer = Scores(made.protocol, "wer", halves[1].meta, {"backbone": halves[1].counts["backbone"]})
    assert list(halves[0].joined(fewer).counts) == ["backbone"]


META = {
    "cohort": ["typical", "stuttering", "parkinson", "als", "stuttering", "typical", "typical"],
    "domain": ["recorded", "simulated", "simulated", *["recorded"] * 4],
    "source": ["libri", "libri", "libri", "clinic", "clinic", "clinic", "an4"],
}


def test_groups_are_those_that_the_data_have() -> None:
    found = [(g.corpus, g.cohort, g.domain, g.chosen) for g in groups_of(META, ("an4",))]
    assert found == [
        (None, "atypical", "simulated", (1, 2)),
        (None, "stuttering", "simulated", (1,)),
        (None, "parkinson", "simulated", (2,)),
        (None, "atypical", "recorded", (3, 4)),
        (None, "stuttering", "recorded", (4,)),
        (None, "als", "recorded", (3,)),
        (None, "typical", "recorded", (0, 5)),  # not the one that is apart
        ("an4", "typical", "recorded", (6,)),
        ("clinic", "atypical", "recorded", (3, 4)),
        ("clinic", "stuttering", "recorded", (4,)),
        ("clinic", "als", "recorded", (3,)),
        ("clinic", "typical", "recorded", (5,)),
        ("libri", "atypical", "simulated", (1, 2)),
        ("libri", "stuttering", "simulated", (1,)),
        ("libri", "parkinson", "simulated", (2,)),
        ("libri", "typical", "recorded", (0,)),
    ]
    # One corpus is the headline; one cohort is not all of them together.
    one = {name: [column[3], column[5]] for name, column in META.items()}
    assert [(g.corpus, g.cohort) for g in groups_of(one)] == [(None, "als"), (None, "typical")]
    apart = groups_of(one, ("clinic",))
    assert [(g.corpus, g.cohort) for g in apart] == [("clinic", "als"), ("clinic", "typical")]


def test_what_stands_for_atypical_speech() -> None:
    groups = groups_of(META, ("an4",))
    found = [(g.cohort, g.domain) for g in targets(groups)]
    assert found == [("atypical", "simulated"), ("atypical", "recorded")]
    assert [g.chosen for g in targets(groups, "libri")] == [(1, 2)]
    one = groups_of({name: [column[3], column[5]] for name, column in META.items()})
    assert [(g.cohort, g.domain) for g in targets(one)] == [("als", "recorded")]
    assert targets(groups_of({name: [column[0]] for name, column in META.items()})) == []


def test_cohorts_keep_one_order_and_say_their_domain_where_they_must() -> None:
    names = ["typical", "nonnative", "als", "parkinson", "stuttering", "als"]
    assert in_order(names) == ["stuttering", "parkinson", "als", "nonnative", "typical"]
    assert labels(META["cohort"], META["domain"])[1:5] == [
        "stuttering, simulated",
        "parkinson",
        "als",
        "stuttering, recorded",
    ]


def test_severities_are_levels_or_where_they_are_many_ranges() -> None:
    some = [0.5, None, 0.25, 0.5]
    assert levels_of(some, range(4)) == {0.25: [2], 0.5: [0, 3]}
    assert levels_of(some, [1]) == {}
    many = [k / 10 for k in range(8)]
    assert levels_of(many, range(8)) == {
        "0.00-0.25": [0, 1, 2],
        "0.25-0.50": [3, 4],
        "0.50-0.75": [5, 6, 7],
    }


def test_the_headline_leaves_out_what_is_apart() -> None:
    made = replace(scores(), apart=("an4",))
    rows = [made.rows(group)[0] for group in made.groups()]
    assert [(r["cohort"], r["domain"], r.get("corpus"), r["n_utterances"]) for r in rows] == [
        ("stuttering", "simulated", None, 1),
        ("typical", "recorded", None, 1),
        ("stuttering", "simulated", "an4", 1),
        ("typical", "recorded", "an4", 1),
    ]
    assert {row["reason"] for row in rows} == {"one speaker: no interval"}
