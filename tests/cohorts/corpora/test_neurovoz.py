"""NeuroVoz: texts, ratings and people joined; numbers that occur in both groups kept apart."""

from __future__ import annotations

import pytest

from hyperasr.cohorts.corpora.neurovoz import prepare
from hyperasr.errors import ConfigError
from tests.cohorts.corpora.conftest import Tree


def test_rows(tree: Tree) -> None:
    root = tree(
        {
            "data/audios/PD_BURRO_0042.wav": 0.05,
            "data/audios/PD_BURRO_0068.wav": 0.05,
            "data/audios/HC_BURRO_0068.wav": 0.05,
            "data/audios/PD_FREE_0042.wav": 0.05,
            "data/audios/PD_A1_0042.wav": 0.05,
            "data/audios/HC_PATAKA_0001.wav": 0.05,
            "data/audios/test.wav": 0.05,
            "data/transcriptions/PD_BURRO_0042.txt": "El burro está\n",
            "data/transcriptions/PD_BURRO_0068.txt": "El burro está\n".encode("latin-1"),
            "data/transcriptions/HC_BURRO_0068.txt": "",
            "data/metadata/metadata_pd.csv": (
                "ID,Group,Sex,Age,UPDRS scale,H-Y Stadium,Audio\n"
                "42,PD,M,71,20,2,data/audios/PD_BURRO_0042.wav\n"
            ),
            "data/grbas/BURRO.csv": (
                "text_patient_id,G,R,B,A,S\nBURRO_0042.wav,2,1,0,0,1\nBURRO_0068.wav,3,1,0,0,1\n"
            ),
            "data/grbas/FREE.csv": "text_patient_id,G,R,B,A,S\nFREE_0042.wav,9,1,0,0,1\n",
        }
    )
    ready = prepare(root)
    rows = {row.id: row for row in ready}
    assert {n: (r.text, r.cohort, r.severity, r.speaker) for n, r in rows.items()} == {
        "neurovoz/PD0042/BURRO": ("El burro está", "parkinson", 2 / 3, "PD0042"),
        # Whose rating it is cannot be told: the other group has the recording too.
        "neurovoz/PD0068/BURRO": ("El burro está", "parkinson", None, "PD0068"),
        "neurovoz/PD0042/FREE": (None, "parkinson", None, "PD0042"),
    }
    assert rows["neurovoz/PD0042/BURRO"].extra == {
        "text_source": "human",
        "task": "BURRO",
        "gender": "M",
        "age": "71",
        "updrs": "20",
        "hoehn_yahr": "2",
        "grbas_g": "2",
        "grbas_r": "1",
        "grbas_b": "0",
        "grbas_a": "0",
        "grbas_s": "1",
    }
    assert ready.report.skipped == {
        "a task without words (vowels, syllables)": 2,
        "the name is not GROUP_TASK_NNNN": 1,
        "the text is empty": 1,
        "a GRBAS rating is not 0 to 3": 1,
    }
    assert ready.report.notes == {
        "a text that is no UTF-8 was read as cp1252": 1,
        "a recording of words has no transcript; its row has no text": 1,
    }
    vowels = [row for row in prepare(root, tasks="all") if row.text is None]
    assert {row.id for row in vowels} >= {"neurovoz/PD0042/A1", "neurovoz/HC0001/PATAKA"}


def test_both_groups_keep_their_speaker(tree: Tree) -> None:
    root = tree({f"data/audios/{group}_PAN_0068.wav": 0.05 for group in ("HC", "PD")})
    assert {row.speaker: row.cohort for row in prepare(root)} == {
        "HC0068": "typical",
        "PD0068": "parkinson",
    }
    with pytest.raises(ConfigError, match="tasks is 'some'"):
        prepare(root, tasks="some")
