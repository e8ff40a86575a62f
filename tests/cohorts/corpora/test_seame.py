"""SEAME: two phases, milliseconds, speakers from ids, the usual test sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperasr.cohorts.corpora import seame
from tests.cohorts.corpora.conftest import Tree


def corpus(tree: Tree) -> Path:
    return tree(
        {
            "SEAME/conversation/audio/01NC01FBX_0101.wav": 3.0,
            "SEAME/interview/audio/ni33mbp_0101.wav": 3.0,
            "SEAME/interview/audio/ui03faz_0101.wav": b"",
            "SEAME/conversation/transcript/phaseII/01NC01FBX_0101.txt": (
                "01NC01FBX_0101\t104\t1236\tCS\t(ppl) 我 ｏｋ 的 <unk> lah\n"
                "01NC01FBX_0101\t1300\t1400\tEN\t(ppb)\n"
                "01NC01FBX_0101\t1300\t1390\tEN\tyes\r\n"
                "01NC01FBX_0101\t2000\tsoon\tEN\tno\n"
                "\n"
                "99NC09FBX_0101\t0\t500\tEN\tno audio\n"
            ),
            "SEAME/conversation/transcript/phaseI/01NC01FBX_0101.txt": (
                "01NC01FBX_0101\t104\t1236\tthe older one\n"
            ),
            "SEAME/interview/transcript/phaseI/ni33mbp_0101.txt": (
                "NI33MBP_0101\t500\t1500\t你 好\nNI33MBP_0101\t1500\t2500\n"
                "NI33MBP_0101\t9000\t9500\tlate\n"
            ),
            "SEAME/interview/transcript/phaseI/ui03faz_0101.txt": "UI03FAZ_0101\t0\t900\t好\n",
            "SEAME/readme/notes.txt": "anything\tat\tall",
            "SEAME-dev-set/dev_man/text": (
                "ni33m-ni33mbp_0101-00048-00152 你 好\nbad line\nx-nc-00001-00002 y\n"
            ),
        }
    )


def test_rows(tree: Tree) -> None:
    prepared = seame.prepare(corpus(tree))
    rows = {row.id: row for row in prepared}
    assert set(rows) == {
        "nc01f-01nc01fbx_0101-000010-000124",
        "nc01f-01nc01fbx_0101-000130-000139",
        "ni33m-ni33mbp_0101-000050-000150",
    }
    mixed = rows["nc01f-01nc01fbx_0101-000010-000124"]
    assert (mixed.text, mixed.speaker, mixed.language) == ("我 ok 的 lah", "nc01f", "zh")
    assert (mixed.start_s, mixed.end_s, mixed.split) == (0.104, 1.236, "train")
    assert mixed.extra == {
        "text_source": "human",
        "raw_text": "(ppl) 我 ｏｋ 的 <unk> lah",
        "session": "01nc01fbx_0101",
        "gender": "f",
        "tag": "CS",
    }
    assert rows["nc01f-01nc01fbx_0101-000130-000139"].language == "en"
    first_phase = rows["ni33m-ni33mbp_0101-000050-000150"]
    assert (first_phase.text, first_phase.language, first_phase.split) == ("你 好", "zh", "dev_man")
    assert first_phase.extra is not None
    assert first_phase.extra["gender"] == "m"
    assert prepared.report.skipped == {
        "a line of a test set that is not speaker-recording-start-end": 1,
        "noise, no words": 1,
        "a line that is not id, start, end, language, text": 1,
        "the recording is listed but absent": 1,
        "a line without transcript": 1,
        "the times lie beyond the end of the recording": 1,
        "the recording has 0 bytes": 1,
    }


@pytest.mark.parametrize(("start", "split"), [(52, "dev_man"), (53, "train"), (47, "train")])
def test_tolerance(start: int, split: str, tree: Tree) -> None:
    """The test set says 50 here: less than three hundredths away is the same utterance."""
    root = corpus(tree)
    (root / "sets" / "dev_man").mkdir(parents=True)
    line = f"ni33m-ni33mbp_0101-{start:05d}-00150 x\n"
    (root / "sets" / "dev_man" / "text").write_text(line)
    rows = {row.id: row for row in seame.prepare(root / "SEAME", dev_sets=root / "sets")}
    assert rows["ni33m-ni33mbp_0101-000050-000150"].split == split


def test_without_test_sets(tree: Tree) -> None:
    assert {row.split for row in seame.prepare(corpus(tree) / "SEAME")} == {"all"}


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("(ppo) ok <v-noise> 好", "ok 好"),
        ("<UNK english> ppl happy", "happy"),
        ("（ppc）ｈｅｌｌｏ", "hello"),
        ("(pplx) app shopping", "app shopping"),
    ],
)
def test_clean(raw: str, text: str) -> None:
    assert seame.clean(raw) == text
