"""Lists of recordings as tables: CSV, TSV and JSON lines, with the column names people use."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hyperasr.cohorts.corpora import base
from hyperasr.cohorts.corpora._layouts import SPLITS, Defaults
from hyperasr.cohorts.manifest import DOMAINS

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")

# Column names by the field they mean, the first that is there wins. Compared in lower case.
_COLUMNS: dict[str, tuple[str, ...]] = {
    "path": (
        *("path", "audio_filepath", "audio_path", "audio_file"),
        *("file_name", "filename", "file", "audio", "wav"),
    ),
    "text": ("text", "transcript", "transcription", "sentence", "raw_text", "raw_transcription"),
    "text_clean": ("text_clean", "norm_text_without_disfluency"),
    "id": ("id", "utt_id", "utterance_id", "utt"),
    "speaker": ("speaker", "speaker_id", "spk", "spk_id", "client_id"),
    "cohort": ("cohort",),
    "etiology": ("etiology", "aetiology", "diagnosis"),
    "severity": ("severity",),
    "language": ("language", "lang", "locale"),
    "split": ("split", "subset"),
    "source": ("source",),
    "start_s": ("start_s", "start", "offset"),
    "end_s": ("end_s", "end"),
    "duration": ("duration", "duration_s"),
}
_FIELD_OF = {name: field for field, names in _COLUMNS.items() for name in names}
_SUFFIXES_TO_TRY = (".wav", ".flac", ".mp3")


def is_table(path: Path) -> bool:
    """Whether a file is a table with a column of recordings."""
    values = next(_values(path, base.Report()), {})
    return "path" in _fields(values) and (path.suffix.lower() == ".jsonl" or len(values) > 1)


def table_rows(path: Path, defaults: Defaults, report: base.Report) -> base.Rows:
    """Yield the rows of one table; paths start from its folder, or from the root of the audio.

    Columns that no field takes go to ``extra``. Times are seconds; a duration counts as one only
    beside a start (whole recordings have one too).
    """
    for number, values in enumerate(_values(path, report), start=1):
        fields = _fields(values)
        where = f"{path.name}, row {number}"
        listed = str(fields.get("path") or "")
        if not listed.strip():
            report.skip("a row without a path", where)
            continue
        audio = _audio(listed, path.parent, defaults, report)
        if audio is None:
            continue
        try:
            known = _known(fields)
        except ValueError as error:
            report.skip(f"a row whose {error} is no usable number", where)
            continue
        name = str(fields.get("id") or "") or defaults.name_of(audio)
        if not fields.get("id") and known["start_s"] is not None:
            name = f"{name}@{known['start_s']:g}"
        text, extra = _text(fields.get("text")), _rest(values)
        if extra.get("domain") in DOMAINS:  # another corpus may call something else a domain
            known["domain"] = extra.pop("domain")
        yield from defaults.row(audio, name, text, report, extra=extra, **known)


def _values(path: Path, report: base.Report) -> Iterator[dict[str, Any]]:
    """Yield each row as the table has it."""
    if path.suffix.lower() != ".jsonl":
        tabs = path.suffix.lower() == ".tsv"
        yield from base.read_table(path, report, delimiter="\t" if tabs else ",", quoted=not tabs)
        return
    for number, line in enumerate((base.read_text(path, report) or "").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if isinstance(values, dict):
            yield values
        else:
            report.skip("a line that is not a JSON object", f"{path.name}, line {number}")


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values by field; of several columns for one field, the preferred one."""
    lower = {str(name).lower(): value for name, value in values.items()}
    columns = {
        field: next((name for name in names if name in lower), None)
        for field, names in _COLUMNS.items()
    }
    return {field: lower[name] for field, name in columns.items() if name is not None}


def _rest(values: dict[str, Any]) -> dict[str, str]:
    """Return what no field takes, as text; a dictionary ``extra`` is taken apart."""
    rest: dict[str, str] = {}
    for name, value in values.items():
        if str(name).lower() in _FIELD_OF or value in (None, ""):
            continue
        if str(name) == "extra" and isinstance(value, dict):
            rest |= {str(k): _text(v) for k, v in value.items()}
        else:
            rest[str(name)] = _text(value)
    return rest


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an `Utterance` that a row tells.

    Raises:
        ValueError: with the name of a field that should be a number and is not.
    """
    known = {
        name: _text(fields.get(name)).strip()
        for name in ("speaker", "cohort", "etiology", "language", "source", "text_clean")
    }
    split = _text(fields.get("split")).strip()
    known["split"] = SPLITS.get(split.lower(), split)
    start = _number(fields, "start_s")
    end, duration = _number(fields, "end_s"), _number(fields, "duration")
    if end is None and start is not None and duration is not None:
        end = start + duration
    severity = _number(fields, "severity")
    if severity is not None and severity > 1.0:
        raise ValueError("severity")
    return {**known, "start_s": start, "end_s": end, "severity": severity}


def _number(fields: dict[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None or not str(value).strip():
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(name) from None
    if not math.isfinite(number) or number < 0:
        raise ValueError(name)
    return number


def _audio(listed: str, folder: Path, defaults: Defaults, report: base.Report) -> Path | None:
    """Look from the table's folder and from that of the audio, with and without a suffix."""
    path = defaults.inside(listed, report, folder)
    if path is None or path.exists():
        return path
    for top in (folder, defaults.audio_root):
        for suffix in ("", *_SUFFIXES_TO_TRY):
            candidate = defaults.inside(listed.strip() + suffix, base.Report(), top)
            if candidate is not None and candidate.exists():
                return candidate
    return path
