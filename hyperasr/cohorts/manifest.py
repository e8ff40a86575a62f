"""Manifests: JSON lines, one utterance a row, validated on reading."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import reprlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from hyperasr.errors import ManifestError
from hyperasr.types import Utterance
from hyperasr.util.config import from_json
from hyperasr.util.files import atomic_text

_FIELDS = {field.name for field in dataclasses.fields(Utterance)}
_TEXT = {"id", "path", "speaker", "cohort", "language", "split", "source", "domain"}
_OPTIONAL_TEXT = {"text", "text_clean", "etiology"}
_NAMES = {"id", "path", "speaker", "cohort"}
_REPEATED = {"speaker", "cohort", "language", "split", "source", "domain", "etiology"}
_OPTIONAL_NUMBERS = {"end_s", "severity"}
DOMAINS = ("recorded", "simulated")
_shown = reprlib.Repr()  # a value in a message, whatever its length and depth
_shown.maxstring = 80
_LARGEST = 1e9  # in seconds thirty years
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")


def is_address(name: str) -> bool:
    """Say whether a name is an address, such as ``s3://bucket/a.wav``, and no path of a disk."""
    return _ADDRESS.match(name) is not None


def read_manifest(path: str | os.PathLike[str]) -> list[Utterance]:
    """Read a manifest; relative audio paths are taken from the manifest's folder.

    Raises:
        ManifestError: names the file, the line, the field and the reason.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            return _parsed(file, str(path), str(path.parent))
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read as a manifest ({error})") from error


def parse_manifest(content: bytes, path: str, folder: str) -> list[Utterance]:
    """Return the rows of a manifest that was read, from a disk or from object storage.

    Args:
        content: of the file.
        path: its name, for messages.
        folder: relative audio paths are taken from there; addresses (``s3://...``) stay.
    Raises:
        ManifestError: as `read_manifest`.
    """
    return _parsed(io.BytesIO(content), path, folder)


def _parsed(file: IO[bytes], path: str, folder: str) -> list[Utterance]:
    # Line by line, of which a manifest may have millions. Lines end at \n, \r\n and \r; not at the
    # U+0085 and U+2028 of splitlines(), which may stand inside a text.
    lines = io.TextIOWrapper(file, encoding="utf-8-sig")
    rows: list[Utterance] = []
    seen: dict[str, int] = {}
    try:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row = _row(line, f"{path}, line {number}", folder)
            if row.id in seen:
                speaker = next(r.speaker for r in rows if r.id == row.id)
                other = "" if speaker == row.speaker else f", by another speaker ({speaker!r})"
                first = f"id {row.id!r} was already used in line {seen[row.id]}"
                raise ManifestError(f"{path}, line {number}: {first}{other}")
            seen[row.id] = number
            rows.append(row)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: cannot be read as a manifest ({error})") from error
    if not rows:
        raise ManifestError(f"{path}: the manifest has no row")
    return rows


def write_manifest(path: str | os.PathLike[str], rows: Iterable[Utterance]) -> None:
    """Write a manifest in one rename, in flat memory; fields that are None are left out.

    Raises:
        ConfigError: it cannot be written there.
    """
    with atomic_text(Path(path)) as file:
        for row in rows:
            values = {k: v for k, v in row.to_dict().items() if v is not None}
            line = json.dumps(values, ensure_ascii=False) + "\n"
            if _NO_TEXT.search(line):  # U+0000 is escaped there, halves of surrogate pairs are not
                raise ManifestError(
                    f"row {row.id!r} cannot be written: its path {row.path!r} or another text of "
                    "it is not UTF-8; rename the file"
                )
            file.write(line)


def _row(line: str, where: str, folder: str) -> Utterance:
    try:
        values = from_json(line)
    except ValueError as error:
        raise ManifestError(f"{where}: not a JSON object ({error})") from error
    if not isinstance(values, dict):
        raise ManifestError(f"{where}: a row must be a JSON object, not {type(values).__name__}")
    if fault := row_fault(values):
        raise ManifestError(f"{where}: {fault}")
    audio = values["path"]
    if not is_address(audio):
        # Path would make one slash of the two of an address.
        audio = f"{folder}/{audio}" if is_address(folder) else str(Path(folder) / audio)
    for name in _REPEATED & set(values):
        if values[name] is not None:
            values[name] = sys.intern(values[name])  # held once, however many rows have it
    return Utterance(**{**values, "path": audio})


def row_fault(values: dict[str, Any]) -> str | None:
    """Say why no row of a manifest can have these values by field; None where one can."""
    if unknown := sorted(set(values) - _FIELDS):
        return f"unknown field {unknown[0]!r}; known are {sorted(_FIELDS)}"
    for name in ("id", "path"):
        if not values.get(name):
            return f"field {name!r} is missing or empty"
    for name, value in values.items():
        if fault := _fault(name, value):
            return fault
    end_s = values.get("end_s")
    if end_s is not None and end_s <= values.get("start_s", 0.0):
        return f"end_s {end_s} is not after start_s"
    return None


def _fault(name: str, value: Any) -> str | None:
    """Say what is wrong with the value of a field; None where nothing is."""
    if name in _TEXT and not isinstance(value, str):
        return f"field {name!r} must be text, not {_shown.repr(value)}"
    texts = [value, *value.values()] if isinstance(value, dict) else [value]
    for text in texts:
        if isinstance(text, str) and (bad := _NO_TEXT.search(text)):
            mend = "; rename the file" if name == "path" else ""
            return f"field {name!r} holds {bad[0]!r}, which is no character of a text{mend}"
    if name in _NAMES and not value.strip():
        return f"field {name!r} is empty; leave it out where it is unknown"
    if name == "domain" and value not in DOMAINS:
        return f"field 'domain' must be {' or '.join(DOMAINS)}, not {_shown.repr(value)}"
    if name == "start_s" or (name in _OPTIONAL_NUMBERS and value is not None):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= _LARGEST:
            what = f"a number from 0 to {_LARGEST:.0e}"
            return f"field {name!r} must be {what}, not {_shown.repr(value)}"
    if value is None:
        return None
    if name in _OPTIONAL_TEXT and not isinstance(value, str):
        return f"field {name!r} must be text or null, not {_shown.repr(value)}"
    if name == "severity" and value > 1:
        return f"field 'severity' must be from 0 to 1, not {_shown.repr(value)}"
    if name == "extra":
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            return f"field 'extra' must map names to text, not {_shown.repr(value)}"
        if not value.get("channel", "0").isdecimal():
            return f"extra channel must be a number from 0, not {_shown.repr(value['channel'])}"
    return None
