"""Normalisers: what stays, what goes, and that the name and hash tell them apart."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperasr.errors import ConfigError
from hyperasr.metrics.normalisers import NORMALISERS, normaliser

# text, spoken, verbatim, whisper
TABLE = [
    ("", "", "", ""),
    (" \t\n", "", "", ""),
    ("Turn ON the  light.", *["turn on the light"] * 3),
    ("um turn uh on", "um turn uh on", "um turn uh on", "turn on"),
    ("don't", "don't", "don't", "do not"),
    ("don\u2019t", "don't", "don't", "don t"),
    ("don\u00b4t", "don't", "don't", "don t"),
    ("the 'big' dogs'", "the big dogs", "the big dogs", "the big dogs"),
    ("twenty-one", "twenty one", "twenty one", "21"),
    ("l- light", "l light", "l- light", "l light"),
    ("l-l-light", "l l light", "l- l- light", "l l light"),
    ("a-a-actually", "a a actually", "a- a- actually", "a a actually"),
    ("'l-l-,' he said", "l l he said", "l- l- he said", "l l he said"),
    ("bye-bye um-um", "bye bye um um", "bye bye um um", "bye bye"),
    ("st\u2010 stop", "st stop", "st- stop", "saint stop"),
    ("yes -- no - maybe", *["yes no maybe"] * 3),
    ("wait--what", *["wait what"] * 3),
    ("so--some l--", "so some l", "so some l", "so some l"),
    ("yes\u2014no", *["yes no"] * 3),
    ("3.5 [laughs] (noise)", "3 5 laughs noise", "3 5 laughs noise", "3.5"),
    ("snake_case @ home", *["snake case home"] * 3),
    ("the colour", "the colour", "the colour", "the color"),
    ("\uff21\uff22 \ufb01sh", *["ab fish"] * 3),
    ("CAF\u00c9", "caf\u00e9", "caf\u00e9", "cafe"),
    (
        "ligh\u00adt \ufeffon",
        "light on",
        "light on",
        "ligh\u00adt \ufeffon",
    ),
]
NAMES = ["spoken", "verbatim", "whisper"]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: repr(row[0]))
def test_table(row: tuple[str, ...]) -> None:
    text, *expected = row
    assert [normaliser(name)(text) for name in NAMES] == expected


def test_the_table_knows_every_normaliser() -> None:
    assert list(NORMALISERS) == [*NAMES, "spelled"]


SPELLED = [
    ("c i n d y", "C-I-N-D-Y.", "cindy"),
    ("u m n y h six", "UMNYH6", "umnyh 6"),
    ("u m n y h six", "U.M.N.Y.H. 6.", "umnyh 6"),
    ("t r e n t o n", "TRENTON", "trenton"),
    ("n l n s one seventy five", "N-L-N-S175.", "nlns 175"),
    ("erase o j t k s thirty five", "Erase O, J, T, K, S, 35.", "erase ojtks 35"),
    ("five one one five m a r g a r e t", "5115 Margaret", "5115 margaret"),
    ("two six eight five nine five two", "268-5952.", "2685952"),
    ("four one two two six eight", "4 1 2 2 6 8", "412268"),
    ("one five two one three", "1 5 2 1 3", "15213"),
    ("one eleven", "1-11.", "111"),
    ("oh six oh seven sixty six", "06-07-66", "060766"),
    ("double oh seven", "007", "007"),
    ("twelve ten sixty nine", "12, 10, 69.", "121069"),
    ("june eleventh nineteen sixty seven", "June 11, 1967.", "june 111967"),
    ("august twenty fourth nineteen fifty two", "August 24th 1952.", "august 241952"),
    ("seven may nineteen forty four", "7 May 1944", "7 may 1944"),
    ("e a s t eighty fifth s t r e e t", "East 85th Street", "east 85th street"),
    ("enter one", "Enter 1.", "enter one"),
]


@pytest.mark.parametrize(("reference", "written", "same"), SPELLED)
def test_what_is_spelled_is_what_is_written(reference: str, written: str, same: str) -> None:
    norm = normaliser("spelled")
    assert [norm(reference), norm(written), norm(same)] == [same] * 3


@pytest.mark.parametrize(
    "text",
    [
        "Am I a fool, or is it a joke? I'd say it's a joke.",
        "It\u2019s a wonderful concept; that's a long way to run.",
        "She bought an x-ray of a T-shirt for $20 on the 5th.",
        "Oh, the first one was worth 3.5 of the 1,005 in chapter thirteen.",
        "No one had seen the colour of his eyes.",
    ],
)
def test_prose_is_spelled_as_whisper_has_it(text: str) -> None:
    assert normaliser("spelled")(text) == normaliser("whisper")(text)


def test_only_whisper_deletes_fillers() -> None:
    for filler in ("hmm", "mm", "mhm", "mmm", "uh", "um"):
        assert normaliser("whisper")(f"the {filler} light") == "the light"
        for name in ("spoken", "verbatim"):
            assert normaliser(name)(f"the {filler} light") == f"the {filler} light"


@pytest.mark.parametrize("name", ["spoken", "verbatim"])
@given(text=st.text(st.sampled_from("aBl'-\u2019\u2010 .,\u00b4\u0130\u00e9\u00ad\u3099\u304b1")))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_normal_text_stays_as_it_is(name: str, text: str) -> None:
    once = normaliser(name)(text)
    assert normaliser(name)(once) == once


@pytest.mark.parametrize("name", ["spoken", "verbatim"])
@given(text=st.text())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_text_stays_as_it_is_after_once(name: str, text: str) -> None:
    once = normaliser(name)(text)
    assert normaliser(name)(once) == once
    assert once == " ".join(once.split())


@pytest.mark.parametrize("text", ["\u304b\u00ad\u3099", "\u0130\u00ad\u3099"])
def test_a_format_character_between_a_letter_and_its_mark_is_not_seen(text: str) -> None:
    once = normaliser("spoken")(text)
    assert once == normaliser("spoken")(text.replace("\u00ad", ""))
    assert normaliser("spoken")(once) == once


@given(text=st.text(st.sampled_from("abl-' .")))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_verbatim_without_hyphens_is_spoken(text: str) -> None:
    assert normaliser("spoken")(normaliser("verbatim")(text)) == normaliser("spoken")(text)


def test_hash_is_of_name_version_and_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {name: normaliser(name).hash for name in NAMES}
    assert len(set(hashes.values())) == len(NAMES)
    # These rules are ours: when what they return changes, VERSION must change, and this with it.
    assert hashes["spoken"] == "2c3fe60e03f3"
    assert hashes["verbatim"] == "38cad203f50c"
    monkeypatch.setattr("hyperasr.metrics.normalisers.VERSION", "another")
    assert normaliser.__wrapped__("spoken").hash != hashes["spoken"]
    assert normaliser.__wrapped__("whisper").hash == hashes["whisper"]
    monkeypatch.setattr("hyperasr.metrics.normalisers.HYPHENS", {})
    assert normaliser.__wrapped__("verbatim").hash != hashes["verbatim"]


def test_unknown_name_names_the_closest() -> None:
    with pytest.raises(ConfigError, match="'wisper'; did you mean 'whisper'"):
        normaliser("wisper")
