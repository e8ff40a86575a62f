"""IPVS: names of people go into hashes, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperasr.cohorts.corpora.ipvs import prepare
from hyperasr.errors import ConfigError, ManifestError
from tests.cohorts.corpora.conftest import Tree

PD = "Italian Parkinson's Voice and speech/28 People with Parkinson's disease"
EHC = "Italian Parkinson's Voice and speech/22 Elderly Healthy Control"
YHC = "Italian Parkinson's Voice and speech/15 Young Healthy Control"


@pytest.fixture
def root(tree: Tree, tmp_path: Path) -> Path:
    root = tree(
        {
            f"{PD}/6-10/Vito S/B1VPIETO55M170320171104.wav": 0.05,
            f"{PD}/11-16/VITO  s/FB1VPIETO55M170320161105.wav": 0.05,
            f"{PD}/11-16/VITO  s/VA1VPIETO55M1703161105.wav": 0.05,
            f"{PD}/11-16/Rosa T/X1RTSA40F1703161105.wav": 0.05,
            f"{PD}/11-16/Rosa T/B2RTSA40F1703201105.wav": 0.05,
            f"{EHC}/Vito S/PR1VPIETO48M170320171104.wav": 0.05,
            f"{YHC}/Ada U/B1AUDA90F170320171104.wav": 0.05,
            "loose.wav": 0.05,
        }
    )
    (tmp_path / "outside").mkdir()
    (root / PD / "Rosa V").symlink_to(tmp_path / "outside")
    return root


def test_rows(root: Path) -> None:
    ready = prepare(root, texts={"b1": "il ramarro"}, salt="secret")
    rows = list(ready)
    assert len(rows) == 5
    speakers = {row.speaker for row in rows}
    assert len(speakers) == 4  # Vito S twice in the patients, and another one in the controls
    vito = [row for row in rows if "/6-10/" in row.path or "/11-16/VITO" in row.path]
    assert len({row.speaker for row in vito}) == 1
    assert vito[0].speaker.startswith("PD")
    assert {row.cohort for row in vito} == {"parkinson"}
    assert {(row.extra["task"], row.extra.get("age")) for row in rows if row.extra} == {
        ("B1", "62"),
        ("FB1", "61"),
        ("B2", "80"),
        ("PR1", "69"),
        ("B1", "27"),
    }
    assert {row.text for row in rows if "/B1" in row.path} == {"il ramarro"}
    assert {row.text for row in rows if "/B1" not in row.path} == {None}
    assert ready.report.skipped == {
        "a task without words (vowels, syllables)": 1,
        "the name does not begin with a task": 1,
        "not of the layout GROUP/PERSON/TASK....wav": 1,
        "a link that leaves the root": 1,
    }
    assert not ready.report.notes


def test_names_never_leave(root: Path) -> None:
    ready = prepare(root, tasks="all")
    shown = [str({**row.to_dict(), "path": ""}) for row in ready] + ready.report.lines()
    for name in ("vito", "rosa", "ada u", "vpieto", "rtsa"):
        assert not [line for line in shown if name in line.lower()]
    assert any("secret salt" in line for line in ready.report.lines())


def test_ids_depend_on_the_salt_alone(root: Path) -> None:
    first, again, other = (
        {row.path: (row.id, row.speaker) for row in prepare(root, salt=salt)}
        for salt in ("a", "a", "b")
    )
    assert first == again
    assert all(first[path] != other[path] for path in first)


def test_options(root: Path, tree: Tree) -> None:
    assert len(list(prepare(root, tasks="all"))) == 6
    with pytest.raises(ConfigError, match="tasks is 'vowels'"):
        prepare(root, tasks="vowels")
    with pytest.raises(ManifestError, match="skipped 1: not of the layout"):
        list(prepare(tree({"x/a.wav": 0.05}) / "x"))
