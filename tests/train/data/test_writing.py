"""Whisper's writing: the words are the reference's, everything else the hypothesis's."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.errors import ConfigError
from hyperasr.metrics.normalisers import normaliser
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


@pytest.mark.parametrize(("reference", "hypothesis", "expected"), PAIRS)
def test_no_word_of_the_reference_is_lost(reference: str, hypothesis: str, expected: str) -> None:
    alike = normaliser("spelled")
    assert alike(own_writing(reference, hypothesis) or "") == alike(reference)


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
