"""SEP-28k: labels without text, clips or parts of episodes, the extended table."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperasr.cohorts.corpora.base import pseudonym
from hyperasr.cohorts.corpora.sep28k import LABELS, prepare
from hyperasr.errors import ConfigError
from tests.cohorts.corpora.conftest import Tree

HEADER = "Show,EpId,ClipId,Start,Stop," + ",".join(LABELS)
EXTENDED = (
    "Show,EpId,ClipId,Start,Stop,is_probably_host,speaker,clip_silhouette_score,"
    "SEP12k,SEP28k-E,SEP28k-T,SEP28k-D," + ",".join(LABELS)
)
COUNTS = [0, 0, 3, 0, 1, 0, 0, 2, 0, 0, 0, 0]


def labels(*rows: tuple[object, ...]) -> str:
    """Return a table as it is distributed, with a blank after each comma in the rows."""
    lines = [", ".join(str(v) for v in (*row, *COUNTS)) for row in rows]
    return "\n".join([HEADER, *lines]) + "\n"


def extended(*rows: tuple[object, ...]) -> str:
    return "\n".join([EXTENDED, *(",".join(str(v) for v in (*r, *COUNTS)) for r in rows)]) + "\n"


def test_clips(tree: Tree) -> None:
    root = tree(
        {
            "SEP-28k_labels.csv": labels(
                ("HeStutters", 0, 0, 31_648, 79_648),
                ("HeStutters", 0, 1, 79_648, 127_648),
                ("HVSA", 10, 0, 0, 48_000),
                ("HVSA", 10, 1, 48_000, 0),
            ),
            "SEP-28k_episodes.csv": "A – title, a, http://x, HeStutters, 0\n",
            "fluencybank_labels.csv": labels(("FluencyBank", "010", 0, 0, 48_000)),
            "CLIPS/HeStutters/0/HeStutters_0_0.wav": 0.05,
            "CLIPS/HVSA/10/HVSA_10_0.wav": b"",
            "CLIPS/FluencyBank/010/FluencyBank_010_0.wav": 0.05,
        }
    )
    ready = prepare(root)
    first, bank = ready
    assert first.id == "sep28k/HeStutters/0/0"
    assert (first.text, first.cohort, first.start_s, first.end_s) == (None, "stuttering", 0.0, None)
    assert first.speaker == "HeStutters/0"
    assert first.extra == dict(zip(LABELS, map(str, COUNTS), strict=True)) | {
        "text_source": "none",
        "session": "HeStutters/0",
        "group": "HeStutters",
    }
    assert bank.id == "sep28k/FluencyBank/010/0"  # zero-padded, as text
    assert ready.report.skipped == {
        "the recording is listed but absent": 1,
        "the recording has 0 bytes": 1,
        "a row's times or labels are out of range": 1,
    }


def test_parts_of_episodes(tree: Tree) -> None:
    root = tree(
        {
            "SEP-28k_labels.csv": labels(
                ("HVSA", 1, 0, 1_600, 4_800), ("HVSA", 1, 1, 160_000, 208_000)
            ),
            "WAVS/HVSA/1.wav": 0.5,
        }
    )
    ready = prepare(root)
    (row,) = ready
    assert (row.start_s, row.end_s) == (0.1, 0.3)
    assert row.path.endswith("WAVS/HVSA/1.wav")
    assert ready.report.skipped == {"the times lie beyond the end of the recording": 1}


def test_clips_in_one_folder(tree: Tree) -> None:
    root = tree(
        {
            "labels/SEP-28k_labels.csv": labels(("HVSA", 1, 0, 0, 48_000)),
            "SEP28k-data/HVSA_1_0.wav": 0.05,
        }
    )
    assert [row.path for row in prepare(root)] == [str(root / "SEP28k-data/HVSA_1_0.wav")]


def test_extended_brings_speakers_and_splits(tree: Tree) -> None:
    host = ("HVSA", 1, 0, 0, 48_000, True, "Jane Doe", 0.4, "train", "train", "test", "dev")
    guest = ("HVSA", 1, 1, 0, 48_000, False, "HVSA_1_2", 0.4, "", "", "", "")
    root = tree(
        {
            "SEP-28k-Extended_clips.csv": extended(host, guest),
            "SEP-28k_labels.csv": labels(("HVSA", 1, 0, 0, 48_000)),
            "CLIPS/HVSA/1/HVSA_1_0.wav": 0.05,
            "CLIPS/HVSA/1/HVSA_1_1.wav": 0.05,
        }
    )
    ready = prepare(root, salt="secret")
    first, second = ready
    assert first.speaker == pseudonym("Jane Doe", "secret")
    assert (first.split, second.split) == ("train", "all")
    assert first.extra is not None
    assert first.extra["is_host"] == "true"
    assert "Doe" not in str(first) + str(ready.report)
    assert [row.split for row in prepare(root, split_column="SEP28k-T")] == ["test", "all"]
    assert any("secret salt" in note for note in prepare_notes(root))
    with pytest.raises(ConfigError, match="split_column is 'train'"):
        prepare(root, split_column="train")


def prepare_notes(root: Path) -> list[str]:
    ready = prepare(root)
    list(ready)
    return list(ready.report.notes)


def test_names_that_leave_the_root_are_refused(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "1.wav").write_bytes(b"")
    root = tree(
        {
            "SEP-28k_labels.csv": labels(
                ("../..", 1, 0, 0, 48_000), ("/etc", 1, 0, 0, 48_000), ("HVSA", 1, 0, 0, 48_000)
            ),
            "CLIPS/HVSA/1/HVSA_1_0.wav": 0.05,
        }
    )
    ready = prepare(root)
    assert [row.id for row in ready] == ["sep28k/HVSA/1/0"]
    assert ready.report.skipped == {
        "a listed path leaves the root": 1,
        "a listed path is absolute": 1,
    }


def test_a_table_without_its_columns(tree: Tree) -> None:
    root = tree(
        {
            "SEP-28k_labels.csv": "Show,EpId\nHVSA,1\n",
            "fluencybank_labels.csv": labels(("FluencyBank", "010", 0, 0, 48_000)),
            "CLIPS/FluencyBank/010/FluencyBank_010_0.wav": 0.05,
        }
    )
    ready = prepare(root)
    assert len(list(ready)) == 1
    assert ready.report.skipped == {"a table has no column ClipId": 1}
