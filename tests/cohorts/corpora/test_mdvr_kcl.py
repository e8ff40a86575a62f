"""MDVR-KCL: ratings in the names, no transcripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hyperasr.cohorts.corpora.mdvr_kcl import prepare
from tests.cohorts.corpora.conftest import Tree

BASE = "26_29_09_2017_KCL/26-29_09_2017_KCL"


def test_rows(tree: Tree, wav: Callable[..., Path]) -> None:
    root = tree(
        {
            f"{BASE}/SpontaneousDialogue/HC/ID22hc_0_0_0.wav": 0.05,  # without its underscore
            f"{BASE}/ReadText/HC/ID31_hc_0_1_1.wav": 0.05,
            f"{BASE}/ReadText/HC/ID05_pd_2_0_1.wav": 0.05,
            f"{BASE}/ReadText/PD/ID06_pd_2_0_9.wav": 0.05,
            f"{BASE}/ReadText/PD/notes.wav": 0.05,
            "26_29_09_2017_KCL/ReadText/HC/ID31_hc_0_1_1.wav": 0.05,
        }
    )
    wav(root / BASE / "ReadText/PD/ID02_pd_2_0_1.wav", rate=44_100)
    ready = prepare(root, texts={"readtext": "the north wind", "ID31_hc_0_1_1": "the snippet"})
    rows = {row.id: row for row in ready}
    assert {n: (r.text, r.cohort, r.severity, r.speaker) for n, r in rows.items()} == {
        "mdvr_kcl/ReadText/ID02": ("the north wind", "parkinson", 0.25, "ID02"),
        "mdvr_kcl/ReadText/ID31": ("the snippet", "typical", None, "ID31"),
        "mdvr_kcl/SpontaneousDialogue/ID22": (None, "typical", None, "ID22"),
    }
    assert rows["mdvr_kcl/ReadText/ID02"].extra == {
        "text_source": "passage",
        "task": "ReadText",
        "hoehn_yahr": "2",
        "updrs_ii_5": "0",
        "updrs_iii_18": "1",
    }
    assert ready.report.skipped == {
        "the name and the folder disagree on the group": 1,
        "a rating in the name is out of its range": 1,
        "not of the layout TASK/GROUP/IDnn_GROUP_n_n_n.wav": 1,
        "duplicate id": 1,  # the mirror's second level
    }
    assert all(row.text is None for row in prepare(root))
