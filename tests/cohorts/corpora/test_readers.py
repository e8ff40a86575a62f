"""Every reader on small corpora in its layouts: `cases/READER.yaml` says what must come out.

A case is a corpus (`files`, see `content` in conftest.py) and what the reader makes of it in
several calls: with `options`, from a folder `below` the corpus. The first call has all rows and
what is skipped and noted; a later one has what differs from it: new or changed `rows`, the ids of
those that are `gone`. An `error` is the beginning of the message. `every` is what all rows of a
case share; other fields of a row that have `Utterance`'s defaults are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hyperasr.cohorts import corpora
from hyperasr.errors import HyperASRError
from hyperasr.types import Utterance
from tests.cohorts.corpora.conftest import Tree

CASES = [
    pytest.param(path.stem, case, id=f"{path.stem}: {case['case']}")
    for path in sorted((Path(__file__).parent / "cases").glob("*.yaml"))
    for case in yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
]
SHARED = Path(__file__).parents[4] / "shared" / "data"


def row(name: str, values: dict[str, Any], every: dict[str, Any], root: Path) -> Utterance:
    """Return what a case says of a row."""
    extra = {**every.get("extra", {}), **values.get("extra", {})}
    known = {"source": name, **every, **values, "path": str(root / values["path"])}
    return Utterance(**known | {"extra": extra})


def resolved(value: Any, root: Path) -> Any:
    return value.replace("{root}", str(root)) if isinstance(value, str) else value


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_reader_has_cases() -> None:
    assert {case.values[0] for case in CASES} == set(corpora.names())


@pytest.mark.parametrize(("name", "case"), CASES)
def test_reader(name: str, case: dict[str, Any], tree: Tree) -> None:
    root = tree(case["files"])
    before = contents(root)
    first: dict[str, Any] = {}
    for call in case["calls"]:
        options = {k: resolved(v, root) for k, v in call.get("options", {}).items()}
        below = root / call.get("below", "")
        if "error" in call:
            with pytest.raises(HyperASRError) as caught:
                list(corpora.prepare(name, below, **options))
            message = f"{caught.typename}: {caught.value}"
            assert message.startswith(resolved(call["error"], root))
            continue
        ready = corpora.prepare(name, below, **options)
        made = list(ready)
        every = case.get("every", {})
        wanted = [row(name, values, every, root) for values in call.get("rows", [])]
        if not first:
            assert made == wanted
            first = {"skipped": {}, "notes": {}} | call | {"made": made}
        by_id = {r.id: r for r in first["made"] if r.id not in call.get("gone", [])}
        assert {r.id: r for r in made} == by_id | {r.id: r for r in wanted}
        assert ready.report.skipped == call.get("skipped", first["skipped"])
        assert ready.report.notes == call.get("notes", first["notes"])
    assert contents(root) == before, "no reader changes a corpus"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real recordings are not here")
@pytest.mark.parametrize(
    ("name", "folder", "n_rows", "n_speakers", "minutes"),
    [
        ("generic", "librispeech-test-other-10spk", 100, 10, None),
        ("generic", "vctk-4spk", 40, 4, None),
        ("an4", "an4-train", 948, 74, 42.0),
    ],
)
def test_real_recordings(
    name: str, folder: str, n_rows: int, n_speakers: int, minutes: float | None
) -> None:
    prepared = corpora.prepare(name, SHARED / folder)
    assert len(list(prepared)) == n_rows
    assert len(prepared.report.speakers) == n_speakers
    assert prepared.report.skipped == {}
    assert minutes is None or abs(prepared.report.duration_s / 60 - minutes) < 1.0


# People


def test_contributor_ids_of_sap_are_hashed(tree: Tree) -> None:
    """Neither rows nor the report show an id, whatever is wrong with the files."""
    case = next(case.values[1] for case in CASES if case.values[0] == "sap")
    prepared = corpora.prepare("sap", tree(case["files"]))
    rows = list(prepared)
    shown = " ".join([*(row.id + row.speaker for row in rows), *prepared.report.lines()]).lower()
    assert "0a1b-aaaa" not in shown
    assert "0c2d-bbbb" not in shown
    salted = next(iter(corpora.prepare("sap", prepared.root, salt="secret")))
    assert salted.speaker != rows[0].speaker
    kept = next(iter(corpora.prepare("sap", prepared.root, keep_ids=True)))
    assert (kept.id, kept.speaker) == ("0a1b-aaaa_1_2", "0a1b-aaaa")


@pytest.mark.parametrize(
    ("listing", "audio", "split"),
    [
        ("raw/Dev/A-1/A-1.json", "raw/Dev/A-1/A-1_7_8.wav", "dev"),
        ("processed/test1/A-1/A-1.json", "processed/test1/A-1/A-1_7_8_16kHz.wav", "test1"),
        ("Train/A-1.json", "Train/A-1/A-1_7_8.wav", "train"),
        ("Train/A-1.json", "Train/A-1_7_8.wav", "train"),
        ("dev/metadata/A-1.json", "dev/audio/A-1/A-1_7_8.wav", "dev"),
        ("dev/metadata/A-1/A-1.json", "dev/audio/A-1_7_8.WAV", "dev"),
        ("A-1/A-1.json", "A-1/A-1_7_8.flac", "all"),
    ],
)
def test_layouts_of_sap(listing: str, audio: str, split: str, tree: Tree) -> None:
    file = {"Filename": "a-1_7_8.wav", "Prompt": {"Transcript": "yes"}}
    root = tree({listing: {"json": {"Files": [file], "Etiology": "Stroke"}}, audio: 0.1})
    (row,) = corpora.prepare("sap", root, keep_ids=True)
    assert (row.id, row.path) == ("a-1_7_8", str(root / audio))
    assert (row.text, row.cohort, row.split) == ("yes", "stroke", split)


def test_names_of_ipvs_never_leave(tree: Tree) -> None:
    case = next(case.values[1] for case in CASES if case.values[0] == "ipvs")
    root = tree(case["files"])
    ready = corpora.prepare("ipvs", root)
    shown = [str({**row.to_dict(), "path": ""}) for row in ready] + ready.report.lines()
    for name in ("vito", "rosa", "ada u", "vpieto", "rtsa"):
        assert not [line for line in shown if name in line.lower()]
    first, again, other = (
        {row.path: (row.id, row.speaker) for row in corpora.prepare("ipvs", root, salt=salt)}
        for salt in ("a", "a", "b")
    )
    assert first == again
    assert all(first[path] != other[path] for path in first)


def test_a_damaged_word_list_of_ua_speech_costs_the_severity_alone(tree: Tree) -> None:
    root = tree(
        {
            "audio/F02/F02_B1_D1_M5.wav": 0.05,
            "speaker_wordlist.xls": b"\xd0\xcf\x11\xe0 no Excel",
            "mlf/F02/F02_word.mlf": '#!MLF!#\n"*/F02_B1_D1_M5.lab"\nONE\n.\n',
        }
    )
    ready = corpora.prepare("ua_speech", root)
    assert [row.text for row in ready] == ["ONE"]
    (note,) = ready.report.notes
    assert "a damaged Excel file" in note
