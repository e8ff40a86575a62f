"""Manifests: every row comes back as it was, every bad one is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.errors import ManifestError
from hyperasr.types import Utterance

FULL = Utterance(
    id="torgo/F01/1",
    path="/data/F01 Ü/öffne.wav",
    text="öffne die- die Tür",
    speaker="F01",
    cohort="dysarthria",
    start_s=0.25,
    end_s=2.5,
    text_clean="öffne die Tür",
    etiology="cerebral palsy",
    severity=0.75,
    language="de",
    split="train",
    source="torgo",
)


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_round_trip(tmp_path: Path) -> None:
    # U+2028, U+0085 and a form feed end a line for str.splitlines, but not in JSON lines.
    odd = Utterance("odd", "/a.wav", text='one\u2028two\u0085three\x0cfour\nfive\t"six" 日本語 🎤')
    rows = [FULL, Utterance("plain", "/b.wav"), odd]
    path = tmp_path / "Übung 1.jsonl"
    write_manifest(path, rows)
    assert read_manifest(path) == rows
    text = path.read_text(encoding="utf-8")
    assert "öffne die Tür" in text, "letters stay readable"
    assert "severity" not in text.splitlines()[1], "what is not known is left out"
    write_manifest(path, read_manifest(path))
    assert path.read_text(encoding="utf-8") == text


def test_defaults(tmp_path: Path) -> None:
    (row,) = read_manifest(write(tmp_path / "m.jsonl", {"id": "a", "path": "/a.wav"}))
    assert row == Utterance("a", "/a.wav")


def test_relative_paths_start_at_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(
        tmp_path / "m.jsonl", {"id": "a", "path": "wav/a.wav"}, {"id": "b", "path": "/abs/b.wav"}
    )
    monkeypatch.chdir("/")
    assert [row.path for row in read_manifest(path)] == [
        str(tmp_path / "wav" / "a.wav"),
        "/abs/b.wav",
    ]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_blank_lines_line_ends_and_a_byte_order_mark(ending: str, tmp_path: Path) -> None:
    row = json.dumps({"id": "a", "path": "/a.wav"})
    path = tmp_path / "m.jsonl"
    path.write_bytes(("\ufeff" + ending.join(["", row, "  ", ""])).encode())
    assert len(read_manifest(path)) == 1


GOOD = {"id": "a", "path": "/a.wav"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{'id': 1}", "not a JSON object"),
        ("[1]", "must be a JSON object, not list"),
        ('{"id": "a"', "not a JSON object"),
        ({"path": "/a.wav"}, "field 'id' is missing"),
        ({"id": "", "path": "/a.wav"}, "field 'id' is missing or empty"),
        ({"id": "a"}, "field 'path' is missing"),
        ({"id": 5, "path": "/a.wav"}, "field 'id' must be text, not 5"),
        ({**GOOD, "speeker": "x"}, "unknown field 'speeker'"),
        ({**GOOD, "speaker": None}, "field 'speaker' must be text, not None"),
        ({**GOOD, "text": 7}, "field 'text' must be text or null, not 7"),
        ({**GOOD, "start_s": None}, "field 'start_s' must be a number from 0 to 1e+09, not None"),
        ({**GOOD, "start_s": None, "end_s": 1}, "field 'start_s' must be a number from 0 to 1e+09"),
        ({**GOOD, "start_s": -1}, "field 'start_s' must be a number from 0 to 1e+09, not -1"),
        ({**GOOD, "end_s": "2"}, "field 'end_s' must be a number from 0 to 1e+09, not '2'"),
        ({**GOOD, "end_s": True}, "field 'end_s' must be a number from 0 to 1e+09, not True"),
        ({**GOOD, "start_s": 2, "end_s": 2}, "end_s 2 is not after start_s"),
        ({**GOOD, "end_s": 0}, "end_s 0 is not after start_s"),
        ('{"id": "a", "path": "/a.wav", "severity": NaN}', "field 'severity' must be a number"),
        ('{"id": "a", "path": "/a.wav", "end_s": 1e999}', "field 'end_s' must be a number"),
        ({**GOOD, "end_s": 10**400}, "field 'end_s' must be a number from 0 to 1e+09, not 1000"),
        ("[" * 100_000, "not a JSON object (nested too deeply)"),
        ({**GOOD, "text": "a\ud83d"}, r"field 'text' holds '\ud83d', which is no character"),
        ({**GOOD, "path": "a\0.wav"}, r"field 'path' holds '\x00', which is no character"),
        ({**GOOD, "extra": {"mic": "\ud83d"}}, r"field 'extra' holds '\ud83d'"),
        ({**GOOD, "domain": "real"}, "field 'domain' must be recorded or simulated, not 'real'"),
        ({**GOOD, "severity": 2}, "field 'severity' must be from 0 to 1, not 2"),
        ({**GOOD, "speaker": " "}, "field 'speaker' is empty; leave it out"),
        ({**GOOD, "cohort": ""}, "field 'cohort' is empty; leave it out"),
        ({**GOOD, "id": " "}, "field 'id' is empty"),
        ({**GOOD, "extra": {"mic": 2}}, "field 'extra' must map names to text"),
        ('{"id": "a", "path": "/a.wav", "end_s": ' + "9" * 5000 + "}", "not a JSON object"),
        (
            '{"path": "a", "id": ' + "[" * 300 + "]" * 300 + "}",
            "field 'id' must be text, not [[[[[[",
        ),
        ({"id": "first", "path": "/a.wav"}, "id 'first' was already used in line 1"),
        (
            {"id": "first", "path": "/a.wav", "speaker": "b"},
            "id 'first' was already used in line 1, by another speaker ('unknown')",
        ),
    ],
)
def test_a_bad_row_is_named(row: Any, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", {"id": "first", "path": "/1.wav"}, "", row)
    with pytest.raises(ManifestError) as error:
        read_manifest(path)
    message = str(error.value)
    assert message.startswith(f"{path}, line 3: ")
    assert reason in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300


def test_a_row_that_is_not_utf8_is_not_written(tmp_path: Path) -> None:
    rows = [FULL, Utterance("a", "/caf\udce9.wav")]
    with pytest.raises(ManifestError, match=r"row 'a' cannot be written: .*rename the file"):
        write_manifest(tmp_path / "m.jsonl", rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_a_manifest_without_rows(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match="has no row"):
        read_manifest(path)


def test_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.jsonl", tmp_path, tmp_path / "binary.jsonl"):
        with pytest.raises(ManifestError, match="cannot be read as a manifest") as error:
            read_manifest(path)
        assert str(path) in str(error.value)


def test_an_empty_manifest_is_written_and_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [])
    with pytest.raises(ManifestError, match="has no row"):
        read_manifest(tmp_path / "m.jsonl")
