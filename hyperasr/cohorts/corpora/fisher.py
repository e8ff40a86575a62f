"""Fisher: telephone conversations, English, and Spanish with English switches (LDC)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hyperasr.cohorts.corpora import base

_ENGLISH = re.compile(r"(fe_\d+_\d+)$", re.I)
_SPANISH = re.compile(r"(\d{8}_\d{6}_(\d+)_fsp)$", re.I)
_TURN = re.compile(r"(\d[\d.]*)\s+(\d[\d.]*)\s+([AB]):\s*(.*)$")
_UNCERTAIN = re.compile(r"\(\(\s*(.*?)\s*(?:\)\)|$)")
# <foreign lang="English"> is spelled in many ways, with and without its brackets.
_FOREIGN = re.compile(
    r"</?\s*for[ei]+[gnh]+\w*(?:\s+lang(?:\s*=\s*)?[^\s<>]*)?\s*>?|\bfor[ei]+[gnh]+\s*>", re.I
)
_BACKGROUND = re.compile(r"<background>[^<]*</background>", re.I)
_TAG = re.compile(r"<[^<>\s]*/?>|\[[^\]]*\]|</?\w*|>")
_TDF_COLUMNS = 8
_PINS = {"en": (5, 10), "es": (2, 8)}
_TABLES = {"en": "calldata.tbl", "es": "_call.tbl"}
# One start in the English transcripts lost its first digit.
_WRONG_START = ("fe_03_11487", 31.09, 234.06, 231.09)

ABOUT = base.describe("fisher")


def prepare(root: base.AnyPath, *, uncertain: bool = False) -> base.Prepared:
    """Read ``fe_03_NNNNN.{txt,sph}`` and ``*_fsp.{tdf,sph}`` at any depth, English and Spanish.

    The two speakers of a call are its two channels: ``extra["channel"]`` is 0 or 1, and reading
    must take that channel alone. Speakers are the participants' numbers (PIN) where a call table
    is there, else call and side. Both sides of a call share a group.

    Args:
        root: folder with the audio and the transcripts, below one another or side by side.
        uncertain: keep turns with words in ``(( ))``, of which the transcriber was not sure.
    """
    return base.Prepared(ABOUT, root, _rows, uncertain=uncertain)


def clean(text: str) -> str:
    """Return the words alone.

    Words spoken while laughing and in the other language stay; noises, what was said in the
    background and the marks go.
    """
    words = _BACKGROUND.sub(" ", _FOREIGN.sub(" ", text))
    words = _UNCERTAIN.sub(r" \1 ", words)
    return " ".join(_TAG.sub(" ", words).replace("¿", "").replace("¡", "").split())


def _rows(root: Path, report: base.Report, uncertain: bool) -> base.Rows:
    recordings = {
        path.stem.lower(): path for path in base.walk(root, report, (".sph", ".wav", ".flac"))
    }
    pins = {language: _pins(root, language, report) for language in ("en", "es")}
    for path in base.walk(root, report, (".txt", ".tdf")):
        name = path.stem.lower()
        english, spanish = _ENGLISH.match(name), _SPANISH.match(name)
        if path.suffix.lower() == ".txt" and english:
            language, call, turns = "en", name.split("_")[-1], _english(path, report)
        elif path.suffix.lower() == ".tdf" and spanish:
            language, call, turns = "es", spanish[2], _spanish(path, report)
        else:
            continue
        fault = None if name in recordings else "the recording is listed but absent"
        for start_s, end_s, channel, raw in turns:
            utterance = f"{name}-{'AB'[channel]}-{_cs(start_s):06d}-{_cs(end_s):06d}"
            reason = fault or _unusable(raw, uncertain)
            if reason is not None:
                report.skip(reason, utterance)
                continue
            side = f"{name}-{'AB'[channel]}"
            extra = {"text_source": "human", "raw_text": raw, "group": name}
            extra |= {"channel": str(channel), "tag": "CS" if _FOREIGN.search(raw) else ""}
            yield ABOUT.row(
                id=utterance,
                path=recordings[name],
                text=clean(raw),
                speaker=pins[language].get((_number(call), channel), side),
                start_s=start_s,
                end_s=end_s,
                language=language,
                extra=extra,
            )


def _unusable(raw: str, uncertain: bool) -> str | None:
    if "((" in raw and not (uncertain and clean(raw)):
        return "words that the transcriber was not sure of (option uncertain)"
    return None if clean(raw) else "noise, no words"


def _english(path: Path, report: base.Report) -> Iterator[tuple[float, float, int, str]]:
    for line in (base.read_text(path, report) or "").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        turn = _TURN.match(line.strip())
        try:
            if turn is None:
                raise ValueError
            start_s, end_s = float(turn[1]), float(turn[2])
        except ValueError:
            report.skip("a line that is not: start end A: text", f"{path.name}: {line}")
            continue
        call, wrong, end, right = _WRONG_START
        if path.stem == call and start_s == wrong and end_s == end:
            start_s = right
        yield start_s, end_s, "AB".index(turn[3]), turn[4]


def _spanish(path: Path, report: base.Report) -> Iterator[tuple[float, float, int, str]]:
    for number, line in enumerate((base.read_text(path, report) or "").splitlines(), start=1):
        fields = line.split("\t")
        # Three lines at the head: column names and two comments.
        if not line.strip() or line.startswith(";;") or ";" in fields[0]:
            continue
        try:
            if len(fields) < _TDF_COLUMNS:
                raise ValueError
            channel, start_s, end_s = int(fields[1]), float(fields[2]), float(fields[3])
            if channel not in (0, 1):
                raise ValueError
        except ValueError:
            report.skip("a line that is not a turn of a .tdf table", f"{path.name}, line {number}")
            continue
        yield start_s, end_s, channel, fields[7].strip()


def _pins(root: Path, language: str, report: base.Report) -> dict[tuple[str, int], str]:
    """Return the participant's number of each call and channel."""
    pins: dict[tuple[str, int], str] = {}
    columns = _PINS[language]
    for path in base.walk(root, report, (_TABLES[language],)):
        for line in (base.read_text(path, report) or "").splitlines():
            fields = [field.strip() for field in line.split(",")]
            if len(fields) > columns[1] and fields[0].isdigit():
                for channel, column in enumerate(columns):
                    if fields[column].isdigit():
                        pin = f"fisher-{language}-{fields[column]}"
                        pins[_number(fields[0]), channel] = pin
    return pins


def _number(call: str) -> str:
    return call.lstrip("0") or "0"


def _cs(seconds: float) -> int:
    return round(seconds * 100)
