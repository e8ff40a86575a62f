"""Write transcripts for people who annotate: a table of words, a Praat TextGrid, CHAT."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from hyperasr.transcription.disfluency import clean_edits
from hyperasr.types import UNCLEAR, Edit, Segment, Transcript, Word

COLUMNS = tuple(
    "recording segment word start_s end_s probability uncertainty doubtful edit replacement "
    "unclear".split()
)
# ISO 639-3, which CHAT takes; codes of three letters are of it already.
_ISO_639_3 = dict(
    pair.split(":")
    for pair in (
        "af:afr am:amh ar:ara as:asm az:aze ba:bak be:bel bg:bul bn:ben bo:bod br:bre bs:bos "
        "ca:cat cs:ces cy:cym da:dan de:deu el:ell en:eng es:spa et:est eu:eus fa:fas fi:fin "
        "fo:fao fr:fra gl:glg gu:guj ha:hau he:heb hi:hin hr:hrv ht:hat hu:hun hy:hye id:ind "
        "is:isl it:ita ja:jpn jw:jav ka:kat kk:kaz km:khm kn:kan ko:kor la:lat lb:ltz ln:lin "
        "lo:lao lt:lit lv:lav mg:mlg mi:mri mk:mkd ml:mal mn:mon mr:mar ms:msa mt:mlt my:mya "
        "ne:nep nl:nld nn:nno no:nor oc:oci pa:pan pl:pol ps:pus pt:por ro:ron ru:rus sa:san "
        "sd:snd si:sin sk:slk sl:slv sn:sna so:som sq:sqi sr:srp su:sun sv:swe sw:swa ta:tam "
        "te:tel tg:tgk th:tha tk:tuk tl:tgl tr:tur tt:tat uk:ukr ur:urd uz:uzb vi:vie yi:yid "
        "yo:yor zh:zho"
    ).split()
)
_SHORTEST_S = 0.001  # Praat takes no empty interval
_BULLET = "\x15"
_STOPS = {"。": ".", "？": "?", "؟": "?", "！": "!"}  # what CHAT has for the stops of other scripts
_CLOSING = "\"'”’»)"
_STRAIGHT = str.maketrans("‘’", "''")
_NO_BRACKETS = str.maketrans("[]<>", "()()")
_NO_WORDS = ("xxx", "yyy", "www", "xx", "yy")  # CHAT's own signs for what is not transcribed


def csv_table(transcript: Transcript) -> str:
    """Return one row for each verbatim word, with what an edit does to it; a header comes first.

    Segments are numbered from 1; times are in seconds of the recording; what is not known is empty.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, segment in enumerate(transcript.segments, start=1):
        edited = {i: edit for edit in segment.edits for i in range(edit.first, edit.last)}
        reasons = {u.word: u.reason for u in segment.unclear}
        for index, word in enumerate(segment.words):
            edit = edited.get(index)
            last = edit is not None and index == edit.last - 1
            writer.writerow(
                [
                    transcript.id,
                    number,
                    word.text,
                    "" if word.start is None else f"{word.start:.3f}",
                    "" if word.end is None else f"{word.end:.3f}",
                    f"{word.probability:.4f}",
                    "" if word.uncertainty is None else f"{word.uncertainty:.4f}",
                    "yes" if word.doubtful else "no",
                    "" if edit is None else edit.kind,
                    edit.replacement if edit is not None and last else "",
                    reasons.get(index, ""),
                ]
            )
    return out.getvalue()


class _Interval(NamedTuple):
    start_s: float
    end_s: float
    text: str


