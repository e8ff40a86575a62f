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

import functools
import hashlib
import hmac
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from hyperasr.audio.container import UNKNOWN_LENGTH, open_recording
from hyperasr.audio.mel import CHUNK_S, SAMPLE_RATE
from hyperasr.audio.reading import duration_s as decoded_s
from hyperasr.audio.reading import stream
from hyperasr.audio.segments import cut_at_pauses
from hyperasr.cohorts.corpora._files import (  # noqa: F401 (readers take them from here)
    AUDIO_SUFFIXES,
    Report,
    corpus_root,
    find_named,
    listed_path,
    read_pairs,
    read_table,
    read_text,
    walk,
)
from hyperasr.cohorts.manifest import row_fault
from hyperasr.errors import AudioError, ManifestError
from hyperasr.types import Utterance

AnyPath = str | os.PathLike[str]
Rows = Iterator[Utterance]
Texts = Mapping[str, str] | AnyPath | None  # of the user: a mapping, or a CSV of two columns
STATUS = "tested on synthetic fixtures only"
NO_SPLIT = "all"

_LONGEST_S = float(CHUNK_S)  # Whisper reads no more at once
_READ_S = 60.0  # at a time, so that an hour does not fill the memory
_N_REMEMBERED = 256  # recordings whose check is kept, for corpora with many rows a recording


@dataclass(frozen=True)
class Description:
    """What a corpus is.

    Attributes:
        name: of the reader; title: of the corpus.
        licence, how_to_get, citation: one line each; say where a licence is only hearsay.
        layout: what the reader expects below the folder, for the error where nothing is found.
        languages: codes as Whisper has them; cohorts: as in `Utterance.cohort`. The first of each
            is that of a row which says nothing else.
        n_speakers: as published, None where unknown.
        has_text: whether there are transcripts, or prompts that serve as such.
        status: how far the reader has been tried.
    """

    name: str
    title: str
    licence: str
    how_to_get: str
    citation: str
    layout: str
    languages: Sequence[str]
    cohorts: Sequence[str] = ("typical",)
    n_speakers: int | None = None
    has_text: bool = True
    status: str = STATUS

    def row(
        self,
        *,
        typical: bool = False,
        etiology: str | None = None,
        severity: float | None = None,
        **fields: Any,
    ) -> Utterance:
        """Return an utterance of this corpus.

        Args:
            typical: a control, without etiology and severity.
            etiology, severity: of a speaker who is no control.
            fields: as in `Utterance`; language and cohort are the corpus's first where they are
                not given, the split is `NO_SPLIT`. Of `extra` what is empty is left out.
        """
        if typical:
            fields["cohort"], etiology, severity = "typical", None, None
        known: dict[str, Any] = {"cohort": self.cohorts[0], "language": self.languages[0]}
        known |= {"split": NO_SPLIT, **fields, "path": str(fields["path"]), "source": self.name}
        known["extra"] = {k: v for k, v in (known.get("extra") or {}).items() if v}
        return Utterance(etiology=etiology, severity=severity, **known)


@functools.cache
def _facts() -> dict[str, dict[str, Any]]:
    text = Path(__file__).with_name("about.yaml").read_text(encoding="utf-8")
    facts: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return facts


def describe(name: str) -> Description:
    """Return what ``about.yaml`` says of a corpus."""
    return Description(name=name, **_facts()[name])


class Prepared:
    """The rows of a corpus as they are found, in flat memory, and a report of the rest.

    Iterate, then read `report`; a second iteration starts anew with a new report. A row is left
    out, with a reason, when its recording is absent, empty, cut short in its header or shorter
    than the row's start; when its text is empty; when its id was used before (by the same or by
    another speaker); when its speaker already stands in another cohort; when no manifest could
    hold it. A row of more than 30 s without text comes in pieces, cut at pauses.

    Args:
        about: the corpus.
        root: its folder.
        rows: makes the rows; called once an iteration with the absolute root, the new report and
            `options`.
        one_cohort: a speaker belongs to one cohort; False where a corpus says otherwise.
    Raises:
        ConfigError: there is no such folder.
    """

    def __init__(
        self,
        about: Description,
        root: AnyPath,
        rows: Callable[..., Iterable[Utterance]],
        *,
        one_cohort: bool = True,
        **options: Any,
    ) -> None:
        self.about = about
        self.root = corpus_root(root)
        self.report = Report()
        self._rows = partial(rows, **options)
        self._one_cohort = one_cohort

    def __iter__(self) -> Iterator[Utterance]:
        """Yield the rows.

        Raises:
            ManifestError: at the end, when there was no usable row.
        """
        report = self.report = Report()
        measure = functools.lru_cache(_N_REMEMBERED)(_measure)
        numbers: dict[str, int] = {}  # of speakers
        ids: dict[int, int] = {}  # hash of an id to the number of its speaker: 0.1 kB a row
        for row in self._rows(self.root, report):
            number = numbers.setdefault(row.speaker, len(numbers))
            reason, duration_s = self._fault(row, report, measure)
            if reason := reason or _enter(row.id, number, ids):
                report.skip(reason, row.id)
                continue
            report.speakers.setdefault(row.speaker, row.cohort)
            for piece in _at_most_longest(row, duration_s, report):
                if piece is not row and (reason := _enter(piece.id, number, ids)):
                    report.skip(reason, piece.id)
                    continue
                report.n_rows += 1
                if piece is row:
                    report.duration_s += duration_s if duration_s < math.inf else 0.0
                elif piece.end_s is not None:
                    report.duration_s += piece.end_s - piece.start_s
                report.cohorts[row.cohort] += 1
                yield piece
        if report.n_rows == 0:
            reasons = "; ".join(report.lines()[1:]) or "nothing of it was found"
            raise ManifestError(
                f"no usable utterance below {self.root}: {reasons}; expected {self.about.layout}"
            )

    def _fault(
        self, row: Utterance, report: Report, measure: Callable[[str], float | str]
    ) -> tuple[str | None, float]:
        """Return why a row cannot be used (None: it can), and its length in seconds.

        The length is infinite where the row goes to the end of a recording whose header tells none.
        """
        if row.text is not None and not row.text.strip():
            return "the text is empty", 0.0
        if self._one_cohort and report.speakers.get(row.speaker, row.cohort) != row.cohort:
            return "the speaker stands in two cohorts", 0.0
        if row.end_s is not None and row.end_s <= row.start_s:
            return "the end is not after the start", 0.0
        if fault := row_fault({k: v for k, v in row.to_dict().items() if v is not None}):
            return fault.partition(", not ")[0], 0.0  # without the value, which may be any
        length = measure(row.path)
        if isinstance(length, str):
            return length, 0.0
        if row.start_s >= length:
            return "the times lie beyond the end of the recording", 0.0
        end_s = length if row.end_s is None else min(row.end_s, length)
        return None, end_s - row.start_s


