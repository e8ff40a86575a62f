"""UCLASS: recordings with and without transcripts, of four kinds."""

from __future__ import annotations

import pytest

from hyperasr.cohorts.corpora._textgrid import Interval, phrases, read_textgrid
from hyperasr.cohorts.corpora.uclass import prepare
from tests.cohorts.corpora.conftest import Tree

SHORT = '''File type = "ooTextFile"
Object class = "TextGrid"

0
0.9
<exists>
2
"IntervalTier"
"words"
0
0.9
4
0
0.1
""
0.1
0.3
"hello"
0.3
0.4
"my ""friend"""
0.8
0.9
"later"
"TextTier"
"marks"
0
0.9
1
0.5
"x"
'''
LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 0.9
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "TextTier"
        name = "tier 2 marks"
        xmin = 0
        xmax = 0.9
        points: size = 1
        points [1]:
            number = 0.5
            mark = "x"
    item [2]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 0.9
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 0.1
            text = ""
        intervals [2]:
            xmin = 0.1
            xmax = 0.3
            text = "hello"
        intervals [3]:
            xmin = 0.3
            xmax = 0.4
            text = "my ""friend"" "
        intervals [4]:
            xmin = 0.8
            xmax = 0.9
            text = "later"
"""
WORDS = [
    Interval(0.0, 0.1, ""),
    Interval(0.1, 0.3, "hello"),
    Interval(0.3, 0.4, 'my "friend"'),
    Interval(0.8, 0.9, "later"),
]


def test_rows(tree: Tree) -> None:
    root = tree(
        {
            "Release1/monologue/M_0030_16y4m_1.wav": 0.5,
            "Release1/orth/M_0030_16y4m_1.orth": "hello\n there ",
            "Release1/monologue/F_0101_10y4m_1.wav": 0.5,
            "Release1/cha/F_0101_10y4m_1.cha": (
                "*CHI:\tI [/] I go . \x15100_200\x15\n*INV:\tyes ? \x15200_300\x15\n"
                "*CHI:\txxx . \x15300_400\x15\n"
            ),
            "Release1/monologue/M_0061_16y9m-1.wav": 0.9,
            "Release1/grid/M_0061_16y9m_1.grid": SHORT,
            "Release2/reading/M_0061_17y9m_1.wav": 0.5,
            "Release2/conversation/M_0030_17y0m_1.wav": 0.5,
            "FSF/0075_r1_2_fnfn.sfs": b"sfs",
            "clips/M_0030_16y4m_1_dysfluent_000.wav": 0.5,
            "clips/music.wav": 0.5,
        }
    )
    ready = prepare(root, texts={"M_0061_17y9m_1": "arthur the rat"})
    rows = {row.id.removeprefix("uclass/"): row for row in ready}
    assert {n: (r.text, r.text_clean, r.start_s, r.end_s) for n, r in rows.items()} == {
        "release1/monologue/M_0030_16Y4M_1": ("hello there", None, 0.0, None),
        "release1/monologue/F_0101_10Y4M_1": ("I I go", "I go", 0.1, 0.2),
        "release1/monologue/M_0061_16Y9M_1/0001": ('hello my "friend"', None, 0.1, 0.4),
        "release1/monologue/M_0061_16Y9M_1/0002": ("later", None, 0.8, 0.9),
        "release2/reading/M_0061_17Y9M_1": ("arthur the rat", None, 0.0, None),
        "release2/conversation/M_0030_17Y0M_1": (None, None, 0.0, None),
        "M_0030_16Y4M_1_DYSFLUENT_000": (None, None, 0.0, None),
    }
    assert {row.speaker for row in rows.values()} == {"M_0030", "F_0101", "M_0061"}
    passage = rows["release2/reading/M_0061_17Y9M_1"]
    assert passage.extra == {
        "text_source": "passage",
        "gender": "m",
        "age": "17",
        "session": "1",
        "task": "reading",
    }
    assert ready.report.skipped == {
        "an utterance is unintelligible in part (xxx, yyy, www)": 1,
        "a file of the Speech Filing System; export it as WAV": 1,
        "the name is not SEX_ID_AGE_TAKE, such as M_0030_16y4m_1": 1,
    }


@pytest.mark.parametrize(
    ("cha", "expected"),
    [
        ("*S:\tI [/] I go .\n*S:\tnow .\n", ("I I go now", "I go now")),
        # A text with gaps or other voices is not the text of the recording.
        ("*S:\tI go .\n*S:\txxx .\n", ("all of it", None)),
        ("*S:\tI go .\n*INV:\twell .\n", ("all of it", None)),
    ],
)
def test_chat_without_times(tree: Tree, cha: str, expected: tuple[str, str | None]) -> None:
    root = tree(
        {"M_0030_16y4m_1.wav": 0.1, "M_0030_16y4m_1.cha": cha, "M_0030_16y4m_1.orth": "all of it"}
    )
    (row,) = prepare(root)
    assert (row.text, row.text_clean) == expected


def test_a_damaged_textgrid_is_reported(tree: Tree) -> None:
    root = tree({"M_0030_16y4m_1.wav": 0.1, "M_0030_16y4m_1.TextGrid": SHORT[:120]})
    ready = prepare(root)
    (row,) = ready
    assert row.text is None
    assert ready.report.skipped == {"a TextGrid cannot be read (the TextGrid breaks off)": 1}


@pytest.mark.parametrize("text", [SHORT, LONG], ids=["short", "long"])
def test_textgrids(text: str) -> None:
    assert read_textgrid(text) == {"words": WORDS}


@pytest.mark.parametrize("text", ["", "hello", LONG[:-40], SHORT.replace("\n2\n", '\n"two"\n')])
def test_damaged_textgrids(text: str) -> None:
    with pytest.raises(ValueError, match="TextGrid"):
        read_textgrid(text)


def test_phrases() -> None:
    assert [p.text for p in phrases(WORDS)] == ['hello my "friend"', "later"]
    assert [p.text for p in phrases(WORDS, pause_s=1.0)] == ['hello my "friend" later']
    assert [p.text for p in phrases(WORDS, longest_s=0.25)] == ["hello", 'my "friend"', "later"]
