"""What enrolling is worth: from a manifest to the table, going on, and the numbers by hand."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import soundfile

from eval import enrolment
from eval.enrolment import EnrolmentConfig, people, rows_of
from eval.lib import results
from hyperasr.cohorts.manifest import write_manifest
from hyperasr.errors import ConfigError
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.transcription import enrolment as training
from hyperasr.types import Utterance


def test_rows_by_hand() -> None:
    def one(person: str, before: int, after: int, steps: int) -> dict[str, Any]:
        sides = {"before": before, "after": after}
        edits = {name: asdict(EditCounts(10 - n, n)) for name, n in sides.items()}
        return {"person": person, "steps": steps, **edits}

    made = {5: [one("a", 5, 3, 20), one("b", 1, 1, 0)]}
    before, after, difference = rows_of(EnrolmentConfig(clips=(5,)), made)
    assert [before["system"], after["system"]] == ["not_enrolled", "enrolled_5"]
    assert (before["value"], after["value"]) == (0.3, 0.2)
    edges = [difference[name] for name in ("low", "value", "high")]
    assert edges == pytest.approx([-0.2, -0.1, 0.0])
    assert after["steps"] == {"a": 20, "b": 0}


@pytest.fixture
def config(tmp_path: Path, voice: Any, random_model_folder: Path) -> EnrolmentConfig:
    rows = []
    for i in range(13):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, voice(0.5, 90.0 + 5 * i), 16_000)
        # The third person has too few.
        rows.append(Utterance(f"u{i}", str(path), "GO ON", "abc"[i // 6], cohort="nonnative"))
    write_manifest(tmp_path / "m.jsonl", rows)
    return EnrolmentConfig(
        tmp_path / "m.jsonl",
        model=str(random_model_folder),
        clips=(4,),
        held_out=2,
        runs=tmp_path / "runs",
        threads=1,
        out=tmp_path / "out.json",
    )


def test_people_are_drawn_and_need_enough(config: EnrolmentConfig) -> None:
    found = people(config)
    assert [(name, len(clips)) for name, clips in found.items()] == [("a", 6), ("b", 6)]
    assert {clip.text for clips in found.values() for clip in clips} == {"Go on."}
    with pytest.raises(ConfigError, match=r"nobody of other in .* has 6 recordings"):
        people(EnrolmentConfig(config.manifest, cohort="other", clips=(4,), held_out=2))


def test_from_a_manifest_to_the_table_once(
    config: EnrolmentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "STEPS", (1,))
    monkeypatch.setattr(enrolment, "read_config", lambda kind: config)
    monkeypatch.setattr(sys, "argv", ["eval.enrolment"])
    enrolment.main()
    rows = results.read(config.out)["rows"]
    assert [row["system"] for row in rows] == ["not_enrolled", "enrolled_4", "enrolled_4"]
    assert rows[0]["errors"]["hits"] + rows[0]["errors"]["deletions"] <= 8
    (kept,) = {path.parent for path in config.runs.rglob("*.json")}
    assert {json.loads(path.read_text())["person"] for path in kept.iterdir()} == {"a", "b"}

    def fails(*_: Any) -> None:
        raise AssertionError("it was done before")

    monkeypatch.setattr(enrolment, "worth_of", fails)
    enrolment.main()
    assert results.read(config.out)["rows"] == rows
    other = replace(config, held_out=1)  # what was recognised then is not what is asked now
    monkeypatch.setattr(enrolment, "read_config", lambda kind: other)
    with pytest.raises(AssertionError, match="it was done before"):
        enrolment.main()
