"""PC-GITA: Colombian Spanish, Parkinson's disease and controls; fixed texts, not transcribed."""

from __future__ import annotations

import re
from pathlib import Path

from hyperasr.cohorts.corpora import base
from hyperasr.cohorts.corpora._sheets import read_sheets, user_table
from hyperasr.errors import ConfigError, HyperASRError

_SPEAKER = re.compile(r"AVPEPUDEA(C?)\d{4}", re.I)
_NORMALISED = ("con normalizar", "normalized", "normalizado")
_PLAIN = ("sin normalizar", "non normalized", "sin normalizado")
_GROUPS = {"hc", "pd", "control", "patologica"}
_TASKS = {
    "read text": "read",
    "monologue": "monologue",
    "sentences": "sentence",
    "sentences2": "sentence",
    "words": "word",
    "palabras": "word",
    "ddk analysis": "ddk",
    "vowels": "vowel",
    "modulated vowels": "vowel",
}
_WORDLESS = ("ddk", "vowel")
_COLUMNS = {
    "updrs": "updrs",
    "updrs-speech": "updrs_speech",
    "h/y": "hoehn_yahr",
    "sex": "gender",
    "age": "age",
    "time after diagnosis": "years_since_diagnosis",
    "years since diagnosis": "years_since_diagnosis",
}
_WORST_SPEECH = 4  # of the speech item of the UPDRS

ABOUT = base.describe("pc_gita")


def prepare(root: base.AnyPath, *, texts: base.Texts = None) -> base.Prepared:
    """Read ``TASK/[ITEM/]sin normalizar/{hc,pd}/AVPEPUDEA[C]NNNN_item.wav``.

    Blanks or underscores, any case; normalised copies are used only where there is no other,
    and vowels and syllables (diadochokinesis) are skipped.
    Severity is the speech item of the UPDRS over 4, from a ``*metadata*.xlsx`` or ``.csv`` below
    the root (a cell that is no number from 0 to 4 gives none).

    Args:
        root: folder of the corpus.
        texts: what was read, by item (the folder of a sentence, such as ``rosita`` or
            ``ayerfuialmedico``): a mapping or a CSV of two columns. The corpus does not ship them;
            without, and for monologues, there is no text.
    """
    table = {_plain(item): text for item, text in user_table(texts, "texts").items()}
    if any(not text.strip() for text in table.values()):
        raise ConfigError("texts: an item has an empty text; leave the item out")
    return base.Prepared(ABOUT, root, _rows, texts=table)


def _rows(root: Path, report: base.Report, texts: dict[str, str]) -> base.Rows:
    people = _people(root, report)
    recordings = []
    for path in base.walk(root, report, (".wav",)):
        parts = path.relative_to(root).parts
        if any(part.startswith("__") for part in parts):
            continue
        speaker = _SPEAKER.search(path.stem)
        if speaker is None:
            report.skip("a name without a speaker (AVPEPUDEA and four digits)", path)
            continue
        # The root is among the folders: it may be that of one task.
        folders = [_plain(part) for part in (root.name, *parts[:-1])]
        take = _plain(path.stem[speaker.end() :])
        normalised = any(part in _NORMALISED for part in folders)
        recordings.append((path, speaker, *_task(folders, take), take, normalised))
    plain = {(task, item) for *_, task, item, _, normalised in recordings if not normalised}
    used: set[str] = set()
    for path, speaker, task, item, take, normalised in recordings:
        if task in _WORDLESS:
            report.skip("vowels and syllables, no words", path)
            continue
        if normalised and (task, item) in plain:
            report.skip("a normalised copy of another recording", path)
            continue
        text = None if task == "monologue" else texts.get(item)
        if text is not None:
            used.add(item)
        code = speaker[0].upper()
        name = f"{task}-{item}" if take in ("", item) else f"{task}-{item}-{take}"
        severity, known = people.get(code, (None, {}))
        extra = {"text_source": "none" if text is None else "passage", "task": task, "item": item}
        yield ABOUT.row(
            id=f"{code}-{name}".replace(" ", "_"),
            path=path,
            text=text,
            speaker=code,
            typical=bool(speaker[1]),
            etiology="Parkinson's disease",
            severity=severity,
            extra=extra | known,
        )
    for item in sorted(set(texts) - used):
        report.skip("a text whose item has no recording", item)


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[_\-\s]+", " ", name).lower().split())


def _task(folders: list[str], item: str) -> tuple[str, str]:
    """Return the task and its item, from the folders and what follows the speaker in the name."""
    for number, part in enumerate(folders):
        if part in _TASKS:
            task = _TASKS[part]
            below = [p for p in folders[number + 1 :] if p not in (*_PLAIN, *_NORMALISED, *_GROUPS)]
            # "1_viste" is the first of the second set of sentences.
            return task, re.sub(r"^\d+ ", "", below[0]) if below and task != "word" else item
    return "unknown", item


def _people(root: Path, report: base.Report) -> dict[str, tuple[float | None, dict[str, str]]]:
    """Return severity and what else the metadata says of each speaker."""
    people: dict[str, tuple[float | None, dict[str, str]]] = {}
    tables = (p for p in base.walk(root, report, (".xlsx", ".csv")) if "metadata" in p.stem.lower())
    for path in tables:
        for row in _table(path, report):
            name = next((v for k, v in row.items() if k.startswith("recoding original")), "")
            if speaker := _SPEAKER.search(name):
                known = {_COLUMNS[k]: v for k, v in row.items() if k in _COLUMNS and v}
                if "gender" in known:
                    known["gender"] = known["gender"].lower()
                rating = known.get("updrs_speech", "")
                severity = base.scaled(rating, _WORST_SPEECH)
                if rating and severity is None:
                    report.note(
                        "a speech item of the UPDRS that is no number from 0 to 4 gives no severity"
                    )
                people.setdefault(speaker[0].upper(), (severity, known))
    return people


def _table(path: Path, report: base.Report) -> list[dict[str, str]]:
    """Return the rows of the metadata by column name in lower case."""
    if path.suffix.lower() == ".csv":
        return [{k.lower(): v for k, v in row.items()} for row in base.read_table(path, report)]
    try:
        sheets = read_sheets(path)
    except HyperASRError as error:
        report.skip("a table of metadata cannot be read", str(error))
        return []
    rows: list[dict[str, str]] = []
    for header, *cells in (sheet for sheet in sheets.values() if sheet):
        columns = [" ".join(name.lower().split()) for name in header]
        rows += [dict(zip(columns, row, strict=False)) for row in cells]
    return rows
