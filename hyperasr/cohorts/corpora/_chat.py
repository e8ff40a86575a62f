"""CHAT transcripts of TalkBank: who said what when, as spoken (verbatim) and as meant (intended).

A small parser of what ASR needs: headers, main tiers with times, and the marks of the main tier
that tell both texts apart (MacWhinney, The CHILDES Project: Tools for Analyzing Talk, 2000).
Libraries for CHAT return one cleaned list of words, which is neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_BULLET = re.compile(r"\x15_?(\d+)_(\d+)_?\x15")
_TOKEN = re.compile(r"\[[^\]]*\]|\+\S+|[<>]|[^\s<>\[\]]+")
_PAUSE = re.compile(r"\((?:\.+|[\d.:]+)\)")
_RETRACING = re.compile(r"\[/(?:/{0,2}|-|\?)\]")
_TIMES = re.compile(r"\[x\s*(\d+)\]")
_REPLACED = re.compile(r"\[::?\s+([^\]]*)\]")
_UNINTELLIGIBLE = ("xxx", "yyy", "www")
_FILLERS = ("um", "uh", "er", "erm", "mm", "hm", "hmm", "ah", "eh")
# Stress, intonation, pitch and voice marks of conversation analysis, block, pause inside a word.
_SIGNS = str.maketrans("", "", "ˈˌ↑↓⇗↗→↘⇘∞≈≋≡∙⌈⌉⌊⌋∆∇⁎⁇°◉▁▔☺♋∮↻⁑⤇⤆∬≠^„‡“”")
_PUNCTUATION = ",.?!;:"


@dataclass(frozen=True)
class Spoken:
    """One utterance of a main tier.

    Attributes:
        verbatim: all words that were said, fillers and repetitions included; a part-word ends in a
            hyphen.
        intended: the words that were meant: no fillers, part-words, repeated or revised material.
        unintelligible: something in it could not be transcribed (xxx, yyy, www).
    """

    verbatim: str
    intended: str
    unintelligible: bool


@dataclass(frozen=True)
class Turn:
    """A main tier: speaker's code, the line with its marks, times in seconds or None."""

    code: str
    line: str
    start_s: float | None
    end_s: float | None


@dataclass
class _Item:
    verbatim: list[str]
    intended: list[str]
    hesitation: bool = False  # a filler or a part-word


def read_chat(text: str) -> Iterator[Turn]:
    """Yield the main tiers of a CHAT file; lines that begin with a tab go on with the one above."""
    joined: list[str] = []
    for line in text.split("\n"):
        if line.startswith(("\t", " ")) and joined:
            joined[-1] += " " + line.strip()
        else:
            joined.append(line)
    for line in joined:
        code, colon, content = line.partition(":")
        if not line.startswith("*") or not colon:
            continue
        times = _BULLET.findall(content)
        start_s = int(times[0][0]) / 1000 if times else None
        end_s = int(times[-1][1]) / 1000 if times else None
        yield Turn(code[1:].strip(), _BULLET.sub(" ", content).strip(), start_s, end_s)


def read_ids(text: str) -> dict[str, tuple[str, ...]]:
    """Return the fields of ``@ID`` by speaker's code: language, corpus, code, age, sex, group..."""
    ids: dict[str, tuple[str, ...]] = {}
    for line in text.split("\n"):
        if line.startswith("@ID:"):
            fields = tuple(field.strip() for field in line[4:].split("|"))
            if len(fields) >= 6:
                ids[fields[2]] = fields
    return ids


def parse_line(line: str) -> Spoken:
    """Turn a main tier, without its times, into verbatim and intended words."""
    top: list[_Item] = []
    stack = [top]
    unintelligible = False
    for token in _TOKEN.findall(line):
        items = stack[-1]
        if token == "<":
            stack.append([])
        elif token == ">":
            if len(stack) > 1:
                group = stack.pop()
                stack[-1].append(_joined(group))
        elif token.startswith("["):
            _apply(token, items)
        elif token.lower() in _UNINTELLIGIBLE:
            unintelligible = True
        elif (item := _word(token)) is not None:
            items.append(item)
    for group in stack[1:]:  # a group that was never closed
        top += group
    whole = _joined(top)
    return Spoken(" ".join(whole.verbatim), " ".join(whole.intended), unintelligible)


def _joined(items: list[_Item]) -> _Item:
    return _Item([w for i in items for w in i.verbatim], [w for i in items for w in i.intended])


def _apply(code: str, items: list[_Item]) -> None:
    """Apply a code in brackets to the word or group before it; unknown codes say nothing."""
    # Between a repeated word and its mark there may be a hesitation: I &-um [/] I.
    marked = next((item for item in reversed(items) if not item.hesitation), None)
    if marked is None:
        return
    if _RETRACING.fullmatch(code):
        marked.intended = []
    elif times := _TIMES.fullmatch(code):
        marked.verbatim = marked.verbatim * min(int(times[1]), 100)
    elif (replaced := _REPLACED.fullmatch(code)) and marked.intended:
        marked.intended = replaced[1].split()


def _word(token: str) -> _Item | None:
    """Return one word; None for pauses, events, terminators, omitted words and punctuation."""
    if token.startswith(("+", "&=", "&*", "&{", "&}")) or _PAUSE.fullmatch(token):
        return None
    if token == "0" or (token.startswith("0") and token[1].isalpha()):  # done, but not said
        return None
    kind, token = (token[:2], token[2:]) if token[:2] in ("&-", "&+", "&~") else ("", token)
    if not kind and token.startswith("&"):  # older files do not tell fillers from part-words
        token = token[1:]
        kind = "&-" if token.lower() in _FILLERS else "&+"
    token = _PAUSE.sub("", token).partition("@")[0].translate(_SIGNS).strip(_PUNCTUATION)
    said = re.sub(r"\([^)]*\)", "", token)  # the sounds in brackets were left out
    meant = token.replace("(", "").replace(")", "")
    said = _plain(re.sub(r"↫([^↫]*)↫", lambda m: f"{m[1].strip('-')}-", said))
    meant = _plain(re.sub(r"↫[^↫]*↫", "", meant))
    if kind == "&-":
        return _Item([said], [], hesitation=True) if said else None
    if kind:
        return _Item([f"{said.rstrip('-')}-"], [], hesitation=True) if said else None
    return _Item([said] if said else [], [meant]) if meant else None


def _plain(word: str) -> str:
    """Drop prolongations and marks of compounds; joined words come apart."""
    return word.replace(":", "").replace("↫", "").replace("+", "").replace("_", " ").strip()