def textgrid(transcript: Transcript) -> str:
    """Return a Praat TextGrid: tiers of segments, words, probabilities, and what else is known.

    Tiers: ``segments``, ``words``, ``probability``, and where there is any ``uncertainty``,
    ``doubtful`` (the words to check), ``clean``, ``edits`` and ``unclear`` (the reason).
    """
    segments = transcript.segments
    timed = [
        (w, _Interval(w.start, w.end, w.text))
        for w in transcript.words
        if w.start is not None and w.end is not None
    ]
    tiers = {
        "segments": [_Interval(s.start_s, s.end_s, s.text) for s in segments],
        "words": [at for _, at in timed],
        "probability": [at._replace(text=f"{w.probability:.2f}") for w, at in timed],
        "uncertainty": [
            at._replace(text=f"{w.uncertainty:.2f}") for w, at in timed if w.uncertainty is not None
        ],
        "doubtful": [at for w, at in timed if w.doubtful],
        "clean": [_Interval(s.start_s, s.end_s, s.clean) for s in segments if s.clean is not None],
        "edits": [
            _Interval(e.start_s, e.end_s, f"{e.kind}: {e.text}")
            for s in segments
            for e in s.edits
            if e.start_s is not None and e.end_s is not None
        ],
        "unclear": [_Interval(u.start_s, u.end_s, u.reason) for s in segments for u in s.unclear],
    }
    always = ("segments", "words", "probability")
    filled = {n: _filled(tier) for n, tier in tiers.items() if tier or n in always}
    ends = [transcript.duration_s, *(i.end_s for tier in filled.values() for i in tier)]
    end_s = max(*ends, _SHORTEST_S)
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += ["xmin = 0", f"xmax = {end_s:.3f}", "tiers? <exists>", f"size = {len(filled)}"]
    lines.append("item []:")
    for number, (name, tier) in enumerate(filled.items(), start=1):
        lines += _tier(number, name, tier, end_s)
    return "\n".join(lines) + "\n"


def _filled(tier: Sequence[_Interval]) -> list[_Interval]:
    """Return the intervals rounded to milliseconds, in order, none empty and none overlapping."""
    made: list[_Interval] = []
    for one in sorted(tier, key=lambda i: i.start_s):
        start = max(round(one.start_s, 3), made[-1].end_s if made else 0.0)
        made.append(_Interval(start, max(round(one.end_s, 3), start + _SHORTEST_S), one.text))
    return made


def _tier(number: int, name: str, tier: Sequence[_Interval], end_s: float) -> list[str]:
    """Return the lines of a tier, with empty intervals between, as Praat wants one without gaps."""
    covering: list[_Interval] = []
    now = 0.0
    for one in tier:
        if one.start_s - now >= _SHORTEST_S / 2:
            covering.append(_Interval(now, one.start_s, ""))
        covering.append(one)
        now = one.end_s
    if end_s - now >= _SHORTEST_S / 2 or not covering:
        covering.append(_Interval(now, end_s, ""))
    lines = [
        f"    item [{number}]:",
        '        class = "IntervalTier"',
        f'        name = "{name}"',
        "        xmin = 0",
        f"        xmax = {end_s:.3f}",
        f"        intervals: size = {len(covering)}",
    ]
    for index, one in enumerate(covering, start=1):
        text = " ".join(one.text.split()).replace('"', '""')
        lines += [
            f"        intervals [{index}]:",
            f"            xmin = {one.start_s:.3f}",
            f"            xmax = {one.end_s:.3f}",
            f'            text = "{text}"',
        ]
    return lines


def chat(transcript: Transcript, media: str) -> str:
    """Return a CHAT transcript (TalkBank), one main line a segment.

    Fillers are ``&-um``, part-words ``&+l``, repetitions ``the [/] the``, what is unclear ``xxx``,
    doubtful words ``word [?]``. Words stand as they were decoded, without the punctuation around
    them; what CHAT would read as a mark inside one becomes the underscore that links the parts of
    a word, and the word as it was decoded follows: ``AT_T [= AT&T]``. Where word times are known
    ``%wor`` has them; ``%xpro`` has the probabilities of the words. Utterance ends and marks are
    automatic: a person should check them.

    `media` is the name of the transcript's file without its suffix, which CLAN and pylangacq want
    in ``@Media``.

    Source: the CHAT manual, talkbank.org/0info/manuals/CHAT.html.
    """
    language = transcript.language
    code = language if len(language) == 3 else _ISO_639_3.get(language, "und")
    lines = [
        "@UTF8",
        "@Begin",
        f"@Languages:\t{code}",
        "@Participants:\tPAR Participant",
        f"@ID:\t{code}|hyperasr|PAR|||||Participant|||",
        f"@Media:\t{media}, audio",
        "@Comment:\tautomatic transcript, not checked",
    ]
    for segment in transcript.segments:
        lines += _chat_lines(segment, language)
    return "\n".join([*lines, "@End"]) + "\n"


