"""IPVS: Italian Parkinson's Voice and Speech; folders bear people's names, which never leave."""

from __future__ import annotations

import re
from pathlib import Path

from hyperasr.cohorts.corpora import base
from hyperasr.cohorts.corpora._sheets import user_table

_GROUPS = {"young healthy": "YHC", "elderly healthy": "EHC", "people with parkinson": "PD"}
_TASK = re.compile(r"B1|B2|D1|D2|FB1|PR1|V[AEIOU]\d", re.IGNORECASE)
# Task and its index, scrambled name, year of birth, sex, day (ddmmyy or ddmmyyyy), time (hhmm).
_TAIL = re.compile(r"(\d{2})([MF])(\d{4}(?:20)?\d{2})(\d{4})", re.IGNORECASE)
_WITH_WORDS = ("B1", "B2", "FB1", "PR1")
_RANGE = re.compile(r"\d+\s*-\s*\d+")

ABOUT = base.describe("ipvs")


def prepare(
    root: base.AnyPath,
    *,
    texts: base.Texts = None,
    salt: str = "",
) -> base.Prepared:
    """Read IPVS below `root`.

    Speakers are hashes of the folders' names; a person in two folders is one speaker. Ids and the
    report hold no name, but `path` must: rename the folders before you pass the manifest on.
    There are no transcripts: rows have a text only where `texts` gives one.

    Args:
        root: the unpacked corpus.
        texts: by task (B1, B2, FB1, PR1): a mapping or a CSV ``task,text``.
        salt: secret that goes into the hash of names.
    Raises:
        ConfigError: no such folder or table.
    """
    table = {task.upper(): text for task, text in user_table(texts, "texts").items()}
    return base.Prepared(ABOUT, root, _rows, table=table, salt=salt)


def _rows(root: Path, report: base.Report, table: dict[str, str], salt: str) -> base.Rows:
    if not salt:
        report.note("names of speakers are hashed without a secret salt; give one")
    private = base.Report()  # its examples would show names
    for path in base.walk(root, private, (".wav",)):
        group, person = _group_and_person(path, root)
        if group is None or person is None:
            name = base.pseudonym(path.stem, salt)
            report.skip("not of the layout GROUP/PERSON/TASK....wav", name)
            continue
        speaker = base.pseudonym(person, salt, prefix=group)
        named = _TASK.match(path.stem)
        if named is None:
            report.skip("the name does not begin with a task", speaker)
            continue
        task = named[0].upper()
        if task not in _WITH_WORDS:
            report.skip("a task without words (vowels, syllables)", f"{speaker}/{task}")
            continue
        text = table.get(task)
        extra = {"text_source": "none" if text is None else "passage", "task": task}
        if tail := _TAIL.search(path.stem[len(task) :]):
            day = tail[3]
            year = int(day[4:]) if len(day) == 8 else 2000 + int(day[4:])
            # The day itself, with sex and age, could tell who it was.
            extra |= {"gender": tail[2].lower(), "age": str((year - int(tail[1])) % 100)}
        yield ABOUT.row(
            id=f"ipvs/{speaker}/{task}/{base.pseudonym(path.stem, salt, prefix='')}",
            path=path,
            text=text,
            speaker=speaker,
            typical=group != "PD",
            etiology="Parkinson's disease",
            extra=extra,
        )
    for reason, n in private.skipped.items():
        for _ in range(n):
            report.skip(reason, "not shown: the path holds a name")


def _group_and_person(path: Path, root: Path) -> tuple[str | None, str | None]:
    """Return the group and the folder with the person's name, below ranges such as 1-5."""
    folders = [root.name, *path.relative_to(root).parts[:-1]]
    for number, folder in enumerate(folders):
        for words, group in _GROUPS.items():
            if words in folder.lower():
                rest = [part for part in folders[number + 1 :] if not _RANGE.fullmatch(part)]
                return group, rest[0] if rest else None
    return None, None
