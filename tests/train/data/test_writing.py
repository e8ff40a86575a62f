"""Whisper's writing: the words are the reference's, everything else the hypothesis's."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.errors import ConfigError
from hyperasr.transcription.enrolment import sentence
from hyperasr.types import Utterance
from train.data import writing
from train.data.writing import own_writing

PAIRS = [
    (
        "mister quilter is the apostle of the middle classes and we are glad to welcome his gospel",
        "Mr. Quilter is the apostle of the middle classes, and we're glad to welcome his gospel.",
        "Mr. Quilter is the apostle of the middle classes, and we're glad to welcome his gospel.",
    ),
    # A word that was misheard keeps the capital and the mark of its place.
    (
        "alas he walked with no less indecision than cosette",
        "Alas, he walked with no less indecision than Kuzette.",
        "Alas, he walked with no less indecision than Cosette.",
    ),
    (
        "maize next to wheat and rice maize is the grain most used in the nourishment of man",
        "Maze. Next to wheat and rice, mazes the grain most used in the nourishment of man.",
        "Maize. Next to wheat and rice, maize is the grain most used in the nourishment of man.",
    ),
    # Figures, spelled letters and compounds are ways of writing, not words.
    ("november twenty fifth nineteen seventy", "November 25th, 1970.", "November 25th, 1970."),
    ("u m n y h six", "UMNYH6", "UMNYH6"),
    (
        "i may be a well known man i think",
        "I maybe a well-known man, I think so.",
        "I may be a well-known man, I think.",
    ),
    # What was added is taken out, its full stop stays.
    ("he went home early", "He went home early today. Today.", "He went home early."),
    ("so I said i'm fine", "so I said, I'm fine", "so I said, I'm fine"),
]


@pytest.mark.parametrize(("reference", "hypothesis", "expected"), PAIRS)
def test_own_writing(reference: str, hypothesis: str, expected: str) -> None:
    assert own_writing(reference, hypothesis) == expected


def test_texts_that_are_not_of_each_other() -> None:
    assert own_writing("hi angel you never know", "Hey Andrew, we are handled.") is None
    assert own_writing("a text", "") is None


def test_a_sentence_of_ones_own() -> None:
    assert sentence("i think i'm at i-ten") == "I think I'm at i-ten."
    assert sentence("is it so?") == "Is it so?"
    assert sentence("") == ""


@pytest.fixture
def manifest(tmp_path: Path, voice: Callable[..., np.ndarray]) -> Path:
    rows = []
    for i, (cohort, text) in enumerate(
        [("typical", "some words"), ("als", "my own words"), ("typical", None)]
    ):
        sf.write(tmp_path / f"{i}.wav", voice(0.6 + 0.2 * i, 100.0 + 20 * i), 16_000)
        rows.append(Utterance(f"u{i}", f"{i}.wav", text, f"s{i}", cohort))
    write_manifest(tmp_path / "rows.jsonl", rows)
    return tmp_path / "rows.jsonl"


def run(manifest: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    out = manifest.with_name("written.jsonl")
    options = ["--manifest", str(manifest), "--out", str(out), "--backbone", str(backbone)]
    monkeypatch.setattr(sys, "argv", ["program", *options])
    writing.main()
    return out


def test_the_program(
    manifest: Path,
    random_backbone_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A random Whisper writes nothing like the references: recorded rows stay all the same."""
    out = run(manifest, random_backbone_folder, monkeypatch)
    lines = out.with_name("written.lines.jsonl").read_text().splitlines()
    said = {line["id"]: line for line in map(json.loads, lines[1:])}
    assert said["u0"]["how"] == "left out, too different"
    assert said["u1"]["text"] == "My own words."
    assert said["u2"]["text"] == (said["u2"]["hypothesis"] or None)
    rows = {row.id: row for row in read_manifest(out)}
    assert "u0" not in rows
    assert rows["u1"].text == "My own words."
    assert (rows["u1"].extra or {})["reference"] == "my own words"
    assert "als: 1 written as one sentence" in capsys.readouterr().out
    # Interrupted in the middle of a line: that row is written again, the others are kept.
    path = out.with_name("written.lines.jsonl")
    path.write_text("\n".join([*lines[:2], lines[2][:20]]))
    calls = []
    write = writing.written
    monkeypatch.setattr(writing, "written", lambda b, r: calls.extend(r) or write(b, r))
    run(manifest, random_backbone_folder, monkeypatch)
    assert [row.id for row in calls] == ["u1", "u2"]
    assert path.read_text().splitlines() == lines
    # Another Whisper writes otherwise.
    path.write_text(lines[0].replace(json.loads(lines[0])["fingerprint"], "0" * 16) + "\n")
    with pytest.raises(ConfigError, match="written by another Whisper"):
        run(manifest, random_backbone_folder, monkeypatch)


def test_nothing_to_write_and_nothing_to_teach(
    manifest: Path, random_backbone_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row of a batch is left out; the run ends, and so does the next one."""
    write_manifest(manifest, read_manifest(manifest)[:1])
    for _ in range(2):
        out = run(manifest, random_backbone_folder, monkeypatch)
        lines = out.with_name("written.lines.jsonl").read_text().splitlines()
        assert [json.loads(line).get("how") for line in lines] == [None, "left out, too different"]
        assert not out.read_text().strip(), "no row is left"


def test_a_run_that_failed_before_its_first_row_goes_on(
    manifest: Path, random_backbone_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(writing, "written", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(manifest, random_backbone_folder, patch)
    for _ in range(2):
        out = run(manifest, random_backbone_folder, monkeypatch)
        lines = out.with_name("written.lines.jsonl").read_text().splitlines()
        assert ["fingerprint" in line for line in lines] == [True, False, False, False]


def test_a_corrected_reference_is_written_again(
    manifest: Path, random_backbone_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = run(manifest, random_backbone_folder, monkeypatch)
    path = out.with_name("written.lines.jsonl")
    lines = path.read_text().splitlines()
    # Written by an earlier version, which did not say of which reference.
    line = json.loads(lines[1])
    assert line.pop("reference") == "some words"
    lines[1] = json.dumps(line)
    path.write_text("\n".join(lines) + "\n")
    rows = read_manifest(manifest)
    changed = [replace(row, text="quite another text") for row in rows[:2]]
    write_manifest(manifest, [*changed, rows[2]])
    calls = []
    write = writing.written
    monkeypatch.setattr(writing, "written", lambda b, r: calls.extend(r) or write(b, r))
    for _ in range(2):
        run(manifest, random_backbone_folder, monkeypatch)
        assert {row.id: row.text for row in read_manifest(out)}["u1"] == "Quite another text."
    assert [row.id for row in calls] == ["u1"]


def test_only_english_is_written(
    manifest: Path,
    random_backbone_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = read_manifest(manifest)
    write_manifest(manifest, [replace(rows[1], language="de"), *rows[2:], rows[0]])
    out = run(manifest, random_backbone_folder, monkeypatch)
    assert "als: 1 left out, not in English" in capsys.readouterr().out
    assert "u1" not in out.with_name("written.lines.jsonl").read_text()
    write_manifest(manifest, [replace(row, language="de") for row in rows])
    with pytest.raises(ConfigError, match="has no row in English"):
        run(manifest, random_backbone_folder, monkeypatch)
