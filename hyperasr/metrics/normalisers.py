"""Normalisers by name: what two texts must share to count as the same words."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hyperasr.errors import ConfigError
from hyperasr.util.closest import closest

# Raise them with every change of what `spoken` and `verbatim`, or `spelled`, return: the hash in
# each result file then says that its error rates are not to be compared with older ones.
VERSION = "2"
_SPELLED_VERSION = "1"

NORMALISERS = ("spoken", "verbatim", "whisper", "spelled")

# NFKC leaves these alone, or (the acute accent) turns them into a blank, so they are mapped first.
APOSTROPHES = {"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\u00b4": "'", "`": "'"}
HYPHENS = {"\u2010": "-", "\u2011": "-"}
_TRANSLATION = {ord(char): plain for char, plain in (APOSTROPHES | HYPHENS).items()}


@dataclass(frozen=True)
class Normaliser:
    """A text normaliser that can be called, named and told apart from its other versions.

    Attributes:
        name: the name it was asked for by.
        hash: first 12 hexadecimal digits of the SHA-256 of name, version and mapping; two result
            files with the same hash were scored by the same rules.
        function: text -> normalised text, words separated by single spaces.
    """

    name: str
    hash: str
    function: Callable[[str], str] = field(repr=False, compare=False)

    def __call__(self, text: str) -> str:
        """Return the normalised text; words are separated by one space."""
        return " ".join(self.function(text).split())


@cache
def normaliser(name: str) -> Normaliser:
    """Return the normaliser of that name.

    - ``spoken``: the default. NFKC, lower case, punctuation and symbols become spaces, apostrophes
      inside words stay. No word is deleted and none is respelled: fillers count, digits stay as
      written ("3.5" becomes "3 5").
    - ``verbatim``: as ``spoken``, but a word broken off keeps its hyphen ("l- light"); a chain
      whose parts begin its last word is taken apart ("l-l-light" becomes "l- l- light"), other
      hyphens become spaces ("twenty-one", "bye-bye").
    - ``whisper``: the English normaliser published with Whisper. It **deletes the fillers**
      ``hmm, mm, mhm, mmm, uh, um`` and everything in brackets, expands contractions, turns number
      words into digits and British spellings into American ones. Right for comparison with
      published tables of typical speech, wrong for verbatim transcripts of stuttered speech.
    - ``spelled``: as ``whisper``, for what people spell and count out, where a reference has every
      letter and digit as a word and Whisper writes ``U-M-N-Y-H-6``, ``UMNYH6`` or ``412-268``.
      Letters in a row become one word ("c i n d y" becomes "cindy"), unless all are a, i or o
      ("am i a"), and so do numbers in a row; a day before its year loses its ending ("march 20th
      1970" and "March 20, 1970" become "march 201970"). Zeros that a number begins with stay.

    Raises:
        ConfigError: no normaliser has this name.
    Source: Radford et al. 2022, Robust Speech Recognition via Large-Scale Weak Supervision,
        appendix C, for the two Whisper normalisers (package whisper-normalizer).
    """
    if name not in NORMALISERS:
        close = closest(name, NORMALISERS)
        known = ", ".join(NORMALISERS)
        raise ConfigError(f"no normaliser is called {name!r}; did you mean {close!r}? ({known})")
    function, version, mapping = _rules(name)
    text = json.dumps([name, version, mapping], sort_keys=True, ensure_ascii=True)
    return Normaliser(name, hashlib.sha256(text.encode()).hexdigest()[:12], function)


def _spoken(text: str) -> str:
    return _words(_plain(text).replace("-", " "))


def _verbatim(text: str) -> str:
    # Two hyphens or more are a dash between phrases, not a word broken off.
    text = re.sub(r"-{2,}", " ", _plain(text))
    return _words(" ".join(_part_words(chain) for chain in text.split()))


def _part_words(chain: str) -> str:
    """Separate the parts of one hyphenated chain, with a hyphen after each part-word."""
    chain = chain.strip("'")
    parts = [part for part in chain.split("-") if part]
    if not parts:
        return ""
    last, broken_off = parts[-1], chain.endswith("-")
    marked = [
        f"{part}-" if last.startswith(part) and (broken_off or part != last) else part
        for part in parts
    ]
    return " ".join(marked)


def _plain(text: str) -> str:
    """Lower-case the text and leave letters, marks, numbers, apostrophes and hyphens only."""
    # Format characters (soft hyphen, byte order mark) stand inside words and are not seen. They go
    # first: between a letter and its mark they would keep NFKC from putting the two together.
    text = "".join(
        char for char in text.translate(_TRANSLATION) if unicodedata.category(char) != "Cf"
    )
    # Lower-casing can undo NFKC (dotted capital I), so the form is restored after it.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    return "".join(map(_character, text))


def _character(char: str) -> str:
    return (
        char if unicodedata.category(char)[0] in "LMN" or char in "'-" else HYPHENS.get(char, " ")
    )


def _words(text: str) -> str:
    """Drop apostrophes that are quotation marks: at the border of a word, or doubled."""
    words = (_unquote(word) for word in re.sub(r"'{2,}", " ", text).split())
    return " ".join(word for word in words if word)


def _unquote(word: str) -> str:
    if word.endswith("-"):
        stem = word[:-1].strip("'")
        return f"{stem}-" if stem else ""
    return word.strip("'")


# Letters with a blank, hyphen, full stop or comma between them; not those of "it's" or "T-shirt".
_LETTER = r"(?<![^\W\d_])(?<!['\u2019])[a-z](?!-?[^\W\d_]{2}|[^\W\d_]|['\u2019])"
_LETTERS = re.compile(rf"{_LETTER}(?:[\s.,-]+{_LETTER})+")
_WORDS_OF_A_LETTER = frozenset("aio")
# Whisper's normaliser drops the zeros that a number begins with, but keeps "zero" and "oh".
_LEADING_ZEROS = re.compile(r"(?<![\d.,])0+(?=\d)")
_DAY = re.compile(r"\b(\d\d?)(?:st|nd|rd|th)(?= \d{4}\b)")  # before its year
_NUMBERS = re.compile(r"\b(?:one|\d+)(?: (?:one|\d+)\b)+")  # Whisper's rules write 1 as "one"


def _join_letters(text: str) -> str:
    """Write letters that stand in a row as one word: "u m n y h six" becomes "umnyh six"."""

    def joined(run: re.Match[str]) -> str:
        letters = re.findall("[a-z]", run[0])
        return run[0] if _WORDS_OF_A_LETTER.issuperset(letters) else "".join(letters)

    return _LETTERS.sub(joined, text.lower())


def _join_numbers(text: str) -> str:
    """Write numbers that stand in a row as one: "march 20th 1970" becomes "march 201970"."""
    text = _DAY.sub(r"\1", text)
    return _NUMBERS.sub(lambda run: run[0].replace("one", "1").replace(" ", ""), text)


def _rules(name: str) -> tuple[Callable[[str], str], str, Mapping[str, Any]]:
    """Return the function of a normaliser, its version, and what it maps by tables."""
    if name in ("spoken", "verbatim"):
        own = _spoken if name == "spoken" else _verbatim
        return own, VERSION, APOSTROPHES | HYPHENS
    import whisper_normalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    whisper, version = EnglishTextNormalizer(), whisper_normalizer.__version__
    mapping = {
        "deleted": whisper.ignore_patterns,
        "replaced": whisper.replacers,
        "spelling": whisper.standardize_spellings.mapping,
    }
    if name == "whisper":
        return whisper, version, mapping

    def spelled(text: str) -> str:
        # Letters before Whisper's rules, which take the letter o for a zero.
        text = _LEADING_ZEROS.sub(lambda zeros: "zero " * len(zeros[0]), _join_letters(text))
        return _join_numbers(" ".join(whisper(text).split()))

    return spelled, f"{version}/{_SPELLED_VERSION}", mapping
