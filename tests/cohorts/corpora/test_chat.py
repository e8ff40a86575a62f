"""CHAT: every mark that tells what was said from what was meant."""

from __future__ import annotations

import pytest

from hyperasr.cohorts.corpora._chat import Turn, parse_line, read_chat, read_ids


@pytest.mark.parametrize(
    ("line", "verbatim", "intended"),
    [
        ("I like it .", "I like it", "I like it"),
        ("&-um I &-uh like it .", "um I uh like it", "I like it"),
        ("&-you_know it is .", "you know it is", "it is"),
        ("&+fr &+fr friend .", "fr- fr- friend", "friend"),
        ("&~gaga yes .", "gaga- yes", "yes"),
        ("&um &fr friend .", "um fr- friend", "friend"),
        ("I [/] I [/] I go .", "I I I go", "I go"),
        ("<I want> [/] I want to .", "I want I want to", "I want to"),
        ("<I want> [//] I need <a b> [///] c .", "I want I need a b c", "I need c"),
        ("I &-um [/] I go .", "I um I go", "I go"),
        ("<the <big> [/] big> [//] small .", "the big big small", "small"),
        ("no [x 3] way .", "no no no way", "no way"),
        ("gonna [: going to] win .", "gonna win", "going to win"),
        ("<gonna win> [/] gonna [: going to] win .", "gonna win gonna win", "going to win"),
        ("F:riuli is ni:ce: .", "Friuli is nice", "Friuli is nice"),
        ("≠block it .", "block it", "block it"),
        ("↫s↫sold it .", "s-sold it", "sold it"),
        ("↫s-s-s↫sold be↫c-c↫cause .", "s-s-s-sold bec-c-cause", "sold because"),
        ("spa^ghetti .", "spaghetti", "spaghetti"),
        ("well (.) I (..) go (1.5) there (0:02.1) .", "well I go there", "well I go there"),
        ("(be)cause I want(ed) it .", "cause I want it", "because I wanted it"),
        ("I was +...", "I was", "I was"),
        ('+" he said +/.', "he said", "he said"),
        ("+< right ?", "right", "right"),
        ("he goed [*] [: went] [+ gram] .", "he goed", "he went"),
        ("so [% laughing] yes [=! shouts] [<] .", "so yes", "so yes"),
        ("hola@s:spa b@l .", "hola b", "hola b"),
        ("ice_cream black+bird .", "ice cream blackbird", "ice cream blackbird"),
        ("&=laughs &=coughs:loud .", "", ""),
        ("&*INV:mhm yes , no „ oh .", "yes no oh", "yes no oh"),
        ("0is it .", "it", "it"),
        ("<open group", "open group", "open group"),
        ("closed> [/] x .", "closed x", "x"),
        ("[/] x .", "x", "x"),
    ],
)
def test_marks(line: str, verbatim: str, intended: str) -> None:
    spoken = parse_line(line)
    assert (spoken.verbatim, spoken.intended) == (verbatim, intended)
    assert not spoken.unintelligible


@pytest.mark.parametrize("line", ["xxx go .", "I <YYY> [/] go .", "www ."])
def test_unintelligible(line: str) -> None:
    assert parse_line(line).unintelligible


def test_intended_without_marks_is_itself() -> None:
    """Reading the intended text again changes nothing."""
    meant = parse_line("<I w(ant)> [//] I &-um ↫n↫need (be)cause [x 2] F:un .").intended
    assert parse_line(meant).intended == parse_line(meant).verbatim == meant


FILE = """@UTF8
@Begin
@Languages:\teng
@Participants:\tPAR Participant, INV Investigator
@ID:\teng|Voices-AWS|PAR|24;06.|female|||Participant|||
@Media:\t24fa, video
*INV:\thow are you ? \x15100_900\x15
*PAR:\t&-um I'm [/] I'm
\tfine: thank you . \x151000_2500\x15
%mor:\tpro|I v|be
\tadj|fine
*PAR:\tno times .
*PAR:\tfirst \x153000_3500\x15 second . \x153500_4000\x15
@End
"""


def test_turns() -> None:
    assert list(read_chat(FILE)) == [
        Turn("INV", "how are you ?", 0.1, 0.9),
        Turn("PAR", "&-um I'm [/] I'm fine: thank you .", 1.0, 2.5),
        Turn("PAR", "no times .", None, None),
        Turn("PAR", "first   second .", 3.0, 4.0),
    ]


def test_ids() -> None:
    fields = read_ids(FILE)["PAR"]
    assert (fields[0], fields[3], fields[4]) == ("eng", "24;06.", "female")
    assert read_ids("@ID:\tbroken") == {}
