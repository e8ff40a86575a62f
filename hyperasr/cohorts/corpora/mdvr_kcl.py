"""MDVR-KCL: people with Parkinson's and controls, recorded with a phone; no transcripts."""

from __future__ import annotations

import re
from pathlib import Path

from hyperasr.cohorts.corpora import base
from hyperasr.cohorts.corpora._sheets import user_table

_NAME = re.compile(r"ID(\d+)_?(hc|pd)_(\d+)_(\d+)_(\d+)", re.IGNORECASE)
_TASKS = {"readtext": "ReadText", "spontaneousdialogue": "SpontaneousDialogue"}
_UPDRS_MAX = 4

ABOUT = base.describe("mdvr_kcl")


def prepare(root: base.AnyPath, *, texts: base.Texts = None) -> base.Prepared:
    """Read MDVR-KCL below `root`; a row is a recording of one to three minutes.

    There are no transcripts: rows have a text only where `texts` gives one. The interviewer is
    audible in the dialogues. Severity is the speech item of UPDRS part III (18) divided by 4.

    Args:
        root: the unpacked corpus.
        texts: by file stem, or by ``ReadText`` for the passage read (check who read which): a
            mapping or a CSV ``name,text``.
    Raises:
        ConfigError: no such folder or table.
    """
    table = {name.lower(): text for name, text in user_table(texts, "texts").items()}
    return base.Prepared(ABOUT, root, _rows, table=table)


def _rows(root: Path, report: base.Report, table: dict[str, str]) -> base.Rows:
    for path in base.walk(root, report, (".wav",)):
        named = _NAME.fullmatch(path.stem)
        folders = [part.lower() for part in (*root.parts[-2:], *path.relative_to(root).parts[:-1])]
        task = next((_TASKS[part] for part in folders[::-1] if part in _TASKS), None)
        if named is None or task is None:
            report.skip("not of the layout TASK/GROUP/IDnn_GROUP_n_n_n.wav", path)
            continue
        group, stage, item_2, item_3 = named[2].lower(), *(int(named[i]) for i in (3, 4, 5))
        if next((part for part in folders[::-1] if part in ("hc", "pd")), group) != group:
            report.skip("the name and the folder disagree on the group", path)
            continue
        if stage > 5 or max(item_2, item_3) > _UPDRS_MAX:
            report.skip("a rating in the name is out of its range", path)
            continue
        text = table.get(path.stem.lower()) or table.get(task.lower())
        yield ABOUT.row(
            id=f"mdvr_kcl/{task}/ID{named[1]}",
            path=path,
            text=text,
            speaker=f"ID{named[1]}",
            typical=group == "hc",
            etiology="Parkinson's disease",
            severity=item_3 / _UPDRS_MAX,
            extra={
                "text_source": "none" if text is None else "passage",
                "task": task,
                "hoehn_yahr": str(stage),
                "updrs_ii_5": str(item_2),
                "updrs_iii_18": str(item_3),
            },
        )
