"""CDSD: texts and recordings apart, full-width letters, a second part."""

from __future__ import annotations

from pathlib import Path

from hyperasr.cohorts.corpora import cdsd
from tests.cohorts.corpora.conftest import Tree


def corpus(tree: Tree) -> Path:
    return tree(
        {
            "after_catting/1h/Text/01/a.txt": (
                "S01_0001 打开 ａｂ灯\nS01_0002 走\nS01_0003\nS01_0009 无\nS01_0001 又\n"
            ),
            "after_catting/1h/Text/02.txt": "S02_0001\t你好。\n".encode("gb18030"),
            "after_catting/1h/Audio/01/S01/S01_0001.wav": 0.1,
            "after_catting/1h/Audio/01/S01/S01_0002.wav": b"",
            "after_catting/1h/Audio/S02/S02_0001.wav": 0.1,
            "after_catting/1h/Audio/S02/S01_0001.wav": 0.1,
            "after_catting/1h/Audio/S02/S02_0007.wav": 0.1,
            "after_catting/10h/Text/t.txt": "S01_0001 第二\n",
            "after_catting/10h/Audio/S01/S01_0001.wav": 0.1,
        }
    )


def test_rows(tree: Tree) -> None:
    prepared = cdsd.prepare(corpus(tree))
    rows = {row.id: row for row in prepared}
    assert set(rows) == {"1h/S01_0001", "1h/S02_0001", "10h/S01_0001"}
    first = rows["1h/S01_0001"]
    assert (first.text, first.speaker, first.cohort) == ("打开AB灯", "S01", "dysarthria")
    assert (first.language, first.severity) == ("zh", None)
    assert first.extra == {"text_source": "prompt", "session": "1h", "raw_text": "打开 ａｂ灯"}
    assert rows["1h/S02_0001"].text == "你好。"
    assert rows["10h/S01_0001"].text == "第二"
    report = prepared.report
    assert report.skipped == {
        "a line of the texts without words": 1,
        "a second transcript of the same utterance": 1,
        "the recording has 0 bytes": 1,
        "two speakers under one id": 1,
        "no transcript": 1,
        "the recording is listed but absent": 1,
    }
    assert report.notes == {"a text that is no UTF-8 was read as gb18030": 1}


def test_one_part_alone(tree: Tree) -> None:
    (row,) = cdsd.prepare(corpus(tree) / "after_catting" / "10h")
    assert row.id == "10h/S01_0001"
