"""FSDD: the text in the name, the published split, and real recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hyperasr.cohorts.corpora import fsdd

Tree = Callable[[dict[str, str | bytes | float]], Path]
SHARED = Path(__file__).parents[4] / "shared" / "data" / "fsdd-4spk"


def test_rows(tree: Tree) -> None:
    root = tree(
        {
            "recordings/7_Jackson_4.wav": 0.1,
            "recordings/0_theo_5.wav": 0.1,
            "recordings/9_theo_31.wav": b"",
            "recordings/jackson_7.wav": 0.1,
            "copy/7_Jackson_4.wav": 0.1,
        }
    )
    prepared = fsdd.prepare(root)
    rows = {row.id: row for row in prepared}
    assert set(rows) == {"7_Jackson_4", "0_theo_5"}
    seven = rows["7_Jackson_4"]
    assert (seven.text, seven.speaker, seven.split) == ("seven", "jackson", "test")
    assert (rows["0_theo_5"].text, rows["0_theo_5"].split) == ("zero", "train")
    assert prepared.report.skipped == {
        "the recording has 0 bytes": 1,
        "a name that is not DIGIT_SPEAKER_TAKE": 1,
        "duplicate id": 1,
    }


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real recordings are not here")
def test_real_recordings() -> None:
    prepared = fsdd.prepare(SHARED)
    rows = list(prepared)
    assert len(rows) == 4 * 10 * 30
    assert prepared.report.skipped == {}
    counts = {(row.speaker, row.text): 0 for row in rows}
    for row in rows:
        counts[row.speaker, row.text] += 1
    assert len(counts) == 40
    assert set(counts.values()) == {30}
