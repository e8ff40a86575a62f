"""Sessions measured: who follows whom, what is remembered, and rows that can be checked by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eval import session as program
from eval.session import (
    ALONE,
    BACKBONE,
    SESSION,
    TOLD,
    Measurement,
    SessionEvalConfig,
    distance_rows,
    distances,
    noticed,
    people_of,
    told,
)
from hyperasr.config import parse
from hyperasr.decode import decode_rows
from hyperasr.errors import ConfigError
from hyperasr.session import Session, SessionConfig

ROOT = Path(__file__).parents[2]


def test_the_configuration_is_there() -> None:
    file = str(ROOT / "eval/configs/session.yaml")
    config: Any = parse(SessionEvalConfig, ["--config", file])
    assert config.out == Path("results/session.json")
    with pytest.raises(ConfigError, match="verbatim"):
        SessionEvalConfig(protocol="verbatim")


def test_people_are_followed_by_other_voices() -> None:
    persons = ["a1", "a1", "b1", "b2", "a2", "c1", "c2"]
    speakers = ["a", "a", "b", "b", "a", "c", "c"]
    cohorts = ["x", "x", "x", "y", "y", "x", "y"]
    people = people_of(persons, speakers, cohorts, seed=3)
    assert people.rows["a1"] == [0, 1]
    for person, then in people.partner["same_cohort"].items():
        assert (person[0] != then[0], person[1]) == (True, then[1])
    for person, then in people.partner["other_cohort"].items():
        assert (person[0] != then[0], person[1] != then[1]) == (True, True)
    assert people_of(persons, speakers, cohorts, seed=3) == people
    with pytest.raises(ConfigError, match="nobody of another voice"):
        people_of(["a1", "b1"], ["a", "b"], ["x", "y"], seed=0)


def test_shares_by_hand() -> None:
    found = {
        "same_person": [(0.1, 0), (0.2, 1), (0.3, 2), (0.9, 3)],
        "same_cohort": [(0.25, 0), (0.8, 2)],
    }
    rows = distance_rows(found, ["s", "s", "t", "t"], [0.5], seed=0)
    by = {(r["measure"], r["relation"]): r for r in rows}
    assert by["new_voice_false", "same_person"]["value"] == 0.25
    assert by["new_voice_found", "same_cohort"]["value"] == 0.5
    # Of eight pairs, 0.25 lies above two of four and 0.8 above three.
    assert by["new_voice_auroc", "same_cohort"]["value"] == pytest.approx(5 / 8)
    assert by["distance", "same_person"]["q50"] == pytest.approx(0.25)
    assert by["distance", "same_cohort"]["n_speakers"] == 2


@pytest.fixture(scope="module")
def measurement(world, systems, random_backbone_folder) -> Measurement:
    import hyperasr.cache
    from tests.in_this_process import InThisProcess

    config = SessionEvalConfig(
        model=str(systems["hypernet"]),
        backbone=str(random_backbone_folder),
        test=world.test,
        cache=world.folder / "cache",
        thresholds=(0.01, 1e9),
        workers=1,
        session=SessionConfig(new_voice=0.05),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hyperasr.cache, "WorkerPool", InThisProcess)
        return Measurement(config)


def test_what_is_remembered(measurement: Measurement) -> None:
    m = measurement
    args = (m.model, m.embs, m.seconds, m.people)
    assert len(m.embs) == 32
    alone = told(*args)
    for rows in m.people.rows.values():
        weights = m.seconds[rows] / m.seconds[rows].sum()
        torch.testing.assert_close(alone[rows[0]], m.embs[rows[0]])
        torch.testing.assert_close(alone[rows[-1]], (weights[:, None] * m.embs[rows]).sum(0))
    used, anew = noticed(*args, "same_cohort", SessionConfig(new_voice=1e-9))
    torch.testing.assert_close(used, m.embs)
    assert all(anew), "every utterance is taken for another voice"
    used, anew = noticed(*args, "same_cohort", SessionConfig(new_voice=1e9))
    assert not any(anew)
    then = next(iter(m.people.partner["same_cohort"].values()))
    row = m.people.rows[then][0]
    assert not torch.allclose(used[row], m.embs[row]), "the voice before is mixed in"


def test_distances_are_those_of_a_session(measurement: Measurement) -> None:
    m = measurement
    found = distances(m.model, m.embs, m.seconds, m.people)
    assert len(found["same_person"]) == 32 - len(m.people.rows)
    assert len(found["same_cohort"]) == len(found["other_cohort"]) == len(m.people.rows)
    rows = next(iter(m.people.rows.values()))
    session = Session.of(m.model)
    session.smooth(m.embs[rows[:1]], torch.ones(1))
    value, row = found["same_person"][0]
    assert row == rows[1]
    assert value == pytest.approx(session.distance(m.embs[row]))


def test_the_program(
    measurement: Measurement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "session.json"
    measurement.config = replace(measurement.config, out=out)
    monkeypatch.setattr(program, "read_config", lambda kind: measurement.config)
    monkeypatch.setattr(program, "Measurement", lambda config: measurement)
    program.main()
    rows = json.loads(out.read_text())["rows"]
    errors = [r for r in rows if "errors" in r]
    assert {r["system"] for r in errors} == {BACKBONE, ALONE, TOLD, SESSION}
    assert any(r.get("place") == "first" for r in errors)
    assert {r["threshold"] for r in rows if "threshold" in r and "errors" in r} == {0.01, 1e9}
    said = decode_rows(measurement.model, measurement.cache)
    counts = measurement._scored({ALONE: said}).counts[ALONE]
    typical = [i for i, c in enumerate(measurement.cache.meta["cohort"]) if c == "typical"]
    expected = sum(counts[i].errors for i in typical) / sum(counts[i].n_reference for i in typical)
    (row,) = (
        r
        for r in errors
        if (r["system"], r["cohort"], r["domain"]) == (ALONE, "typical", "recorded")
        and "corpus" not in r
        and "place" not in r
    )
    assert row["value"] == pytest.approx(expected)
    first = next(r for r in rows if r.get("place") == "first" and r.get("system") == TOLD)
    same = next(
        r
        for r in rows
        if r.get("place") == "first" and r.get("system") == ALONE and r["cohort"] == first["cohort"]
    )
    assert first["value"] == same["value"], "nothing is known before the first utterance"
    assert "new_voice_found" in capsys.readouterr().out
