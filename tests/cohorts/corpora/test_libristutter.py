"""LibriStutter: the text without the stuttering, its events counted, called simulated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hyperasr.cohorts.corpora.libristutter import prepare
from tests.cohorts.corpora.conftest import Tree

CSV = "He,0.0,0.2,0\nSTUTTER,0.2,0.4,3\nsaid,0.4,0.5,0\nSTUTTER,0.5,0.6,1\nJohto,0.6,0.9,5\n"


@pytest.mark.parametrize(
    ("audio", "annotations"),
    [
        ("LibriStutter Part 1/LibriStutter Audio", "LibriStutter Part 1/LibriStutter Annotations"),
        ("LibriStutter Part 1/LibriStutter Audio", "LibriStutter Annotations"),
        ("LibriStutterAudio", "LibriStutterAnnotation"),
    ],
)
def test_rows(tree: Tree, wav: Callable[..., Path], audio: str, annotations: str) -> None:
    root = tree(
        {
            f"{annotations}/1069/133699/1069-133699-0001.csv": CSV,
            f"{annotations}/1069/133699/1069-133699-0002.csv": "a,b\nHe,0.0,0.2,9\nsaid,1,2,0\n",
            f"{audio}/1069/133699/1069-133699-0002.flac": 0.05,  # RIFF inside
            f"{audio}/1069/133699/1069-133699-0003.flac": 0.05,
            f"{annotations}/7800/1/7800-1-0001.csv": CSV,
            f"{audio}/7800/1/7800-1-0001.flac": 0.05,
            f"{audio}/cover.flac": 0.05,
        }
    )
    wav(root / f"{audio}/1069/133699/1069-133699-0001.flac", form="FLAC")
    ready = prepare(root)
    rows = {row.id: row for row in ready}
    assert {name: row.text for name, row in rows.items()} == {
        "libristutter/1069-133699-0001": "He said Johto",
        "libristutter/1069-133699-0002": "said",
        "libristutter/7800-1-0001": "He said Johto",
    }
    first = rows["libristutter/1069-133699-0001"]
    assert (first.cohort, first.domain, first.speaker) == (
        "stuttering",
        "simulated",
        "libri-1069",
    )
    assert first.extra == {
        "text_source": "recogniser",
        "word_repetition": "1",
        "interjection": "1",
        "prolongation": "1",
    }
    assert ready.report.skipped == {
        "there is no annotation for the recording": 1,
        "a row of a table has too many or too few fields": 1,
        "an annotation has a label that is not 0 to 5": 1,
        "not of the layout LibriStutter Audio/SPK/CHAP/SPK-CHAP-UTT.flac": 1,
    }
    assert ready.report.notes == {"speakers from 7800 on are reported misaligned in one mirror": 1}


def test_the_text_of_librispeech_comes_first(tree: Tree, tmp_path: Path) -> None:
    libri = tmp_path / "LibriSpeech" / "test-clean" / "1069" / "133699"
    libri.mkdir(parents=True)
    (libri / "1069-133699.trans.txt").write_text("1069-133699-0001 HE SAID JOE TOE\n")
    names = ("1069-133699-0001", "1069-133699-0002")
    root = tree(
        {f"LibriStutter Annotations/1069/133699/{n}.csv": CSV for n in names}
        | {f"LibriStutter Audio/1069/133699/{n}.flac": 0.05 for n in names}
    )
    ready = prepare(root, librispeech=tmp_path / "LibriSpeech")
    assert [row.text for row in ready] == ["HE SAID JOE TOE", "He said Johto"]
    assert [row.extra["text_source"] for row in ready if row.extra] == ["human", "recogniser"]
    assert sum(ready.report.notes.values()) == 1
