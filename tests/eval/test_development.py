"""The table of trainings, from records written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.development import DevelopmentConfig, evaluations, rows_of
from hyperasr.errors import ConfigError


def run(folder: Path, log: str, **unadapted: float) -> Path:
    folder.mkdir()
    (folder / "log.txt").write_text(log)
    if unadapted:
        (folder / "worth.json").write_text(json.dumps({"unadapted": unadapted, "best": {}}))
    return folder


def test_rows_by_hand(tmp_path: Path) -> None:
    log = "1:02:03 begun\n1:02:04 step 10: dev a+b 0.5  typical 0.07  score 0.285\n"
    first = run(tmp_path / "first", log, typical=0.06)
    # Interrupted, and evaluated again; a cohort that nobody else has.
    log += "1:02:05 step 20: dev a+b 0.4  score inf\n1:02:06 step 10: dev a+b 0.3  score 0.3\n"
    second = run(tmp_path / "second", log, typical=0.06, c=0.9)
    rows = list(rows_of(DevelopmentConfig({"one": first, "two": second})))
    assert [(row["system"], row["cohort"], row["value"]) for row in rows] == [
        ("backbone", "typical", 0.06),
        ("backbone", "c", 0.9),
        ("one, 10 steps", "a+b", 0.5),
        ("one, 10 steps", "typical", 0.07),
        ("two, 10 steps", "a+b", 0.3),
        ("two, 20 steps", "a+b", 0.4),
    ]


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    log = "step 1: dev a 0.5  score 0.5\n"
    runs = {name: run(tmp_path / name, log, a=rate) for name, rate in (("x", 0.1), ("y", 0.2))}
    with pytest.raises(ConfigError, match="a of another run differs"):
        list(rows_of(DevelopmentConfig(runs)))
    with pytest.raises(ConfigError, match="no evaluation"):
        evaluations(run(tmp_path / "z", "begun\n"))
    with pytest.raises(ConfigError, match="train first"):
        evaluations(tmp_path / "absent")


def test_a_training_writes_what_is_read(tmp_path: Path) -> None:
    from train.loop.loop import _line

    line = _line({"dysarthria+parkinson": 0.310102, "typical": 0.0652, "score": float("inf")})
    run(tmp_path / "run", f"12:00:00 step 750: dev {line}\n")
    rates = {"dysarthria+parkinson": 0.3101, "typical": 0.0652, "score": float("inf")}
    assert evaluations(tmp_path / "run") == {750: rates}
