"""ArzEn: Kaldi files of which the paths are not ours, marks, and both scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperasr.cohorts.corpora import arzen
from tests.cohorts.corpora.conftest import Tree

TOP = "ArzEn_SpeechCorpus_1.0"


def corpus(tree: Tree) -> Path:
    return tree(
        {
            f"{TOP}/recordings/C03-R04.WAV": 3.0,
            f"{TOP}/recordings/C05-R01.WAV": b"",
            f"{TOP}/ASR_files/wav.scp": "C03-R04 /their/disk/C03-R04.WAV\n",
            f"{TOP}/ASR_files/text": (
                "S04-C03-R04_000010-000120 أنا HES %يعني like (LAUGHTER) that's\n"
                "S04-C03-R04_000130-000200 كَلام ((not sure)) #okay= [NOISE]\n"
                "S04-C03-R04_000210-000220 (LAUGHTER) BREATH\n"
                "S04-C05-R01_000010-000120 yes\n"
                "S04-C09-R01_000010-000120 yes\n"
                "odd_id yes\n"
                "S04-C03-R04_000900-000950 late\n"
                "S05-C03-R04_000250-000240 backwards\n\n"
            ),
            f"{TOP}/ASR_files/segments": "S04-C03-R04_000130-000200 C03-R04 1.31 2.0\n",
            f"{TOP}/ASR_files/utt2spk": "S04-C03-R04_000130-000200 S44\n",
            f"{TOP}/splits/train": "C05-R01\nC09-R01\n",
            f"{TOP}/splits/test.txt": "C03-R04.WAV\n",
        }
    )


def test_rows(tree: Tree) -> None:
    prepared = arzen.prepare(corpus(tree))
    first, second = prepared
    assert (first.id, first.speaker) == ("S04-C03-R04_000010-000120", "S04")
    assert first.text == "انا يعني like that's"
    assert (first.start_s, first.end_s) == (0.1, 1.2)
    assert (first.language, first.split, first.cohort) == ("ar", "test", "typical")
    assert first.extra is not None
    assert first.extra["raw_text"] == "أنا HES %يعني like (LAUGHTER) that's"
    assert (second.start_s, second.end_s, second.speaker) == (1.31, 2.0, "S44")
    assert second.text == "كلام not sure okay"
    assert prepared.report.skipped == {
        "noise, no words": 1,
        "the recording has 0 bytes": 1,
        "the recording is listed but absent": 1,
        "an utterance without times": 1,
        "the times lie beyond the end of the recording": 1,
        "the end is not after the start": 1,
    }


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("إزيّك يا آدم", "ازيك يا ادم"),
        ("he HUM was @there+ *and $so //", "he was there and so"),
        ("café NOISE", "café"),
        ("مـمكن", "ممكن"),
    ],
)
def test_clean(raw: str, text: str) -> None:
    assert arzen.clean(raw) == text
