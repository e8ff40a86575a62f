"""Tables that are not CSV: Excel sheets of corpora, and tables that the user supplies."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperasr.cohorts.corpora import base
from hyperasr.errors import ConfigError, ManifestError, MissingExtra

Sheet = list[list[str]]
"""Rows of cells as text; whole numbers without a decimal point, empty cells as ''."""

_OLE = b"\xd0\xcf\x11\xe0"  # Excel until 2003
_ZIP = b"PK"  # Excel since 2007


def read_sheets(path: Path) -> dict[str, Sheet]:
    """Read an Excel file, old or new format as its content says, into sheets by name, in order.

    Raises:
        ManifestError: the file cannot be read, or is no Excel file.
        MissingExtra: the reader of this format is not installed.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from error
    if head != _OLE and not head.startswith(_ZIP):
        raise ManifestError(f"{path}: no Excel file, whatever its name says; save it as .xlsx")
    try:
        return _read_old(path) if head == _OLE else _read_new(path)
    except ImportError as error:
        raise MissingExtra(
            f"reading {path.name} needs {error.name}; install it: pip install 'hyperasr[corpora]'"
        ) from error
    except Exception as error:  # both libraries raise whatever they stumble over
        raise ManifestError(f"{path}: a damaged Excel file ({error})") from error


def user_table(value: Mapping[str, Any] | base.AnyPath | None, what: str) -> dict[str, str]:
    """Return a table that the user gives: a mapping, or a CSV of two columns with a header.

    Raises:
        ConfigError: no such file, or not two columns; `what` names the option.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {str(k): str(v) for k, v in value.items()}
    path = Path(value).expanduser()
    if not path.is_file():
        raise ConfigError(f"{what}: there is no file {value}; give a CSV with two columns")
    report = base.Report()
    rows = [list(row.values()) for row in base.read_table(path, report)]
    if not rows or len(rows[0]) != 2 or report.skipped:
        raise ConfigError(f"{what}: {value} must have a header and two columns in every row")
    return {key: entry for key, entry in rows}


def _read_old(path: Path) -> dict[str, Sheet]:
    import xlrd

    with xlrd.open_workbook(str(path), logfile=io.StringIO()) as book:
        return {
            sheet.name: [[_cell(v) for v in sheet.row_values(i)] for i in range(sheet.nrows)]
            for sheet in book.sheets()
        }


def _read_new(path: Path) -> dict[str, Sheet]:
    import openpyxl

    with path.open("rb") as file:  # by its name, the library would refuse a .xls
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        return {
            sheet.title: [[_cell(v) for v in row] for row in sheet.iter_rows(values_only=True)]
            for sheet in book.worksheets
        }


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
