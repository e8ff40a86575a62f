"""Verbatim and clean from one decode: the clean text is an edit list over the verbatim words.

Fillers, part-words and repetitions are edited out; each edit keeps what was said, so that it can
be undone. What looks like a repetition and is content stays: digits and spelled letters, numbers
and radio alphabet, `had had`, `that that`, `very very`, `bye-bye`, and what a full stop parts. The
lists are ours and for English; fillers are listed for a few other languages too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from hyperasr.types import UNCLEAR, Edit, Segment, Word

FILLERS = {
    "en": "um umm uhm uh uhh er err erm hm hmm mm mmm",
    "de": "äh ähm öh öhm hm hmm mm",
    "fr": "euh heu hm hmm mm",
    "es": "eh em hm hmm mm",
    "it": "ehm hm hmm mm",
    "nl": "eh ehm uh uhm hm hmm mm",
    "pt": "hã hum hm hmm mm",
}
"""Words that only hold the floor. Not `oh` (also a zero), `ah`, nor answers such as `mm-hmm`."""

TWICE = frozenset(
    "had that very really so much many long far no yes yeah bye ha ho knock night there please "
    "never again okay hey now well tut boo choo cha".split()
)
"""Words that are said twice and mean it; a third time is a repetition."""

CONTENT = frozenset(
    "zero oh nought one two three four five six seven eight nine ten eleven twelve thirteen "
    "fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy "
    "eighty ninety hundred thousand million double triple point dash dot slash "
    "alpha alfa bravo charlie delta echo foxtrot golf hotel india juliet juliett kilo lima mike "
    "november oscar papa quebec romeo sierra tango uniform victor whiskey xray x-ray yankee zulu "
    "first second third fourth fifth sixth seventh eighth ninth tenth".split()
)
"""Words of numbers and spelling, in which repetition is content."""

PREFIXES = frozenset("re co de pre non un bi tri e t x".split())
"""First parts of compounds that begin like their second part: `re-read`, `t-test`."""

_WORDS_OF_ONE_LETTER = frozenset("ai")
_LONGEST_PHRASE = 5  # words
_AROUND = re.compile(r"^[^\w\[]+|[^\w\]\-]+$")
_SENTENCE_END = re.compile(r"[.?!…][\"'”’)]*$")


def clean_edits(
    words: Sequence[str],
    times: Sequence[tuple[float, float]] = (),
    language: str = "en",
) -> tuple[Edit, ...]:
    """Return the edits that make clean words of verbatim ones, in order.

    Args:
        words: as decoded, with punctuation; a part-word ends with a hyphen (``l-``), or stands in a
            chain before its word (``a-a-actually``).
        times: start and end of each word, in seconds; empty where unknown.
        language: for fillers; one without a list has none.
    """
    plain = [_plain(word) for word in words]
    fillers = frozenset(FILLERS.get(language, "").split())
    marks: list[tuple[str, str] | None] = [
        _of_one_word(word, key, fillers) for word, key in zip(words, plain, strict=True)
    ]
    # Chains count as the word they end in: `the- the-the`.
    keys = [
        _plain(mark[1]) if mark and mark[1] else key for mark, key in zip(marks, plain, strict=True)
    ]
    left = [i for i, mark in enumerate(marks) if mark is None or mark[1]]
    for index in _repeated(words, keys, left):
        marks[index] = ("repetition", "")
    edits = _tidy(words, _grouped(words, marks))
    if not times:
        return edits
    return tuple(replace(e, start_s=times[e.first][0], end_s=times[e.last - 1][1]) for e in edits)


def apply_edits(words: Sequence[str], edits: Sequence[Edit]) -> list[str]:
    """Return the clean words."""
    clean: list[str] = []
    done = 0
    for edit in edits:
        clean += [*words[done : edit.first], *edit.replacement.split()]
        done = edit.last
    return [*clean, *words[done:]]


def pieces(segment: Segment, mode: str = "verbatim") -> list[tuple[str, Word | None]]:
    """Cut the text of a segment into words and what stands between them.

    Args:
        segment: what is shown.
        mode: ``clean`` shows the clean text where there is one, everything else the verbatim one.
    Returns:
        Parts of the text, which make the whole, each with its word, or None between words. What
        an edit put in place of a word goes with that word.
    """
    clean = mode == "clean" and segment.clean is not None
    text = str(segment.clean) if clean else segment.text
    edits = {edit.first: edit for edit in segment.edits} if clean else {}
    found: list[tuple[str, Word | None]] = []
    index = at = 0
    while index < len(segment.words):
        edit = edits.get(index)
        word = segment.words[index]
        if edit is not None:
            # A removed word hands its capital to the next one, or its full stop to the one before.
            last = segment.words[edit.last - 1]
            word = last if _plain(last.text) == _plain(edit.replacement) else word
        index = index + 1 if edit is None else edit.last
        shown = word.text if edit is None else edit.replacement
        start = text.find(shown, at)
        if start < 0:
            return [(text, None)]  # nothing can be said of words that are not in the text
        found += [(text[at:start], None), (shown, word)]
        at = start + len(shown)
    return [(part, word) for part, word in [*found, (text[at:], None)] if part]


def _plain(word: str) -> str:
    """Return the word in lower case without punctuation around it; a hyphen at its end stays."""
    return _AROUND.sub("", word.casefold()) if word != UNCLEAR else word


def _of_one_word(word: str, plain: str, fillers: frozenset[str]) -> tuple[str, str] | None:
    """Return kind and replacement of what can be told from one word alone."""
    parts = [part for part in plain.split("-") if part]
    if parts and all(part in fillers for part in parts) and plain not in ("mm-hmm", "mm-hm"):
        return "filler", ""
    if len(plain) > 1 and plain.endswith("-") and parts:
        return "part_word", ""
    if len(parts) < 2:
        return None
    chain = [part for i, part in enumerate(parts) if i == 0 or part != parts[i - 1]]
    last = chain[-1]
    if len(chain) == 1:
        meant = len(parts) == 2 and (last in TWICE or _is_content(last))
        return None if meant else ("repetition", _end_of(word, last))
    if not all(last.startswith(part) for part in chain[:-1]):
        return None
    if len(chain) == 2 and chain[0] in PREFIXES:
        # `re-read` is a word, `re-re-read` is one said twice.
        return None if len(parts) == 2 else ("part_word", _end_of(word, "-".join(chain)))
    return "part_word", _end_of(word, last)


def _end_of(word: str, part: str) -> str:
    """Return the last part as it is written in the word, with the capital the word begins with."""
    at = word.casefold().rfind(part)
    end = word[at:] if len(word.casefold()) == len(word) else part
    return _capital(end) if word[:1].isupper() else end


def _repeated(words: Sequence[str], keys: Sequence[str], left: list[int]) -> list[int]:
    """Return the words that are said again right after, alone or in a phrase."""
    removed: list[int] = []
    for n in range(1, _LONGEST_PHRASE + 1):
        at = 0
        while at + 2 * n <= len(left):
            unit = [keys[i] for i in left[at : at + n]]
            copies = 1
            while [keys[i] for i in left[at + copies * n : at + (copies + 1) * n]] == unit:
                copies += 1
            n_extra = copies - 1
            if copies > 1 and not _is_repetition(words, keys, left, at, n):
                n_extra = 0
            elif copies > 1 and n == 1 and unit[0] in TWICE:
                n_extra = copies - 2
            removed += left[at : at + n_extra * n]
            del left[at : at + n_extra * n]
            at += max(1, (copies - n_extra) * n - (n - 1) if copies > 1 else 1)
    return removed


def _is_repetition(
    words: Sequence[str], keys: Sequence[str], left: Sequence[int], at: int, n: int
) -> bool:
    """Say whether a unit that is said again right after may be taken away."""
    unit = [keys[i] for i in left[at : at + n]]
    if UNCLEAR in unit or not all(unit):
        return False
    if any(_SENTENCE_END.search(words[i]) for i in left[at : at + n]):
        return False
    if all(_is_content(key) for key in unit):
        letters = all(key in _WORDS_OF_ONE_LETTER for key in unit)
        # `I I want` repeats a word, `b a a c` spells.
        around = [keys[i] for i in [*left[max(0, at - 1) : at], *_next_other(keys, left, at, unit)]]
        return letters and not any(_is_content(key) for key in around)
    end = at + 2 * n
    if n == 2 and unit[1] in ("and", "or", "by") and end < len(left):
        return keys[left[end]] != unit[0]  # `over and over and over`
    return True


def _next_other(
    keys: Sequence[str], left: Sequence[int], at: int, unit: Sequence[str]
) -> Sequence[int]:
    return next(([i] for i in left[at:] if keys[i] not in unit), [])


def _is_content(key: str) -> bool:
    """Say whether repetition of this word means something: digits, letters, numbers."""
    if any(char.isdigit() for char in key):
        return True
    return (len(key) == 1 and key.isalpha()) or all(
        part in CONTENT or len(part) == 1 for part in key.split("-")
    )


def _grouped(words: Sequence[str], marks: Sequence[tuple[str, str] | None]) -> list[Edit]:
    """Join neighbouring words that are left out for one reason into one edit."""
    edits: list[Edit] = []
    for index, mark in enumerate(marks):
        if mark is None:
            continue
        kind, new = mark
        before = edits[-1] if edits else None
        if before and not new and not before.replacement and before.kind == kind:
            if before.last == index:
                edits[-1] = replace(before, last=index + 1, text=f"{before.text} {words[index]}")
                continue
        edits.append(Edit(index, index + 1, kind, words[index], new))
    return edits


def _tidy(words: Sequence[str], edits: list[Edit]) -> tuple[Edit, ...]:
    """Hand the capital and the full stop of what is left out to the neighbour that stays."""
    tidy: list[Edit] = []
    capital = False
    for index, edit in enumerate(edits):
        following = edits[index + 1].first if index + 1 < len(edits) else len(words)
        begins = edit.first == 0 or bool(_SENTENCE_END.search(words[edit.first - 1]))
        capital = capital or (begins and words[edit.first][:1].isupper())
        if capital and edit.replacement:
            edit, capital = replace(edit, replacement=_capital(edit.replacement)), False
        elif capital and edit.last < following:
            word = words[edit.last]
            if word != _capital(word):
                text = f"{edit.text} {word}"
                edit = replace(edit, last=edit.last + 1, text=text, replacement=_capital(word))
            capital = False
        stop = _SENTENCE_END.search(words[edit.last - 1])
        free = edit.first > (tidy[-1].last if tidy else 0)
        if stop and free and not edit.replacement:
            word = words[edit.first - 1]
            if not _SENTENCE_END.search(word):
                text = f"{word} {edit.text}"
                new = word.rstrip(",;:-") + stop[0]
                edit = replace(edit, first=edit.first - 1, text=text, replacement=new)
        tidy.append(edit)
    return tuple(tidy)


def _capital(word: str) -> str:
    return word[:1].upper() + word[1:]
