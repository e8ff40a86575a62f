"""What transcribers and recording software put into texts, and the words that stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hyperasr.cohorts.corpora import arzen, fisher, seame
from hyperasr.cohorts.corpora._kaldi import _decoded
from hyperasr.cohorts.corpora.as70 import clean_text
from hyperasr.cohorts.corpora.sap import references, stretches
from hyperasr.cohorts.corpora.torgo import clean_prompt
from hyperasr.cohorts.corpora.ua_speech import read_mlf
from hyperasr.cohorts.corpora.uclass import Interval, phrases, read_textgrid


@pytest.mark.parametrize(
    ("clean", "raw", "text"),
    [
        (arzen.clean, "إزيّك يا آدم", "ازيك يا ادم"),
        (arzen.clean, "he HUM was @there+ *and $so //", "he was there and so"),
        (arzen.clean, "café NOISE", "café"),
        (arzen.clean, "مـمكن", "ممكن"),
        (fisher.clean, "<foreing lang=English> yes </foreing> no", "yes no"),
        (fisher.clean, "<foreign langenglish hello </foreign", "hello"),
        (fisher.clean, 'ah <foreign lang = "English"> bye </foreign> ya', "ah bye ya"),
        (fisher.clean, "foreign> hey", "hey"),
        (fisher.clean, "a foreign film", "a foreign film"),
        (fisher.clean, "<lname>García</lname> <background>on</background> bien", "García bien"),
        (fisher.clean, "<laugh/> [lipsmack] ya </b", "ya"),
        (fisher.clean, "((tal vez)) sí", "tal vez sí"),
        (seame.clean, "(ppo) ok <v-noise> 好", "ok 好"),
        (seame.clean, "<UNK english> ppl happy", "happy"),
        (seame.clean, "（ppc）ｈｅｌｌｏ", "hello"),
        (seame.clean, "(pplx) app shopping", "app shopping"),
        (clean_prompt, 'He said: "yes; no?"', "He said yes no"),
        (clean_prompt, "xray", "x-ray"),
        (clean_prompt, "xrays", "xrays"),
        (clean_prompt, "x [relax]", None),
        # AS-70: as said, and as meant.
        (clean_text, "今天天气", ("今天天气", "今天天气")),
        (clean_text, "[我][我]我/p想/b去", ("我我我想去", "我想去")),
        (clean_text, "嗯/i我/r要", ("嗯我要", "我要")),
        (clean_text, "嗯/p/i我", ("嗯我", "我")),
        (clean_text, "[我嗯/i]我", ("我嗯我", "我")),
        (clean_text, "【我】我", ("我我", "我")),
        (clean_text, "我叫<姓名>，<overlap>你*好", ("我叫，你好", "我叫，你好")),
        (clean_text, "打开 app/p", ("打开 app", "打开 app")),
        (clean_text, "《红楼梦》", ("《红楼梦》", "《红楼梦》")),
        (clean_text, "[我", ("我", "我")),
        (clean_text, "嗯/i", ("嗯", "")),
        # The one recording that a command of wav.scp decodes.
        (_decoded, "/usr/bin/sox a.wav -r 16000 -c 1 -b 16 -t wav - downsample |", "a.wav"),
        (_decoded, "ffmpeg -i a.mp3 -f wav - |", "a.mp3"),
        (_decoded, "sox a.wav b.wav |", None),
        (_decoded, "flac -c -d -s a.flac | sox - -t wav - |", None),
        (_decoded, "cat a.wav |", None),
        (_decoded, "sox 'a.wav |", None),
        (_decoded, "|", None),
        (
            read_mlf,
            '#!MLF!#\n"*/M16_B1_C1_M2.lab"\n0 10 sil\n10 50 COMMAND.\n.\n"a\\b.rec"\nTWO\n.\n',
            {"M16_B1_C1_M2": "SIL COMMAND", "B": "TWO"},
        ),
    ],
)
def test_marks(clean: Callable[[str], Any], raw: str, text: Any) -> None:
    assert clean(raw) == text


@pytest.mark.parametrize(
    ("raw", "verbatim", "clean"),
    [
        ("(And) And so", "And And so", "And so"),
        ("(s-) stop", "s- stop", "stop"),
        ("(f-*)Find it", "f- Find it", "Find it"),
        ("go (cs: come on) home", "go come on home", "go come on home"),
        ("go (ss: wait, no)", "go wait, no", "go wait, no"),
        ("the {g: cat} sat", "the cat sat", "the cat sat"),
        ("the {cat} sat", "the cat sat", "the cat sat"),
        ("{f: hola} there", "hola there", "hola there"),
        ("{w: 3} there {u: }", "UNK UNK UNK there UNK", "UNK UNK UNK there UNK"),
        ("{w:} there { }", "there UNK", "there UNK"),
        ("[prompt: say hello] hello [NAME].", "hello.", "hello."),
        ("of a prompt] hello", "hello", "hello"),
        ("spell ~J ~E", "spell J E", "spell J E"),
        ("(um, (I) ) I went (", "um, I I went", "I went"),
        ("half (open", "half open", "half"),
        ("(uh)", "uh", ""),
    ],
)
def test_references_of_sap(raw: str, verbatim: str, clean: str) -> None:
    assert references(raw) == (verbatim, clean)


@pytest.mark.parametrize(
    ("transcript", "parts"),
    [
        ("one\ntwo", [("one two", None, None)]),
        ("#dis\r\none", [("one", None, None)]),
        ("#dis", []),
        ("nod", []),
        ("[BGN]", []),
        ("nod your head", [("nod your head", None, None)]),
        ("Cut.", []),
        (" \n", []),
        (
            "#ts\n0.5 2 one two\n3.25 4.0 three\nbad\n5 6 ",
            [("one two", 0.5, 2), ("three", 3.25, 4)],
        ),
    ],
)
def test_stretches_of_sap(transcript: str, parts: list[tuple[str, float, float]]) -> None:
    assert stretches(transcript) == parts


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


@pytest.mark.parametrize("text", [SHORT, LONG], ids=["short", "long"])
def test_textgrids(text: str) -> None:
    assert read_textgrid(text) == {"words": WORDS}


@pytest.mark.parametrize("text", ["", "hello", LONG[:-40], SHORT.replace("\n2\n", '\n"two"\n')])
def test_damaged_textgrids(text: str) -> None:
    with pytest.raises(ValueError, match="TextGrid"):
        read_textgrid(text)


def test_phrases() -> None:
    assert [p.text for p in phrases(WORDS)] == ['hello my "friend"', "later"]
    long = [Interval(0.0, 15.0, "one"), Interval(15.1, 26.0, "two"), Interval(26.1, 60.0, "three")]
    assert [p.text for p in phrases(long)] == ["one", "two", "three"]
