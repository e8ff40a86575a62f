"""Lists of expected words: who lists what, and what counts as found, invented and wrong."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import hyperasr
from eval import expected_words
from eval.expected_words import found_in, lists
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.cohorts.views import TYPICAL

DEMO = Path(hyperasr.__file__).parent / "assets" / "demo" / "manifest.jsonl"
LISTED = frozenset({"alice", "metformin"})


@pytest.mark.parametrize(
    ("reference", "hypothesis", "found"),
    [
        ("alice takes metformin", "alice takes metformin", (2, 2, 0, 1, 0)),
        ("alice takes metformin", "a lease takes met for men", (2, 0, 0, 1, 4)),
        ("she takes it", "alice takes it", (0, 0, 1, 3, 1)),
        ("alice", "", (1, 0, 0, 0, 0)),
        ("", "alice so", (0, 0, 1, 0, 2)),
    ],
)
def test_found_in(reference: str, hypothesis: str, found: tuple[int, ...]) -> None:
    seen = found_in(reference, hypothesis, LISTED)
    names = ("said", "written", "invented", "words")
    assert tuple(seen[name] for name in names) == found[:4]
    assert (seen["errors"] == 0) == (found[4] == 0)


def test_a_list_holds_own_rare_words_and_others() -> None:
    texts = {"a": "the wandering singer had it", "b": "cosette wept 1815 ok", "c": "the the"}
    made = lists(texts, ["the singer"], listed=3, seed=0)
    assert set(made["a"]) == {"wandering", "cosette", "wept"}
    assert made["a"] == sorted(made["a"])
    assert set(made["b"]) == {"cosette", "wept", "wandering"}
    assert "the" not in made["c"]
    assert lists(texts, ["the singer"], listed=0, seed=0)["b"] == ["cosette", "wept"]


def test_the_program_on_real_speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [row for row in read_manifest(DEMO) if row.cohort == TYPICAL]
    write_manifest(tmp_path / "test.jsonl", clips)
    write_manifest(
        tmp_path / "common.jsonl", [replace(clips[0], text="all of the others are rare")]
    )
    out = tmp_path / "expected_words.json"
    arguments = {"test": tmp_path / "test.jsonl", "common": tmp_path / "common.jsonl", "out": out}
    argv = [f"--{name}={value}" for name, value in arguments.items()]
    monkeypatch.setattr(sys, "argv", ["expected_words", "--simulate=[]", *argv])
    expected_words.main()
    rows = json.loads(out.read_text())["rows"]
    assert {(row["cohort"], row["domain"]) for row in rows} == {("typical", "recorded")}
    recall = {row["system"]: row for row in rows if row["measure"] == "recall"}
    assert recall["with_list_2"]["n"] == recall["without_list"]["n"] > 10
    assert 0.7 < recall["without_list"]["value"] <= recall["with_list_2"]["value"] <= 1
