"""NeuroVoz: Castilian Spanish sentences by people with Parkinson's and controls."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from hyperasr.cohorts.corpora.base import (
    NO_SPLIT,
    Description,
    Prepared,
    Report,
    corpus_root,
    find_named,
    listed_path,
    read_table,
    read_text,
    walk,
)
from hyperasr.errors import ConfigError
from hyperasr.types import Utterance

__all__ = ["describe", "prepare"]

_NAME = re.compile(r"(HC|PD)_(\w+?)_(\d{4})", re.IGNORECASE)
_WITHOUT_WORDS = re.compile(r"[AEIOU]\d|PATAKA", re.IGNORECASE)
_G_MAX = 3  # GRBAS grades go from 0 to 3
_METADATA = {
    "gender": ("sex", "gender"),
    "age": ("age",),
    "updrs": ("updrs scale", "updrs"),
    "hoehn_yahr": ("h-y stadium", "h-y"),
}


def describe() -> Description:
    """Say what the corpus is and how to get it."""
    return Description(
        name="neurovoz",
        title="NeuroVoz: a Castilian Spanish corpus of parkinsonian speech",
        licence="restricted, data use agreement; research only",
        how_to_get="zenodo.org/records/10777657, on request",
        citation=(
            "Mendes-Laureano et al.: NeuroVoz: a Castillian Spanish corpus of parkinsonian speech. "
            "Scientific Data, 2024"
        ),
        languages=("es",),
        cohorts=("parkinson", "typical"),
        n_speakers=108,
        has_text=True,
    )


def prepare(
    root: str | os.PathLike[str], *, tasks: str = "words", check_audio: bool = True
) -> Prepared:
    """Read NeuroVoz below `root`.

    A speaker is group and number, since some numbers occur in both groups. Severity is the grade
    G of the GRBAS rating divided by 3, a judgement of the voice; its tables do not tell the group,
    so that it is left out where both groups have the recording.

    Args:
        root: the unpacked corpus.
        tasks: ``words``, or ``all``: vowels and syllables too, without text.
        check_audio: see `Prepared`.
    Raises:
        ConfigError: no such folder, or unknown tasks.
    """
    if tasks not in ("words", "all"):
        raise ConfigError(f"tasks is {tasks!r}; it must be words or all")
    folder = corpus_root(root)
    return Prepared(
        folder,
        lambda report: _rows(folder, report, tasks == "all"),
        expects="data/audios/PD_BURRO_0042.wav with data/transcriptions/PD_BURRO_0042.txt",
        check_audio=check_audio,
    )


def _rows(root: Path, report: Report, all_tasks: bool) -> Iterator[Utterance]:
    people = _people(root, report)
    grades = _grades(root, report)
    texts = [p for p in find_named(root, "transcriptions", report) if p.is_dir()]
    for path in walk(root, report, (".wav",)):
        named = _NAME.fullmatch(path.stem)
        if named is None:
            report.skip("the name is not GROUP_TASK_NNNN", path)
            continue
        group, task, number = (part.upper() for part in named.groups())
        wordless = _WITHOUT_WORDS.fullmatch(task) is not None
        if wordless and not all_tasks:
            report.skip("a task without words (vowels, syllables)", path.stem)
            continue
        text = None if wordless else _text(path.stem, root, texts, report)
        twin = path.with_name(f"{'HC' if group == 'PD' else 'PD'}_{named[2]}_{number}{path.suffix}")
        ratings = {} if twin.exists() else grades.get((task, number), {})
        grade = ratings.get("grbas_g")
        typical = group == "HC"
        yield Utterance(
            id=f"neurovoz/{group}{number}/{task}",
            path=str(path),
            text=text,
            speaker=f"{group}{number}",
            cohort="typical" if typical else "parkinson",
            etiology=None if typical else "Parkinson's disease",
            severity=None if typical or grade is None else float(grade) / _G_MAX,
            language="es",
            split=NO_SPLIT,
            source="neurovoz",
            extra={"text_source": "none" if text is None else "human", "task": task}
            | people.get((group, number), {})
            | ratings,
        )


def _text(stem: str, root: Path, folders: list[Path], report: Report) -> str | None:
    for folder in folders:
        path = listed_path(root, f"{stem}.txt", report, below=folder)
        if path is not None and path.is_file():
            text = read_text(path, report)
            return None if text is None else " ".join(text.split())
    report.note("a recording of words has no transcript; its row has no text")
    return None


def _people(root: Path, report: Report) -> dict[tuple[str, str], dict[str, str]]:
    people: dict[tuple[str, str], dict[str, str]] = {}
    for group in ("HC", "PD"):
        for path in find_named(root, f"metadata_{group.lower()}.csv", report)[:1]:
            for row in read_table(path, report):
                columns = {name.lower(): value for name, value in row.items()}
                number = columns.get("id", "").partition(".")[0].zfill(4)
                found = {
                    key: next((columns[name] for name in names if columns.get(name)), "")
                    for key, names in _METADATA.items()
                }
                people[group, number] = {key: value for key, value in found.items() if value}
    return people


def _grades(root: Path, report: Report) -> dict[tuple[str, str], dict[str, str]]:
    """Return GRBAS ratings by task and number; values out of 0 to 3 are skipped."""
    grades: dict[tuple[str, str], dict[str, str]] = {}
    for folder in (p for p in find_named(root, "grbas", report) if p.is_dir()):
        for path in walk(folder, report, (".csv",), within=root):
            for row in read_table(path, report):
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
