"""What all readers share: rows that are checked, files that stay inside, reasons that are told."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hyperasr.cohorts import corpora
from hyperasr.cohorts.corpora.base import (
    STATUS,
    Description,
    Prepared,
    Report,
    corpus_root,
    find_named,
    listed_path,
    pseudonym,
    read_table,
    read_text,
    scaled,
    walk,
)
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.errors import ConfigError, ManifestError
from hyperasr.types import Utterance
from tests.cohorts.corpora.conftest import Tree

_FORMAT = struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
NO_SAMPLES = b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + _FORMAT + b"data" + bytes(4)
PACKED = b"NIST_1A\n   1024\nsample_coding -s26 ulaw,embedded-shorten-v2.00\nend_head\n"
ABOUT = Description("x", "X", "", "", "", "rows", ("en",))


def prepared(root: Path, *rows: Utterance, **options: bool) -> Prepared:
    return Prepared(ABOUT, root, lambda root, report: iter(rows), **options)


@pytest.fixture
def row(tree: Tree) -> Utterance:
    root = tree({"a.wav": 0.1})
    return Utterance("a", str(root / "a.wav"), text="one", speaker="s")


# Registry


def test_every_reader_describes_itself() -> None:
    for name, reader in corpora.corpora().items():
        about = reader.ABOUT
        assert about.name == name
        assert all((about.title, about.licence, about.how_to_get)), name
        # What people bring themselves has no citation.
        assert name == "generic" or (about.citation and about.cohorts)
        assert about.status == STATUS or "on synthetic fixtures" in about.status
        assert "\n" not in about.licence + about.how_to_get + about.citation


@pytest.mark.parametrize("name", ["ua_speech", "UA-Speech", "ua speech", "UASPEECH"])
def test_names_are_forgiving(name: str) -> None:
    assert corpora.corpus(name).ABOUT.name == "ua_speech"


def test_a_wrong_name_gets_the_closest() -> None:
    with pytest.raises(ConfigError, match="'torgoo'; did you mean 'torgo'"):
        corpora.corpus("torgoo")
    with pytest.raises(ConfigError, match=r"known are .*ua_speech"):
        corpora.corpus("base")


def test_a_wrong_option_gets_the_closest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no option 'mic'; did you mean 'mics'"):
        corpora.prepare("torgo", tmp_path, mic="head")


def test_the_root_must_be_a_folder(tmp_path: Path) -> None:
    for name in corpora.names():
        with pytest.raises(ConfigError, match="there is no folder"):
            corpora.prepare(name, tmp_path / "absent")


def test_an_empty_folder_names_the_layout(tmp_path: Path) -> None:
    for name in corpora.names():
        with pytest.raises(ManifestError, match=r"no usable utterance below .*expected"):
            list(corpora.prepare(name, tmp_path))


# Rows


def test_good_rows_pass(row: Utterance, tmp_path: Path) -> None:
    ready = prepared(tmp_path, row, replace(row, id="b", speaker="t", cohort="dysarthria"))
    assert [r.id for r in ready] == ["a", "b"]
    assert ready.report.cohorts == {"typical": 1, "dysarthria": 1}
    assert ready.report.speakers == {"s": "typical", "t": "dysarthria"}
    assert ready.report.duration_s == pytest.approx(0.2)
    assert not ready.report.skipped
    assert len(list(ready)) == 2  # a second time
    assert ready.report.n_rows == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, "duplicate id"),
        ({"speaker": "t"}, "two speakers under one id"),
        ({"id": "b", "cohort": "parkinson"}, "the speaker stands in two cohorts"),
        ({"id": "b", "text": " "}, "the text is empty"),
        ({"id": "b", "start_s": 0.2}, "the times lie beyond the end of the recording"),
        ({"id": "b", "start_s": 0.05, "end_s": 0.05}, "the end is not after the start"),
        ({"id": "b", "path": "nowhere.wav"}, "the recording is listed but absent"),
    ],
)
def test_bad_rows_are_counted(
    row: Utterance, tmp_path: Path, change: dict[str, str | float], reason: str
) -> None:
    bad = replace(row, **change)  # type: ignore[arg-type]
    ready = prepared(tmp_path, row, bad, replace(row, id="last"))
    assert [r.id for r in ready] == ["a", "last"]
    assert ready.report.skipped == {reason: 1}
    assert ready.report.examples == {reason: [bad.id]}


def test_a_bad_row_does_not_take_the_id_of_a_good_one(row: Utterance, tmp_path: Path) -> None:
    ready = prepared(tmp_path, replace(row, path="nowhere.wav"), row)
    assert list(ready) == [row]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the recording has 0 bytes"),
        (b"RIFF\xff\xff\xff\x00garbage" * 9, "the recording's header cannot be read"),
        (b"just a text", "the recording's header cannot be read"),
        (NO_SAMPLES, "the recording holds no samples"),
        (PACKED, "the recording is compressed (shorten): sph2pipe -f wav IN.sph OUT.wav"),
    ],
)
def test_bad_recordings_are_told_by_their_header(
    row: Utterance, tree: Tree, content: bytes, reason: str
) -> None:
    root = tree({"bad.wav": content})
    bad = replace(row, id="bad", path=str(root / "bad.wav"))
    ready = prepared(root, row, bad)
    assert list(ready) == [row]
    assert ready.report.skipped == {reason: 1}


def test_names_that_no_manifest_can_hold(row: Utterance, tmp_path: Path) -> None:
    latin = replace(row, id="b", path=os.fsdecode(b"T\xfcr.wav"))
    ready = prepared(tmp_path, row, latin)
    assert list(ready) == [row]
    (reason,) = ready.report.skipped
    assert reason.startswith("field 'path' holds '\\udcfc'")
    assert reason.endswith("rename the file")
    ready.report.skip("reason", latin.path)
    assert "\n".join(ready.report.lines()).encode()


def test_one_speaker_in_two_cohorts_where_that_is_meant(row: Utterance, tmp_path: Path) -> None:
    rows = (row, replace(row, id="b", cohort="stuttering"))
    assert len(list(prepared(tmp_path, *rows, one_cohort=False))) == 2


def test_nothing_usable_is_an_error_with_the_reasons(row: Utterance, tmp_path: Path) -> None:
    ready = prepared(tmp_path, replace(row, text=""))
    with pytest.raises(ManifestError, match=r"skipped 1: the text is empty .*expected rows"):
        list(ready)


def test_rows_stream(row: Utterance, tmp_path: Path) -> None:
    """A row comes out before the next one is made."""
    made = 0

    def rows(root: Path, report: Report) -> Iterator[Utterance]:
        nonlocal made
        while True:
            made += 1
            yield replace(row, id=str(made))

    stream = iter(Prepared(ABOUT, tmp_path, rows))
    assert [next(stream).id for _ in range(500)] == [str(n) for n in range(1, 501)]
    assert made == 500


def test_extra_survives_the_manifest(row: Utterance, tmp_path: Path) -> None:
    rich = replace(row, extra={"mic": "M5", "Block": "2"})
    write_manifest(tmp_path / "m.jsonl", [rich, replace(row, id="b")])
    assert read_manifest(tmp_path / "m.jsonl") == [rich, replace(row, id="b")]
    assert hash(rich) == hash(replace(row, extra=None))
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "path": "p", "extra": {"mic": 5}}')
    with pytest.raises(ManifestError, match="'extra' must map names to text"):
        read_manifest(tmp_path / "bad.jsonl")


def test_the_report_counts_and_keeps_three_examples() -> None:
    report = Report(n_rows=1)
    for i in range(5):
        report.skip("rare" if i == 0 else "often", f"x{i}")
    report.note("something")
    lines = report.lines()
    assert sum(report.skipped.values()) == 5
    assert "skipped 4: often (such as x1; x2; x3)" in lines
    assert lines.index("skipped 1: rare (such as x0)") == 2


# Files


def test_walk_finds_every_file_once_in_order(tree: Tree) -> None:
    root = tree({n: "" for n in ("b/2.WAV", "B1/1.wav", "a.wav", "a.txt", ".h/x.wav", "._a.wav")})
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "a.wav").touch()
    report = Report()
    found = [str(path.relative_to(root)) for path in walk(root, report, (".wav",))]
    assert found == ["a.wav", "b/2.WAV", "B1/1.wav"]
    everything = {p for p in root.rglob("*") if p.is_file() and ".h" not in p.parts}
    assert {*walk(root, report)} == {
        p for p in everything if not p.name.startswith(".") and "__MACOSX" not in p.parts
    }
    assert not report.skipped


def test_walk_ends_in_loops_and_stays_inside(tree: Tree, tmp_path: Path) -> None:
    root = tree({"a/1.wav": "", "blob": "x"})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.wav").touch()
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "self.wav").symlink_to("self.wav")
    (root / "out").symlink_to(outside)
    (root / "out.wav").symlink_to(outside / "secret.wav")
    (root / "in.wav").symlink_to("blob")  # as git-annex and hub caches do
    report = Report()
    found = [str(path.relative_to(root)) for path in walk(root, report, (".wav",))]
    assert found == ["a/1.wav", "in.wav"]
    assert report.skipped == {
        "a link to a folder of the corpus, which is read under its own name": 1,
        "a link that leads nowhere or round in a loop": 1,
        "a link that leaves the root": 2,
    }


def test_walk_does_not_wait_at_a_pipe(tree: Tree) -> None:
    root, report = tree({"a.wav": ""}), Report()
    os.mkfifo(root / "b.wav")
    assert [path.name for path in walk(root, report)] == ["a.wav"]
    assert report.skipped == {"neither a file nor a folder": 1}


def test_a_root_that_is_a_link_is_read(tree: Tree, tmp_path: Path) -> None:
    root = tree({"a.wav": ""})
    (tmp_path / "link").symlink_to(root)
    linked = corpus_root(tmp_path / "link")
    assert [path.name for path in walk(linked, Report())] == ["a.wav"]
    assert listed_path(linked, "a.wav", Report()) == linked / "a.wav"


def test_a_folder_that_cannot_be_read_is_reported(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree({"a.wav": "", "closed/b.wav": ""})
    scandir = os.scandir

    def refuse(folder: str) -> object:
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    report = Report()
    assert [path.name for path in walk(root, report)] == ["a.wav"]
    assert report.skipped == {"a folder cannot be read (Permission denied)": 1}


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ("/etc/passwd", "a listed path is absolute"),
        ("C:\\wav\\a.wav", "a listed path is absolute"),
        ("\\\\server\\a.wav", "a listed path is absolute"),
        ("../a.wav", "a listed path leaves the root"),
        ("a/../../a.wav", "a listed path leaves the root"),
        ("out/secret.wav", "a listed path leaves the root"),
        (" ", "a listed path is empty"),
    ],
)
def test_listed_paths_stay_inside(tree: Tree, tmp_path: Path, listed: str, reason: str) -> None:
    root = tree({"a.wav": ""})
    (tmp_path / "outside").mkdir()
    (root / "out").symlink_to(tmp_path / "outside")
    report = Report()
    assert listed_path(root, listed, report) is None
    assert report.skipped == {reason: 1}


def test_listed_paths_inside_are_found(tree: Tree) -> None:
    root, report = tree({"a/b.wav": ""}), Report()
    for listed in ("a/b.wav", "a\\b.wav", "x/../a/b.wav", "./a/b.wav"):
        assert listed_path(root, listed, report) == root / "a/b.wav"
    assert listed_path(root, "../a/b.wav", report, below=root / "a") == root / "a/b.wav"
    assert listed_path(root, "absent.wav", report) == root / "absent.wav"
    assert not report.skipped


def test_find_named_looks_a_few_levels_deep_in_any_case(tree: Tree) -> None:
    root = tree({"MLF/x": "", "a/b/mlf/x": "", "a/b/c/d/mlf/x": ""})
    (root / "a" / "MLF").symlink_to(root.parent)
    report = Report()
    assert find_named(root, "mlf", report, depth=3) == [root / "MLF", root / "a/b/mlf"]
    assert report.skipped == {"a link that leaves the root": 1}


# Texts


@pytest.mark.parametrize(
    ("raw", "note"),
    [
        ("Tür\r\nzwei\r".encode(), 0),
        ("\ufeffTür\nzwei\n".encode(), 0),
        ("Tür\nzwei\n".encode("utf-16"), 0),
        ("Tür\nzwei\n".encode("cp1252"), 1),
    ],
)
def test_encodings(tree: Tree, raw: bytes, note: int) -> None:
    path, report = tree({"t.txt": raw}) / "t.txt", Report()
    assert read_text(path, report) == "Tür\nzwei\n"
    assert sum(report.notes.values()) == note


def test_texts_that_cannot_be_read_are_reported(tree: Tree) -> None:
    root, report = tree({"t.txt": b"\x81\xff\xfe\x81"}), Report()
    assert read_text(root / "t.txt", report, fallback="ascii") is None
    assert read_text(root / "absent.txt", report) is None
    assert sorted(report.skipped) == [
        "a text cannot be read (No such file or directory)",
        "a text is neither UTF-8 nor ascii",
    ]
    assert list(read_table(root / "t.txt", report, fallback="ascii")) == []
    assert list(read_table(root / "absent.csv", report)) == []
    assert sum(report.skipped.values()) == 4


def test_tables(tree: Tree) -> None:
    table = '\ufeffa, b,\n1, "x, y",\n\n2, é\n3\n4, z, more\n'
    root, report = tree({"t.csv": table}), Report()
    assert list(read_table(root / "t.csv", report)) == [
        {"a": "1", "b": "x, y"},
        {"a": "2", "b": "é"},
    ]
    assert report.examples == {
        "a row of a table has too many or too few fields": ["t.csv, line 5", "t.csv, line 6"]
    }


def test_a_table_with_a_quote_that_never_ends(tree: Tree) -> None:
    root, report = tree({"t.csv": 'a,b\n1,2\n3,"' + "x" * 200_000}), Report()
    assert list(read_table(root / "t.csv", report)) == [{"a": "1", "b": "2"}]
    assert [reason[:27] for reason in report.skipped] == ["a table cannot be read to i"]


def test_tables_without_header_or_quotes(tree: Tree) -> None:
    root = tree({"t.tsv": 'a\t"b\nc\td"\n'.encode("cp1252")})
    rows = read_table(root / "t.tsv", Report(), delimiter="\t", header=("x", "y"), quoted=False)
    assert list(rows) == [{"x": "a", "y": '"b'}, {"x": "c", "y": 'd"'}]


# People


def test_pseudonyms_join_spellings_and_depend_on_the_salt() -> None:
    assert pseudonym("Vito S", "k") == pseudonym(" vito  S.", "k") == pseudonym("VÌTO_s", "k")
    assert pseudonym("Vito S", "k") != pseudonym("Vito T", "k")
    assert pseudonym("Vito S", "k") != pseudonym("Vito S", "other")
    assert "vito" not in pseudonym("Vito S", "").lower()
    assert pseudonym("Иван", "") != pseudonym("Пётр", "")
    assert pseudonym("x", "", prefix="PD").startswith("PD")


def test_ratings_become_severities() -> None:
    assert [scaled(rating, 4) for rating in ("0", "2", "3,0", "5", "-1", "n/a", "")] == [
        *(0.0, 0.5, 0.75),
        *[None] * 4,
    ]
