"""LibriSpeech: chapters, subsets, and what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hyperasr.cohorts.corpora import librispeech
from hyperasr.errors import ManifestError
from tests.cohorts.corpora.conftest import Tree

CHAPTER = "LibriSpeech/test-other/1688/142285"


def corpus(tree: Tree, wav: Callable[..., Path]) -> Path:
    root = tree(
        {
            f"{CHAPTER}/1688-142285.trans.txt": (
                "1688-142285-0000 THERE'S IRON\n"
                "1688-142285-0001 MISTER  HALE \r\n"
                "1688-142285-0002 NOT THERE\n"
                "1688-142285-0001 TWICE\n"
            ),
            "LibriSpeech/SPEAKERS.TXT": "; ID |SEX| SUBSET\n1688 | M | test-other | 9.7 | Name\n",
            f"{CHAPTER}/1688-142285-0009.flac": b"",
            "LibriSpeech/train-clean-100/19/198/19-198.trans.txt": "19-198-0000 SIMPLE\n",
        }
    )
    for name in ("1688-142285-0000", "1688-142285-0001"):
        wav(root / CHAPTER / f"{name}.flac", form="FLAC")
    wav(root / "LibriSpeech/train-clean-100/19/198/19-198-0000.flac", form="FLAC")
    return root


def test_rows(tree: Tree, wav: Callable[..., Path]) -> None:
    prepared = librispeech.prepare(corpus(tree, wav))
    first, second, train = prepared
    assert (first.id, first.text, first.speaker) == ("1688-142285-0000", "there's iron", "1688")
    assert (first.cohort, first.split, first.language) == ("typical", "test", "en")
    assert first.extra == {
        "text_source": "human",
        "session": "142285",
        "gender": "m",
        "subset": "test-other",
    }
    assert second.text is not None
    assert second.text.split() == ["mister", "hale"]
    assert (train.speaker, train.split) == ("19", "train")
    assert prepared.report.skipped == {
        "the recording is listed but absent": 1,
        "a second transcript of the same utterance": 1,
        "no transcript": 1,
    }


def test_a_subset_alone(tree: Tree, wav: Callable[..., Path]) -> None:
    root = corpus(tree, wav) / "LibriSpeech" / "test-other"
    rows = list(librispeech.prepare(root))
    assert [row.split for row in rows] == ["test", "test"]
    assert rows[0].extra is not None
    assert rows[0].extra["gender"] == "m", "the table of speakers lies above the subset"


def test_an_empty_recording_and_an_odd_encoding(tree: Tree) -> None:
    root = tree(
        {
            "1/2/1-2.trans.txt": "1-2-0000 CAFÉ\n1-2-0001 B\n".encode("latin-1"),
            "1/2/1-2-0000.flac": 0.1,
            "1/2/1-2-0001.flac": b"",
        }
    )
    prepared = librispeech.prepare(root)
    assert [row.text for row in prepared] == ["café"]
    assert prepared.report.skipped == {"the recording has 0 bytes": 1}
    assert prepared.report.notes == {"a text that is no UTF-8 was read as cp1252": 1}


def test_nothing_there(tree: Tree) -> None:
    with pytest.raises(ManifestError, match="expected SPEAKER/CHAPTER"):
        list(librispeech.prepare(tree({"a.wav": 0.1, "a.txt": "one"})))
