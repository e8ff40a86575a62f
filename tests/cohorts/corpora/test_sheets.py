"""Excel files and tables of the user's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hyperasr.cohorts.corpora._sheets import read_sheets, user_table
from hyperasr.errors import ConfigError, ManifestError, MissingExtra
from tests.cohorts.corpora.conftest import Tree, workbook


def write(path: Path, old: bool) -> Path:
    rows = [["Name", "n"], [" città ", 15], ["", 1.5]]
    path.write_bytes(workbook({"one": rows, "two": rows}, old))
    return path


@pytest.mark.parametrize("old", [True, False], ids=["xls", "xlsx"])
@pytest.mark.parametrize("suffix", [".xls", ".xlsx"])
def test_the_content_tells_the_format(tmp_path: Path, old: bool, suffix: str) -> None:
    sheets = read_sheets(write(tmp_path / f"t{suffix}", old))
    assert list(sheets) == ["one", "two"]
    assert sheets["two"] == [["Name", "n"], ["città", "15"], ["", "1.5"]]


@pytest.mark.parametrize(("old", "package"), [(True, "xlrd"), (False, "openpyxl")])
def test_a_missing_reader_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool, package: str
) -> None:
    path = write(tmp_path / "t.xls", old)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"needs {package}; .*hyperasr\[corpora\]"):
        read_sheets(path)


def test_what_is_no_excel(tree: Tree) -> None:
    root = tree({"t.xls": "<html>", "u.xlsx": b"PK\x03\x04 cut"})
    with pytest.raises(ManifestError, match="no Excel file"):
        read_sheets(root / "t.xls")
    with pytest.raises(ManifestError, match="a damaged Excel file"):
        read_sheets(root / "u.xlsx")
    with pytest.raises(ManifestError, match="cannot be read"):
        read_sheets(root / "absent.xls")


def test_tables_of_the_user(tree: Tree) -> None:
    root = tree(
        {"t.csv": 'name,text\nB1,"il, la"\n', "one.csv": "name\nB1\n", "bad.csv": "a,b\nc\n"}
    )
    assert user_table(root / "t.csv", "texts") == {"B1": "il, la"}
    assert user_table({"B1": 2}, "texts") == {"B1": "2"}
    assert user_table(None, "texts") == {}
    for name, message in (("absent", "no file"), ("one", "two columns"), ("bad", "two columns")):
        with pytest.raises(ConfigError, match=rf"texts: .*{message}"):
            user_table(str(root / f"{name}.csv"), "texts")