def _enter(name: str, number: int, ids: dict[int, int]) -> str | None:
    """Enter an id as one of the speaker `number`; say why not, where it was used before."""
    if (owner := ids.get(hash(name))) is not None:
        return "duplicate id" if owner == number else "two speakers under one id"
    ids[hash(name)] = number
    return None


def _at_most_longest(row: Utterance, duration_s: float, report: Report) -> Iterator[Utterance]:
    """Yield a row of at most 30 s as it is, or its pieces.

    A long row without text is cut at pauses; the times of the pieces are those within its
    recording, their ids count on from the row's. One with a text stays whole, because nobody says
    which words are in which piece; the report tells it, unless only decoding would tell its length.
    """
    try:
        if duration_s == math.inf and row.text is None:
            duration_s = decoded_s(row.path) - row.start_s
        if duration_s <= _LONGEST_S:
            yield row
        elif row.text is not None:
            if duration_s < math.inf:
                report.note(
                    f"an utterance of more than {_LONGEST_S:g} s whose text has no times: it can "
                    "be transcribed, but training leaves it out"
                )
            yield row
        else:
            report.note(f"a recording of more than {_LONGEST_S:g} s without text was cut at pauses")
            yield from _pieces(row)
    except AudioError:
        report.skip("the recording cannot be decoded to its end", row.id)


def _pieces(row: Utterance) -> Iterator[Utterance]:
    recording = stream(
        row.path, chunk_s=_READ_S, start_s=row.start_s, end_s=row.end_s, channel=row.channel
    )
    for number, (first, waveform) in enumerate(cut_at_pauses(recording, _LONGEST_S)):
        start_s = row.start_s + first / SAMPLE_RATE
        end_s = start_s + len(waveform) / SAMPLE_RATE
        yield replace(row, id=f"{row.id}-{number:04d}", start_s=start_s, end_s=end_s)


def _measure(path: str) -> float | str:
    """Return the length in seconds by the header (infinite: only decoding tells), or a fault."""
    try:
        with open_recording(path) as file:
            if not file.frames:
                return "the recording holds no samples"
            return file.frames / file.samplerate if file.frames < UNKNOWN_LENGTH else math.inf
    except AudioError as error:
        if "sph2pipe" in str(error):
            return "the recording is compressed (shorten): sph2pipe -f wav IN.sph OUT.wav"
    try:
        size = os.stat(path).st_size
    except OSError:
        return "the recording is listed but absent"
    return "the recording's header cannot be read" if size else "the recording has 0 bytes"


def pseudonym(name: str, salt: str, *, prefix: str = "S") -> str:
    """Return a stable id for a person's name: `prefix` and 10 hex digits of a keyed hash.

    Case, accents, and what is neither letter nor digit do not matter, so that spellings of one
    person meet. Without a secret salt, whoever has a list of names can find out who is who.
    """
    letters = unicodedata.normalize("NFKD", name).casefold()
    plain = re.sub(r"[\W_]+", "", "".join(c for c in letters if not unicodedata.combining(c)))
    return prefix + hmac.new(salt.encode(), plain.encode(), hashlib.sha256).hexdigest()[:10]


def scaled(rating: str, worst: float) -> float | None:
    """Return a rating from 0 to `worst` as a severity in [0, 1]; None where it is none."""
    try:
        severity = float(rating.replace(",", ".")) / worst
    except ValueError:
        return None
    return severity if 0.0 <= severity <= 1.0 else None
