"""The transcripts of the Speech Accessibility Project: markup, codes, and the two references."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["References", "Stretch", "references", "stretches"]

# Instead of a transcript; `#dis` on the first line of one only says that marks follow.
_INVALID = ("nod", "nov", "bgn", "otv", "cut", "dis", "loa", "nrw")
_CODE = re.compile(r"^[#\[]?(" + "|".join(_INVALID) + r")\]?[.]?$", re.I)
_TIMED = re.compile(r"^\s*(\d+(?:\.\d+)?)\s+(\d+(?:\.\d+)?)\s+(.*)$")
_UNKNOWN = "UNK"
_CURLY = re.compile(r"\{([^{}]*)\}?")
_ROUND = re.compile(r"\(([^()]*)\)?")


@dataclass(frozen=True)
class References:
    """The two references of one transcript, and how many of their words nobody understood.

    Attributes:
        verbatim: with disfluencies; clean: without. Unknown words stand as ``UNK``.
        n_unknown: in `verbatim`.
    """

    verbatim: str
    clean: str
    n_unknown: int


@dataclass(frozen=True)
class Stretch:
    """A transcript, or the part of one that has times: seconds, None for the whole recording."""

    raw: str
    start_s: float | None = None
    end_s: float | None = None


def stretches(transcript: str) -> list[Stretch]:
    """Return the parts of a transcript field; an empty list where it is a code for invalid.

    A first line ``#dis`` is dropped and lines are joined. After a first line ``#ts``, each line
    is ``start end text`` in seconds.
    """
    lines = [line.strip() for line in transcript.replace("\r", "\n").split("\n") if line.strip()]
    if len(lines) > 1 and lines[0].lower() == "#dis":
        lines = lines[1:]
    if lines and lines[0].lower().startswith("#ts"):
        timed = [_TIMED.match(line) for line in lines[1:]]
        return [Stretch(m[3], float(m[1]), float(m[2])) for m in timed if m and m[3].strip()]
    raw = " ".join(lines)
    return [] if not raw or _CODE.match(raw) else [Stretch(raw)]


def references(raw: str) -> References:
    """Return the references with and without disfluencies.

    Markup: ``(...)`` disfluency, ``(cs: x)`` and ``(ss: x)`` words of somebody else or beside the
    prompt, which stay in both; ``{g: x}`` guess and ``{f: x}`` foreign keep their words,
    ``{w: 3}`` is three unknown words and ``{u: }`` one; ``[...]`` goes; ``~J`` is a letter,
    ``*`` a mark inside a stutter. Marks that are never closed end with the text.

    Source: the rules of the challenge's scoring (SAPC template, text_normalizer_hf.py), without
        its normalisation of words. Ours: spelled letters stay apart.
    """
    text = re.sub(r"\[[^\]]*\]", " ", raw)
    text = re.sub(r"^[^\[\]]*\]", " ", text)  # its beginning is outside of this recording
    text = _CURLY.sub(_curly, text).replace("[", " ").replace("]", " ")
    verbatim = _words(_nested(text, keep=True))
    return References(verbatim, _words(_nested(text, keep=False)), verbatim.split().count(_UNKNOWN))


def _curly(match: re.Match[str]) -> str:
    kind, colon, words = match[1].rpartition(":")
    kind = kind.strip().lower()
    if kind == "w":
        number = re.search(r"\d+", words)
        return " " + " ".join([_UNKNOWN] * int(number[0] if number else 0)) + " "
    if kind == "u" or not match[1].strip():
        return f" {_UNKNOWN} "
    return f" {words if colon else match[1]} "


def _nested(text: str, keep: bool) -> str:
    """Resolve round brackets from the innermost outwards."""

    def resolve(match: re.Match[str]) -> str:
        _, colon, words = match[1].rpartition(":")
        if colon:
            return f" {words} "
        # (f-*)Find: what is broken off stands before the word, not in it.
        return f" {match[1]} " if keep else " "

    before = None
    while before != text:
        before, text = text, _ROUND.sub(resolve, text)
    return text.replace(")", " ")


def _words(text: str) -> str:
    plain = re.sub(r"[~*]", "", text)
    return re.sub(r"\s+([.,?!;:])", r"\1", " ".join(plain.split())).strip()