def _chat_lines(segment: Segment, language: str) -> list[str]:
    kept = [(word, written) for word in segment.words if (written := _chat_word(word.text))]
    if not kept:
        return []
    words = [written for _, written in kept]
    # Of words without case and punctuation, so that no edit reaches over to a neighbour.
    keys = [UNCLEAR if w == "xxx" else unicodedata.normalize("NFKC", w).lower() for w in words]
    codes = [_chat_codes(word, written) for word, written in kept]
    marked = _chat_marked(words, codes, clean_edits(keys, (), language))
    stop = segment.text.rstrip(_CLOSING)[-1:]
    stop = _STOPS.get(stop, stop if stop and stop in ".?!" else ".")
    lines = [f"*PAR:\t{' '.join([*marked, stop, *_bullet(segment.start_s, segment.end_s)])}"]
    if any(word.start is not None for word, _ in kept):
        timed = [part for w, written in kept for part in (written, *_bullet(w.start, w.end))]
        lines.append(f"%wor:\t{' '.join(timed)} {stop}")
    chances = " ".join(f"{word.probability:.2f}" for word, _ in kept)
    lines.append(f"%xpro:\t{chances}")
    return lines


def _chat_marked(words: Sequence[str], codes: Sequence[str], edits: Sequence[Edit]) -> list[str]:
    """Return the words with CHAT's marks; the codes follow the word they are about."""
    marked: list[str] = []
    coded = [word + code for word, code in zip(words, codes, strict=True)]
    done = 0
    for edit in edits:
        marked += coded[done : edit.first]
        said, own = words[edit.first : edit.last], codes[edit.first : edit.last]
        done = edit.last
        if edit.kind == "filler":
            parts = [
                (part, code) for w, code in zip(said, own, strict=True) for part in w.split("-")
            ]
            marked += [f"&-{part}{code}" for part, code in parts if part]
        elif edit.replacement:  # a chain: what comes before its last part
            parts_said = said[0].split("-")
            n_kept = edit.replacement.count("-") + 1
            sign, after = ("&+", "") if edit.kind == "part_word" else ("", " [/]")
            marked += [f"{sign}{part}{after}" for part in parts_said[:-n_kept] if part]
            marked.append("-".join(parts_said[-n_kept:]) + own[0])
        elif edit.kind == "part_word":
            marked += [f"&+{w.rstrip('-')}{code}" for w, code in zip(said, own, strict=True)]
        else:
            again = " ".join(coded[edit.first : edit.last])
            marked.append(f"{again if len(said) == 1 else f'<{again}>'} [/]")
    return [*marked, *coded[done:]]


def _chat_word(word: str) -> str:
    """Return the word as CHAT can hold it; empty where nothing is said, such as a dash."""
    if word == UNCLEAR:
        return "xxx"
    said = _said(word)
    if not said:
        return ""
    kept = [c if _is_chat_letter(said, i) else "_" for i, c in enumerate(said)]
    written = re.sub("_+", "_", "".join(kept)).strip("_")
    # A zero before a word means to CHAT that it was left out.
    if not written or written in _NO_WORDS or re.match(r"0(?![\d.:])", written):
        return f"_{written}"
    return written


def _chat_codes(word: Word, written: str) -> str:
    """Return what follows a word: how it was decoded, where it is written otherwise, and doubt."""
    said = _said(word.text)
    same = word.text == UNCLEAR or said == written
    explained = "" if same else f" [= {said.translate(_NO_BRACKETS)}]"
    return explained + (" [?]" if word.doubtful else "")


def _said(word: str) -> str:
    """Return the word with straight apostrophes and without the punctuation around it."""
    word = word.translate(_STRAIGHT)
    said = [i for i, char in enumerate(word) if _is_said(char)]
    if not said:
        return ""
    first, last = said[0], said[-1] + 1
    before, after = word[:first][-1:], word[last:][:1]
    belongs = before == "'" or (before in ("-", ".") and word[first].isdigit())  # 'tis, -5, .5
    return (before if belongs else "") + word[first:last] + (after if after in ("'", "-") else "")


def _is_said(char: str) -> bool:
    kind = unicodedata.category(char)
    return kind[0] in "LMN" or kind in ("Sc", "Sm") or char in "%&@#"


def _is_chat_letter(word: str, index: int) -> bool:
    """Say whether a character of a word may stand in one of CHAT."""
    char = word[index]
    if char in ".:":  # 3.5 and 10:30
        return word[index - 1 : index].isdigit() and word[index + 1 : index + 2].isdigit()
    if char == "-" and word[index + 1 : index + 2] == "0":  # -0 is an ending left out
        return False
    return char in "_-'\u200c\u200d" or unicodedata.category(char)[0] in "LMN"


def _bullet(start_s: float | None, end_s: float | None) -> list[str]:
    """Return a time mark in milliseconds; none where it would have no length."""
    start, end = (max(0, round(1000 * (time or 0.0))) for time in (start_s, end_s))
    return [f"{_BULLET}{start}_{end}{_BULLET}"] if start < end else []
