"""Write transcripts for people who annotate: a table of words, a Praat TextGrid, CHAT."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hyperasr.transcription.disfluency import clean_edits
from hyperasr.types import UNCLEAR, Edit, Segment, Transcript

__all__ = ["chat", "csv_table", "textgrid"]

COLUMNS = (
    "recording",
    "segment",
    "word",
    "start_s",
    "end_s",
    "probability",
    "uncertainty",
    "edit",
    "replacement",
    "unclear",
)
# ISO 639-3, which CHAT takes, for languages whose code is not the first letters of it.
_ISO_639_3 = {
    "en": "eng", "de": "deu", "fr": "fra", "es": "spa", "it": "ita", "nl": "nld", "pt": "por",
    "zh": "zho", "yue": "yue", "ja": "jpn", "ko": "kor", "ru": "rus", "pl": "pol", "sv": "swe",
    "da": "dan", "no": "nor", "fi": "fin", "tr": "tur", "ar": "ara", "el": "ell", "he": "heb",
    "hi": "hin", "cs": "ces", "hu": "hun", "ro": "ron", "uk": "ukr", "ca": "cat",
}  # fmt: skip
_SHORTEST_S = 0.001  # Praat takes no empty interval
_BULLET = "\x15"


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
                    "" if edit is None else edit.kind,
                    edit.replacement if edit is not None and last else "",
                    reasons.get(index, ""),
                ]
            )
    return out.getvalue()


@dataclass(frozen=True)
class _Interval:
    start_s: float
    end_s: float
    text: str


def textgrid(transcript: Transcript) -> str:
    """Return a Praat TextGrid: tiers of segments, words, probabilities, and what else is known.

    Tiers: ``segments``, ``words``, ``probability``, and where there is any ``uncertainty``,
    ``clean``, ``edits`` and ``unclear`` (the reason).
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
        "probability": [replace(at, text=f"{w.probability:.2f}") for w, at in timed],
        "uncertainty": [
            replace(at, text=f"{w.uncertainty:.2f}") for w, at in timed if w.uncertainty is not None
        ],
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
        lines += _tier(number, name, _covering(tier, end_s), end_s)
    return "\n".join(lines) + "\n"


def _filled(tier: Sequence[_Interval]) -> list[_Interval]:
    """Return the intervals rounded to milliseconds, in order, none empty and none overlapping."""
    made: list[_Interval] = []
    for one in sorted(tier, key=lambda i: i.start_s):
        start = max(round(one.start_s, 3), made[-1].end_s if made else 0.0)
        made.append(_Interval(start, max(round(one.end_s, 3), start + _SHORTEST_S), one.text))
    return made


def _covering(tier: Sequence[_Interval], end_s: float) -> list[_Interval]:
    """Return the intervals with empty ones between them, as Praat wants a tier without gaps."""
    covering: list[_Interval] = []
    now = 0.0
    for one in tier:
        if one.start_s - now >= _SHORTEST_S / 2:
            covering.append(_Interval(now, one.start_s, ""))
        covering.append(one)
        now = one.end_s
    if end_s - now >= _SHORTEST_S / 2 or not covering:
        covering.append(_Interval(now, end_s, ""))
    return covering


def _tier(number: int, name: str, tier: Sequence[_Interval], end_s: float) -> list[str]:
    lines = [
        f"    item [{number}]:",
        '        class = "IntervalTier"',
        f'        name = "{name}"',
        "        xmin = 0",
        f"        xmax = {end_s:.3f}",
        f"        intervals: size = {len(tier)}",
    ]
    for index, one in enumerate(tier, start=1):
        text = " ".join(one.text.split()).replace('"', '""')
        lines += [
            f"        intervals [{index}]:",
            f"            xmin = {one.start_s:.3f}",
            f"            xmax = {one.end_s:.3f}",
            f'            text = "{text}"',
        ]
    return lines


def chat(transcript: Transcript) -> str:
    """Return a CHAT transcript (TalkBank), one main line a segment.

    Fillers are ``&-um``, part-words ``&+l``, repetitions ``the [/] the``, what is unclear ``xxx``.
    Where word times are known ``%wor`` has them; ``%xpro`` has the probabilities of the words.
    Utterance ends and marks are automatic: a person should check them.
    """
    code = _ISO_639_3.get(transcript.language, "und")
    lines = ["@UTF8", "@Begin", f"@Languages:\t{code}", "@Participants:\tPAR Participant"]
    lines.append(f"@ID:\t{code}|hyperasr|PAR|||||Participant|||")
    media = re.sub(r"\s", "_", Path(transcript.id).stem)
    lines += [f"@Media:\t{media}, audio", "@Comment:\tautomatic transcript, not checked"]
    for segment in transcript.segments:
        lines += _chat_lines(segment, transcript.language)
    return "\n".join([*lines, "@End"]) + "\n"


def _chat_lines(segment: Segment, language: str) -> list[str]:
    kept = [(word, written) for word in segment.words if (written := _chat_word(word.text))]
    if not kept:
        return []
    words = [written for _, written in kept]
    # Of words without case and punctuation, so that no edit reaches over to a neighbour.
    edits = clean_edits([UNCLEAR if w == "xxx" else w.casefold() for w in words], (), language)
    stop = segment.text.rstrip("\"')")[-1:]
    stop = stop if stop in ".?!" else "."
    text = " ".join(_chat_marked(words, edits))
    lines = [f"*PAR:\t{text} {stop} {_bullet(segment.start_s, segment.end_s)}"]
    timed = [
        f"{written} {_bullet(word.start, word.end)}"
        for word, written in kept
        if word.start is not None and word.end is not None
    ]
    if timed:
        lines.append(f"%wor:\t{' '.join(timed)} {stop}")
    chances = " ".join(f"{word.probability:.2f}" for word, _ in kept)
    lines.append(f"%xpro:\t{chances}")
    return lines


def _chat_marked(words: Sequence[str], edits: Sequence[Edit]) -> list[str]:
    marked: list[str] = []
    done = 0
    for edit in edits:
        marked += words[done : edit.first]
        said = list(words[edit.first : edit.last])
        done = edit.last
        if edit.kind == "filler":
            marked += [f"&-{part}" for word in said for part in word.split("-") if part]
        elif edit.replacement:  # a chain: what comes before its last part
            parts = said[0][: len(said[0]) - len(edit.replacement)].strip("-").split("-")
            sign = "&+" if edit.kind == "part_word" else ""
            marked += [f"{sign}{part}" + ("" if sign else " [/]") for part in parts if part]
            marked.append(said[0][-len(edit.replacement) :])
        elif edit.kind == "part_word":
            marked += [f"&+{word.rstrip('-')}" for word in said]
        else:
            marked.append(f"{said[0] if len(said) == 1 else '<' + ' '.join(said) + '>'} [/]")
    return [*marked, *words[done:]]


def _chat_word(word: str) -> str:
    """Return the word without the characters that CHAT reads as marks."""
    return "xxx" if word == UNCLEAR else re.sub(r"[^\w'\-]", "", word).strip("'").lstrip("-")


def _bullet(start_s: float, end_s: float) -> str:
    return f"{_BULLET}{round(1000 * start_s)}_{round(1000 * end_s)}{_BULLET}"
