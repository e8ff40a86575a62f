"""Scores: picking, joining, saving; rates are made again from the counts that were saved."""

from __future__ import annotations

import json

import pytest

from eval.scores import Scores, places
from hyperasr.errors import ConfigError, ShapeError
from hyperasr.metrics import EditCounts
from hyperasr.protocols import protocol


def scores(name: str = "spoken", metric: str = "wer") -> Scores:
    meta = {
        "speaker": ["ann", "ann", "bob", "cay"],
        "cohort": ["typical", "stuttering", "stuttering", "typical"],
        "severity": [0.0, 0.5, 1.0, 0.0],
        "source": ["an4", "an4", "synthetic", "synthetic"],
    }
    counts = {
        "backbone": [EditCounts(3, 1), EditCounts(1, 0, 1, 6), EditCounts(4), EditCounts(2.5, 0.5)],
        "hypernet": [EditCounts(4), EditCounts(2), EditCounts(3, 1), EditCounts(3)],
    }
    return Scores(protocol(name), metric, meta, counts)


def test_picking() -> None:
    assert scores().pick(cohort="stuttering") == [1, 2]
    assert scores().pick(cohort="stuttering", source="an4") == [1]
    assert scores().pick(severity=lambda s: s >= 0.5, speaker="bob") == [2]
    assert scores().pick(cohort="parkinson") == []
    assert scores().rows([], "parkinson", "all") == []


def test_what_was_saved_gives_the_same_rows(tmp_path) -> None:
    made = scores()
    path = made.save(tmp_path / "counts.json")
    again = Scores.load(path)
    assert again == made
    pairs = [("hypernet", "backbone"), ("hypernet", "nobody")]
    rows = made.rows([0, 1, 2], "atypical", "all", pairs=pairs, corpus="x")
    assert again.rows([0, 1, 2], "atypical", "all", pairs=pairs, corpus="x") == rows
    assert [row.get("against") for row in rows] == [None, None, "backbone"]
    assert {row["corpus"] for row in rows} == {"x"}
    content = json.loads(path.read_text())
    content["protocol"]["normaliser"]["hash"] = "0" * 12
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="another version of protocol 'spoken'"):
        Scores.load(path)
    path.write_text("{}")
    with pytest.raises(ConfigError, match="holds no edit counts"):
        Scores.load(path)


def test_a_clipping_protocol_clips_value_and_interval() -> None:
    chosen = [1, 2]
    (row,) = scores("sap2").rows(chosen, "stuttering", "all", systems=["backbone"])
    assert row["value"] == row["clipped"] == 2 / 6
    assert row["high"] <= 1.0
    (plain,) = scores().rows(chosen, "stuttering", "all", systems=["backbone"])
    assert plain["value"] == 7 / 6
    assert plain["clipped"] == 2 / 6


def test_parts_and_joins() -> None:
    made = scores()
    halves = made.part([0, 1]), made.part([2, 3])
    assert halves[0].joined(halves[1]) == made
    fewer = Scores(made.protocol, "wer", halves[1].meta, {"backbone": halves[1].counts["backbone"]})
    assert list(halves[0].joined(fewer).counts) == ["backbone"]
    with pytest.raises(ConfigError, match="cannot be joined"):
        made.joined(scores("whisper"))
    with pytest.raises(ShapeError, match="different numbers of utterances"):
        Scores(made.protocol, "wer", made.meta, {"backbone": [EditCounts()]})


def test_places_are_those_that_recordings_come_from() -> None:
    found = places(["synthetic", "an4", "fsdd", "an4"])
    assert [(domain, extra.get("corpus")) for domain, extra, _ in found] == [
        ("all", None),
        ("synthetic", None),
        ("real", None),
        ("real", "an4"),
        ("real", "fsdd"),
    ]
    tests = {(d, e.get("corpus")): here for d, e, here in found}
    assert tests["all", None]("fsdd")
    assert not tests["synthetic", None]("an4")
    assert tests["real", None]("an4")
    assert tests["real", "an4"]("an4")
    assert not tests["real", "an4"]("fsdd")
    assert [domain for domain, *_ in places(["synthetic"])] == ["all", "synthetic"]
