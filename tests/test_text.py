"""Normalisers: what stays, what goes, and that the name and hash tell them apart."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperasr.errors import ConfigError
from hyperasr.text import NORMALISERS, normaliser

# text, spoken, verbatim, whisper, whisper_basic
TABLE = [
    ("", "", "", "", ""),
    (" \t\n", "", "", "", ""),
    ("Turn ON the  light.", *["turn on the light"] * 4),
    ("um turn uh on", "um turn uh on", "um turn uh on", "turn on", "um turn uh on"),
    ("don't", "don't", "don't", "do not", "don t"),
    ("don\u2019t", "don't", "don't", "don t", "don t"),
    ("don\u00b4t", "don't", "don't", "don t", "don t"),
    ("the 'big' dogs'", "the big dogs", "the big dogs", "the big dogs", "the big dogs"),
    ("twenty-one", "twenty one", "twenty one", "21", "twenty one"),
    ("l- light", "l light", "l- light", "l light", "l light"),
    ("l-l-light", "l l light", "l- l- light", "l l light", "l l light"),
    ("a-a-actually", "a a actually", "a- a- actually", "a a actually", "a a actually"),
    ("'l-l-,' he said", "l l he said", "l- l- he said", "l l he said", "l l he said"),
    ("bye-bye um-um", "bye bye um um", "bye bye um um", "bye bye", "bye bye um um"),
    ("st\u2010 stop", "st stop", "st- stop", "saint stop", "st stop"),
    ("yes -- no - maybe", *["yes no maybe"] * 4),
    ("wait--what", *["wait what"] * 4),
    ("so--some l--", "so some l", "so some l", "so some l", "so some l"),
    ("yes\u2014no", *["yes no"] * 4),
    ("3.5 [laughs] (noise)", "3 5 laughs noise", "3 5 laughs noise", "3.5", "3 5"),
    ("snake_case @ home", *["snake case home"] * 4),
    ("the colour", "the colour", "the colour", "the color", "the colour"),
    ("\uff21\uff22 \ufb01sh", *["ab fish"] * 4),
    ("CAF\u00c9", "caf\u00e9", "caf\u00e9", "cafe", "caf\u00e9"),
    (
        "ligh\u00adt \ufeffon",
        "light on",
        "light on",
        "ligh\u00adt \ufeffon",
        "ligh\u00adt \ufeffon",
    ),
]
NAMES = ["spoken", "verbatim", "whisper", "whisper_basic"]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: repr(row[0]))
def test_table(row: tuple[str, ...]) -> None:
    text, *expected = row
    assert [normaliser(name)(text) for name in NAMES] == expected


def test_the_table_knows_every_normaliser() -> None:
    assert list(NORMALISERS) == NAMES


def test_only_whisper_deletes_fillers() -> None:
    for filler in ("hmm", "mm", "mhm", "mmm", "uh", "um"):
        assert normaliser("whisper")(f"the {filler} light") == "the light"
        for name in ("spoken", "verbatim", "whisper_basic"):
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


@given(text=st.text(st.sampled_from("abl-' .")))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_verbatim_without_hyphens_is_spoken(text: str) -> None:
    assert normaliser("spoken")(normaliser("verbatim")(text)) == normaliser("spoken")(text)


def test_hash_is_of_name_version_and_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {name: normaliser(name).hash for name in NAMES}
    assert len(set(hashes.values())) == len(NAMES)
    # These rules are ours: when what they return changes, VERSION must change, and this with it.
    assert hashes["spoken"] == "84066ce1634d"
    assert hashes["verbatim"] == "6546c6229912"
    monkeypatch.setattr("hyperasr.text.VERSION", "another")
    assert normaliser.__wrapped__("spoken").hash != hashes["spoken"]
    assert normaliser.__wrapped__("whisper").hash == hashes["whisper"]
    monkeypatch.setattr("hyperasr.text.HYPHENS", {})
    assert normaliser.__wrapped__("verbatim").hash != hashes["verbatim"]


def test_unknown_name_names_the_closest() -> None:
    with pytest.raises(ConfigError, match="'wisper'; did you mean 'whisper'"):
        normaliser("wisper")
