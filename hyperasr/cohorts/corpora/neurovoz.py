"""NeuroVoz: Castilian Spanish sentences by people with Parkinson's and controls."""

from __future__ import annotations

import re
from pathlib import Path

from hyperasr.cohorts.corpora import base

_NAME = re.compile(r"(HC|PD)_(\w+?)_(\d{4})", re.IGNORECASE)
_WITHOUT_WORDS = re.compile(r"[AEIOU]\d|PATAKA", re.IGNORECASE)
_G_MAX = 3  # GRBAS grades go from 0 to 3
_METADATA = {
    "gender": ("sex", "gender"),
    "age": ("age",),
    "updrs": ("updrs scale", "updrs"),
    "hoehn_yahr": ("h-y stadium", "h-y"),
}

ABOUT = base.describe("neurovoz")


def prepare(root: base.AnyPath) -> base.Prepared:
    """Read NeuroVoz below `root`.

    A speaker is group and number, since some numbers occur in both groups. Severity is the grade
    G of the GRBAS rating divided by 3, a judgement of the voice; its tables do not tell the group,
    so that it is left out where both groups have the recording. Vowels and syllables are skipped.
    """
    return base.Prepared(ABOUT, root, _rows)


def _rows(root: Path, report: base.Report) -> base.Rows:
    people = _people(root, report)
    grades = _grades(root, report)
    texts = [p for p in base.find_named(root, "transcriptions", report) if p.is_dir()]
    for path in base.walk(root, report, (".wav",)):
        named = _NAME.fullmatch(path.stem)
        if named is None:
            report.skip("the name is not GROUP_TASK_NNNN", path)
            continue
        group, task, number = (part.upper() for part in named.groups())
        if _WITHOUT_WORDS.fullmatch(task):
            report.skip("a task without words (vowels, syllables)", path.stem)
            continue
        text = _text(path.stem, root, texts, report)
        twin = path.with_name(f"{'HC' if group == 'PD' else 'PD'}_{named[2]}_{number}{path.suffix}")
        ratings = {} if twin.exists() else grades.get((task, number), {})
        grade = ratings.get("grbas_g")
        yield ABOUT.row(
            id=f"neurovoz/{group}{number}/{task}",
            path=path,
            text=text,
            speaker=f"{group}{number}",
            typical=group == "HC",
            etiology="Parkinson's disease",
            severity=None if grade is None else float(grade) / _G_MAX,
            extra={"text_source": "none" if text is None else "human", "task": task}
            | people.get((group, number), {})
            | ratings,
        )


def _text(stem: str, root: Path, folders: list[Path], report: base.Report) -> str | None:
    for folder in folders:
        path = base.listed_path(root, f"{stem}.txt", report, below=folder)
        if path is not None and path.is_file():
            text = base.read_text(path, report)
            return None if text is None else " ".join(text.split())
    report.note("a recording of words has no transcript; its row has no text")
    return None


def _people(root: Path, report: base.Report) -> dict[tuple[str, str], dict[str, str]]:
    people: dict[tuple[str, str], dict[str, str]] = {}
    for group in ("HC", "PD"):
        for path in base.find_named(root, f"metadata_{group.lower()}.csv", report)[:1]:
            for row in base.read_table(path, report):
                columns = {name.lower(): value for name, value in row.items() if value}
                number = columns.get("id", "").partition(".")[0].zfill(4)
                people[group, number] = {
                    key: next(columns[name] for name in names if name in columns)
                    for key, names in _METADATA.items()
                    if any(name in columns for name in names)
                }
    return people


def _grades(root: Path, report: base.Report) -> dict[tuple[str, str], dict[str, str]]:
    """Return GRBAS ratings by task and number; values out of 0 to 3 are skipped."""
    grades: dict[tuple[str, str], dict[str, str]] = {}
    for folder in (p for p in base.find_named(root, "grbas", report) if p.is_dir()):
        for path in base.walk(folder, report, (".csv",), within=root):
            for row in base.read_table(path, report):
                columns = {name.lower(): value for name, value in row.items()}
                task, _, number = Path(columns.get("text_patient_id", "")).stem.rpartition("_")
                try:
                    values = {f"grbas_{c}": float(columns[c]) for c in "grbas" if columns.get(c)}
                    if not all(0.0 <= value <= _G_MAX for value in values.values()):
                        raise ValueError
                except ValueError:
                    report.skip("a GRBAS rating is not 0 to 3", f"{path.name}: {task}_{number}")
                    continue
                kept = {key: f"{value:g}" for key, value in values.items()}
                grades.setdefault((task.upper(), number), kept)
    return grades
