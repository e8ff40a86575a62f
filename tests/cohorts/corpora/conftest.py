"""Fixtures of the readers' tests: a corpus from a table of files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest
import soundfile
import xlwt

Tree = Callable[[Mapping[str, Any]], Path]
"""Makes a corpus from contents by path and returns its root; contents as `content`."""


@cache
def sound(
    seconds: float,
    rate: int = 16_000,
    channels: int = 1,
    form: str = "WAV",
    subtype: str = "PCM_16",
    endian: str | None = None,
) -> bytes:
    """Return a recording of noise."""
    samples = np.random.default_rng(0).normal(0, 0.1, (round(seconds * rate), channels))
    file = BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype, endian=endian)
    return file.getvalue()


def workbook(sheets: Mapping[str, list[list[Any]]], old: bool) -> bytes:
    """Return an Excel file, in the format until 2003 or the one since 2007."""
    file = BytesIO()
    if old:
        book = xlwt.Workbook()
        for name, rows in sheets.items():
            sheet = book.add_sheet(name)
            for i, row in enumerate(rows):
                for j, value in enumerate(row):
                    sheet.write(i, j, value)
        book.save(file)
    else:
        new = openpyxl.Workbook()
        new.remove(new.worksheets[0])
        for name, rows in sheets.items():
            sheet = new.create_sheet(name)
            for row in rows:
                sheet.append(row)
        new.save(file)
    return file.getvalue()


def content(value: Any, root: Path) -> bytes:
    """Return the bytes of a file from its description.

    Text (in which ``{root}`` is the corpus's folder) is UTF-8, a number is the seconds of a WAV
    recording; ``text`` with ``encoding``, ``json``, ``xls`` or ``xlsx`` say the rest, and anything
    else are the settings of `sound`.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.replace("{root}", str(root)).encode()
    if isinstance(value, float):
        return sound(value)
    if "text" in value:
        return value["text"].encode(value["encoding"])  # type: ignore[no-any-return]
    if "json" in value:
        return json.dumps(value["json"]).encode()
    for name in ("xls", "xlsx"):
        if name in value:
            return workbook(value[name], old=name == "xls")
    return sound(**value)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Make a corpus, or add files to it; ``{"link": target}`` makes a symbolic link."""

    def make(files: Mapping[str, Any]) -> Path:
        root = tmp_path / "corpus"
        root.mkdir(exist_ok=True)
        for name, value in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(value, dict) and "link" in value:
                path.symlink_to(value["link"].replace("{root}", str(root)))
            else:
                path.write_bytes(content(value, root))
        return root

    return make
