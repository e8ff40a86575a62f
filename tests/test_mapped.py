"""Mapped tables: the rows as they were written, and memory that reading them all does not fill."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from datasets import Dataset

from hyperasr.mapped import MappedRows

ROW = 2**20


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two datasets of 24 rows of one MiB each."""
    made = []
    for part in range(2):
        rows = {
            "id": [f"{part}-{k}" for k in range(24)],
            "speaker": [f"speaker {k % 2}" for k in range(24)],
            "severity": [float(k % 3) for k in range(24)],
            "n_frames": [k % 3 for k in range(24)],
            "data": [bytes([24 * part + k]) * ROW for k in range(24)],
        }
        made.append(tmp_path_factory.mktemp("mapped") / f"part-{part}")
        Dataset.from_dict(rows).save_to_disk(str(made[-1]))
    return made


def mapped_mib() -> float:
    """Return how much of mapped files counts as resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) / 1024


def read_all(rows: MappedRows) -> None:
    for k in range(len(rows.table)):
        (data,) = rows.table[[k]]["data"]
        assert data == bytes([k]) * ROW
        rows.used(1, len(data))


def test_rows_are_those_of_all_folders_in_order(folders: list[Path]) -> None:
    rows = MappedRows(folders)
    assert rows.table["id"][:] == [f"{part}-{k}" for part in range(2) for k in range(24)]
    assert rows.table.select_columns("id")[[30, 2]]["id"] == ["1-6", "0-2"]
    assert rows.table[[47]]["data"] == [bytes([47]) * ROW]


def test_columns_are_those_of_the_table_and_equal_values_are_one_object(
    folders: list[Path],
) -> None:
    rows = MappedRows(folders)
    names = ["id", "speaker", "severity", "n_frames"]
    columns = rows.columns(names)
    assert columns == {name: rows.table[name][:] for name in names}
    assert len({id(name) for name in columns["speaker"]}) == 2
    # Equal numbers of two columns keep their types.
    assert {type(value) for value in columns["severity"]} == {float}
    assert {type(value) for value in columns["n_frames"]} == {int}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux")
def test_pages_are_given_back(folders: list[Path]) -> None:
    before = mapped_mib()
    held = MappedRows(folders, held_bytes=2**40)
    read_all(held)
    assert mapped_mib() - before > 40
    del held
    before = mapped_mib()
    given_back = MappedRows(folders, held_bytes=4 * ROW)
    read_all(given_back)
    assert mapped_mib() - before < 12
    read_all(given_back)  # what was given back is there again
