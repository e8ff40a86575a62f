"""AS-70: both releases, both texts, the interviewer left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyperasr.cohorts.corpora.as70 import clean_text, prepare
from tests.cohorts.corpora.conftest import Tree


@pytest.mark.parametrize(
    ("raw", "said", "meant"),
    [
        ("今天天气", "今天天气", "今天天气"),
        ("[我][我]我/p想/b去", "我我我想去", "我想去"),
        ("嗯/i我/r要", "嗯我要", "我要"),
        ("嗯/p/i我", "嗯我", "我"),
        ("[我嗯/i]我", "我嗯我", "我"),
        ("【我】我", "我我", "我"),
        ("我叫<姓名>，<overlap>你*好", "我叫，你好", "我叫，你好"),
        ("打开 app/p", "打开 app", "打开 app"),
        ("《红楼梦》", "《红楼梦》", "《红楼梦》"),
        ("[我", "我", "我"),
        ("嗯/i", "嗯", ""),
    ],
)
def test_marks(raw: str, said: str, meant: str) -> None:
    assert clean_text(raw) == (said, meant)


def test_asr_release(tree: Tree) -> None:
    root = tree(
        {
            "annotation_deid_full/0001/D0001_A.txt": (
                "0.10 0.20 [我]我去\n\n0.2\t0.3\t嗯/i好\nbad line\n"
            ),
            "annotation_deid_full/0001/D0001_B.txt": "0.0 0.1 你好\n",
            "annotation_deid_full/0001/P0001.txt": "0.00 0.10 打开\n".encode("gb18030"),
            "annotation_deid_full/0002/P0002.txt": "0.0 0.1 <姓名>*\n0.1 0.2 好\n",
            "annotation_deid_full/0003/P0003.txt": "0.0 0.1 好\n",
            "annotation_deid_full/readme.txt": "no annotation",
            "audio_deid_full/0001/D0001_A.wav": 0.5,
            "audio_deid_full/0001/D0001_B.wav": 0.5,
            "audio_deid_full/0001/P0001.wav": 0.5,
            "audio_deid_full/0002/p0002.wav": 0.5,
            "data/train_dev_test.json": json.dumps({"train": ["0001"], "dev": [], "test": [2]}),
            "data/level_split.json": json.dumps(
                {"mild": {"train": ["0001"]}, "severe": {"test": ["0002"]}, "odd": {"test": []}}
            ),
        }
    )
    ready = prepare(root)
    rows = {row.id.removeprefix("as70/"): row for row in ready}
    assert {n: (r.text, r.text_clean, r.start_s, r.end_s) for n, r in rows.items()} == {
        "0001/D0001_A/0001": ("我我去", "我去", 0.1, 0.2),
        "0001/D0001_A/0003": ("嗯好", "好", 0.2, 0.3),
        "0001/P0001/0001": ("打开", "打开", 0.0, 0.1),
        "0002/P0002/0002": ("好", "好", 0.1, 0.2),
    }
    assert {r.speaker: (r.split, r.severity) for r in rows.values()} == {
        "0001": ("train", 0.25),
        "0002": ("test", 0.75),
    }
    # Each annotation belongs to the recording of its stem, not to all of the folder.
    assert {Path(r.path).stem.upper() for n, r in rows.items() if "D0001" in n} == {"D0001_A"}
    assert ready.report.skipped == {
        "a line is not START END TEXT": 1,
        "the interviewer's side (B)": 1,
        "the text is empty": 1,
        "there is no recording of the annotation's stem": 1,
        "level_split.json has a level that is not known": 1,
    }
    assert ready.report.notes == {"a text that is no UTF-8 was read as gb18030": 1}
    kept = [row for row in prepare(root, keep_interviewer=True) if row.cohort == "typical"]
    assert [(row.speaker, row.text, row.severity) for row in kept] == [("0001-B", "你好", None)]
    assert kept[0].extra is not None
    assert kept[0].extra["group"] == "0001"


def test_sed_release(tree: Tree) -> None:
    root = tree(
        {
            "wav/0007/meeting_01.wav": 1.0,
            "ref/0007.csv": (
                "Start,End,Person,p,b,r,wr,inter,Text\n"
                "0.10,0.30,A,1,0,0,1,0,[我]我/p去\n"
                "0.30,0.40,B,0,0,0,0,0,你好\n"
                "00:00:00.5,00:00:00.9,P,0,0,0,0,0,打开\n"
                "x,0.5,A,0,0,0,0,0,好\n"
                "0.4,0.5,C,0,0,0,0,0,好\n"
            ),
            "wav/0008/a.wav": 1.0,
            "wav/0008/b.wav": 1.0,
            "ref/0008.csv": "Start,End,Person,p,b,r,wr,inter,Text\n0,1,A,0,0,0,0,0,好\n",
            "train_dev_test.json": "[1, 2]",
        }
    )
    ready = prepare(root)
    first, second = ready
    assert (first.id, first.text, first.text_clean) == (
        "as70/0007/meeting_01/0001",
        "我我去",
        "我去",
    )
    assert first.extra == {
        "task": "conversation",
        "p": "1",
        "b": "0",
        "r": "0",
        "wr": "1",
        "i": "0",
        "text_source": "human",
        "raw_text": "[我]我/p去",
        "group": "0007",
    }
    assert (second.start_s, second.end_s) == (0.5, 0.9)
    assert second.split == "all"
    assert ready.report.skipped == {
        "the interviewer's side (B)": 1,
        "a row's times are no numbers": 1,
        "a row is not START, END, A|B|P, five flags, TEXT": 1,
        "several recordings for the reference of a speaker": 1,
        "train_dev_test.json is not what it should be": 1,
    }
