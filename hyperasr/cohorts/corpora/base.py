"""What the corpus readers share: rows that are checked as they stream, safe files, reasons.

A reader is a generator of rows inside a `Prepared`. Whatever it cannot use it gives to
``report.skip(reason, example)``: the reason names the kind (few different ones, they are counted),
the example names the case. Keys of `Utterance.extra` that readers use, all values text:

- ``text_source``: human (transcribed), prompt (read or repeated from it), passage (a known text,
  supplied by the user), none;
- ``raw_text``: the text as the corpus has it, where the reader cleaned it;
- ``group``: recordings that must stay in one split, where it is more than one (microphones);
- ``channel``: of the recording that the row is about, counted from 0;
- ``session``, ``mic``, ``task``, ``gender``, ``age``, and a corpus's own labels.

`Utterance.split` is the corpus's own where it has one, else `NO_SPLIT`.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hyperasr.audio.container import open_recording
from hyperasr.cohorts.corpora._files import (
    AUDIO_SUFFIXES,
    corpus_root,
    find_named,
    listed_path,
    read_table,
    read_text,
    walk,
)
from hyperasr.cohorts.corpora._header import wav_length_s
from hyperasr.cohorts.corpora._long import at_most_longest
from hyperasr.cohorts.corpora._report import Report
from hyperasr.errors import AudioError, ManifestError
from hyperasr.types import Utterance

__all__ = [
    "AUDIO_SUFFIXES",
    "NO_SPLIT",
    "SEVERITY",
    "STATUS",
    "Description",
    "Prepared",
    "Report",
    "audio_fault",
    "corpus_root",
    "find_named",
    "listed_path",
    "pseudonym",
    "read_table",
    "read_text",
    "severity_of",
    "walk",
]

STATUS = "tested on synthetic fixtures only"
NO_SPLIT = "all"

# Words of clinicians for [0, 1]; the spacing is our choice. A corpus with a scale from 0 to n
# (UPDRS item, GRBAS) is divided by n; intelligibility in percent becomes 1 - percent / 100.
SEVERITY = {
    "none": 0.0,
    "normal": 0.0,
    "very mild": 0.125,
    "mild": 0.25,
    "mild-moderate": 0.375,
    "moderate": 0.5,
    "moderate-severe": 0.625,
    "severe": 0.75,
    "very severe": 1.0,
    "profound": 1.0,
}

_N_REMEMBERED = 256  # recordings whose check is kept, for corpora with many rows a recording
_UNKNOWN_FRAMES = 2**62


@dataclass(frozen=True)
class Description:
    """What a corpus is.

    Attributes:
        name: of the reader; title: of the corpus.
        licence, how_to_get, citation: one line each; say where a licence is only hearsay.
        languages: codes as Whisper has them; cohorts: as in `Utterance.cohort`.
        n_speakers: as published, None where unknown.
        has_text: whether there are transcripts, or prompts that serve as such.
        status: how far the reader has been tried.
    """

    name: str
    title: str
    licence: str
    how_to_get: str
    citation: str
    languages: tuple[str, ...]
    cohorts: tuple[str, ...]
    n_speakers: int | None
    has_text: bool
    status: str = STATUS


class Prepared:
    """The rows of a corpus as they are found, in flat memory, and a report of the rest.

    Iterate, then read `report`; a second iteration starts anew with a new report. A row is left
    out, with a reason, when its recording is absent, empty, cut short in its header or shorter
    than the row's start; when its text is empty; when its id was used before (by the same or by
    another speaker); when its speaker already stands in another cohort. A row of more than 30 s
    without text comes in pieces, cut at pauses.

    Args:
        root: folder of the corpus, as `corpus_root` returns it.
        rows: makes the rows; called once an iteration with the new report.
        expects: the layout, for the error where nothing is found.
        check_audio: read every recording's header; without it lengths stay unknown, and nothing
            is cut.
        one_cohort: a speaker belongs to one cohort; False where a corpus says otherwise.
    """

    def __init__(
        self,
        root: Path,
        rows: Callable[[Report], Iterable[Utterance]],
        *,
        expects: str,
        check_audio: bool = True,
        one_cohort: bool = True,
    ) -> None:
        self.root = root
        self.report = Report()
        self._rows = rows
        self._expects = expects
        self._check_audio = check_audio
        self._one_cohort = one_cohort

    def __iter__(self) -> Iterator[Utterance]:
        """Yield the rows.

        Raises:
            ManifestError: at the end, when there was no usable row.
        """
        report = self.report = Report()
        lengths: dict[str, float | AudioError] = {}
        numbers: dict[str, int] = {}  # of speakers
        ids: dict[int, int] = {}  # hash of an id to the number of its speaker: 0.1 kB a row
        for row in self._rows(report):
            number = numbers.setdefault(row.speaker, len(numbers))
            reason, duration_s = self._fault(row, report, lengths)
            if reason is None and (owner := ids.get(hash(row.id))) is not None:
                reason = "duplicate id" if owner == number else "two speakers under one id"
            if reason is not None:
                report.skip(reason, row.id)
                continue
            ids[hash(row.id)] = number
            report.speakers.setdefault(row.speaker, row.cohort)
            for piece in at_most_longest(row, duration_s, report):
                report.n_rows += 1
                report.duration_s += duration_s if piece is row else _seconds(piece)
                report.cohorts[row.cohort] = report.cohorts.get(row.cohort, 0) + 1
                yield piece
        if report.n_rows == 0:
            found = "; ".join(report.lines()[1:]) or "nothing of it was found"
            raise ManifestError(
                f"no usable utterance below {self.root}: {found}; expected {self._expects}"
            )

    def _fault(
        self, row: Utterance, report: Report, lengths: dict[str, float | AudioError]
    ) -> tuple[str | None, float]:
        """Return why a row cannot be used (None: it can), and its length in seconds."""
        if not row.path.isascii() and not _is_utf8(row.path):
            return "the file's name is not UTF-8; rename it", 0.0
        if row.text is not None and not row.text.strip():
            return "the text is empty", 0.0
        if self._one_cohort and report.speakers.get(row.speaker, row.cohort) != row.cohort:
            return "the speaker stands in two cohorts", 0.0
        if row.end_s is not None and row.end_s <= row.start_s:
            return "the end is not after the start", 0.0
        length = lengths.get(row.path)
        if length is None:
            if len(lengths) >= _N_REMEMBERED:
                lengths.clear()
            length = lengths[row.path] = _measure(row.path) if self._check_audio else math.inf
        if isinstance(length, AudioError):
            return _kind_of_fault(row.path), 0.0
        if row.start_s >= length:
            return "the times lie beyond the end of the recording", 0.0
        end_s = length if row.end_s is None else min(row.end_s, length)
        return None, 0.0 if end_s == math.inf else end_s - row.start_s


def audio_fault(path: str | os.PathLike[str]) -> str | None:
    """Say why a recording cannot be used, by its header alone; None where it can."""
    return _kind_of_fault(path) if isinstance(_measure(path), AudioError) else None


def _measure(path: str | os.PathLike[str]) -> float | AudioError:
    """Return the length in seconds by the header, infinite where only decoding can tell."""
    length_s = wav_length_s(path)
    if length_s is not None:
        return length_s
    try:
        with open_recording(path) as file:
            if file.frames == 0:
                return AudioError(f"{path} holds no samples")
            known = file.frames < _UNKNOWN_FRAMES
            return float(file.frames / file.samplerate) if known else math.inf
    except AudioError as error:
        return error


def _seconds(row: Utterance) -> float:
    return 0.0 if row.end_s is None else row.end_s - row.start_s


def _is_utf8(path: str) -> bool:
    """Whether a path can stand in a manifest."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind_of_fault(path: str | os.PathLike[str]) -> str:
    """Name the kind of fault of a recording that could not be measured."""
    try:
        size = os.stat(path).st_size
    except OSError:
        return "the recording is listed but absent"
    return "the recording has 0 bytes" if size == 0 else "the recording's header cannot be read"


def pseudonym(name: str, salt: str, *, prefix: str = "S") -> str:
    """Return a stable id for a person's name: `prefix` and 10 hex digits of a keyed hash.

    Case, accents, and what is neither letter nor digit do not matter, so that spellings of one
    person meet. Without a secret salt, whoever has a list of names can find out who is who.
    """
    letters = unicodedata.normalize("NFKD", name).casefold()
    plain = re.sub(r"[\W_]+", "", "".join(c for c in letters if not unicodedata.combining(c)))
    return prefix + hmac.new(salt.encode(), plain.encode(), hashlib.sha256).hexdigest()[:10]


def severity_of(label: str) -> float | None:
    """Return a severity in [0, 1] for a clinician's word (see `SEVERITY`); None if unknown."""
    words = label.lower().replace("-", " ").replace("_", " ").split()
    known = {name.replace("-", " "): value for name, value in SEVERITY.items()}
    return known.get(" ".join(word for word in words if word not in ("to", "speech")))
