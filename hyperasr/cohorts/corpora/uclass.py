"""UCLASS: recordings of children and adults who stutter; a part of them is transcribed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hyperasr.cohorts.corpora import base
from hyperasr.cohorts.corpora._chat import parse_line, read_chat
from hyperasr.cohorts.corpora._sheets import user_table

_STEM = re.compile(
    r"(?P<sex>[MF])_(?P<id>\d{4})_(?P<years>\d+)y(?P<months>\d+)m[_-](?P<take>\d+)"
    r"(?P<clip>_\w+)?",
    re.IGNORECASE,
)
_TRANSCRIPTS = (".cha", ".textgrid", ".grid", ".orth")
_TASKS = ("monologue", "reading", "conversation")
_WORD_TIERS = ("utt", "sent", "phrase", "orth", "text", "word")
_PAUSE_S, _LONGEST_S = 0.3, 25.0  # a pause that ends a phrase, and the length of one
_GRID_TOKEN = re.compile(
    r'"((?:[^"]|"")*)"|(?<![\w.\[])(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w.\]])'
)
_CHILD = re.compile(r"PAR\d?|CHI|SUB|S", re.IGNORECASE)

_Piece = tuple[str, str | None, float, float | None]
"""Text as said, text as meant, start and end in seconds."""

ABOUT = base.describe("uclass")


def prepare(root: base.AnyPath, *, texts: base.Texts = None) -> base.Prepared:
    """Read recordings and the transcripts of the same stem below `root`.

    The best transcript is taken: CHAT with times, TextGrid (rows are phrases), CHAT without times
    or ``.orth`` (a row is the recording). Most recordings have none: their rows have no text.
    Speakers are the same over both releases; those of release 2 who speak another language are
    not marked in the corpus.

    Args:
        root: folder with both releases or one.
        texts: of recordings whose text is known, such as a passage read: a mapping or a CSV
            ``stem,text``.
    Raises:
        ConfigError: no such folder or table.
    """
    table = {_key(stem): text for stem, text in user_table(texts, "texts").items()}
    return base.Prepared(ABOUT, root, _rows, table=table)


def _rows(root: Path, report: base.Report, table: dict[str, str]) -> base.Rows:
    transcripts: dict[str, list[Path]] = {}
    for path in base.walk(root, report, _TRANSCRIPTS):
        transcripts.setdefault(_key(path.stem), []).append(path)
    for path in base.walk(root, report, (".wav", ".mp3", ".sfs")):
        if path.suffix.lower() == ".sfs":
            report.skip("a file of the Speech Filing System; export it as WAV", path)
            continue
        named = _STEM.fullmatch(path.stem)
        if named is None:
            report.skip("the name is not SEX_ID_AGE_TAKE, such as M_0030_16y4m_1", path)
            continue
        key = _key(path.stem)
        pieces, kind = _pieces(transcripts.get(key, []), report)
        if key in table:
            pieces, kind = [(table[key], None, 0.0, None)], "passage"
        place = _place(path, root)
        for number, (said, meant, start_s, end_s) in enumerate(pieces, start=1):
            yield ABOUT.row(
                id=f"uclass/{place}{key}" + (f"/{number:04d}" if len(pieces) > 1 else ""),
                path=path,
                text=said or None,
                text_clean=meant,
                start_s=start_s,
                end_s=end_s,
                speaker=f"{named['sex'].upper()}_{named['id']}",
                extra={
                    "text_source": kind,
                    "gender": named["sex"].lower(),
                    "age": named["years"],
                    "session": named["take"],
                    "task": next((task for task in _TASKS if task in place), ""),
                    "clip": (named["clip"] or "").lstrip("_"),
                },
            )


def _pieces(files: list[Path], report: base.Report) -> tuple[list[_Piece], str]:
    """Return the parts of a recording with their texts, by the best transcript there is."""
    by_suffix = {path.suffix.lower(): path for path in files}
    whole: list[_Piece] = []
    if (path := by_suffix.get(".cha")) and (text := base.read_text(path, report)):
        timed, flat = _from_chat(text, path, report)
        if timed:
            return timed, "human"
        whole = flat
    if path := by_suffix.get(".textgrid") or by_suffix.get(".grid"):
        text = base.read_text(path, report)
        if text and (timed := _from_textgrid(text, path, report)):
            return timed, "human"
    if not whole and (path := by_suffix.get(".orth")) and (text := base.read_text(path, report)):
        whole = [(" ".join(text.split()), None, 0.0, None)]
    return (whole, "human") if whole else ([("", None, 0.0, None)], "none")


def _from_chat(text: str, path: Path, report: base.Report) -> tuple[list[_Piece], list[_Piece]]:
    """Return the child's utterances with times, and their texts as one piece without."""
    timed: list[_Piece] = []
    said: list[str] = []
    meant: list[str] = []
    turns = list(read_chat(text))
    alone = len({turn.code for turn in turns}) == 1
    for turn in turns:
        if not alone and not _CHILD.fullmatch(turn.code):
            continue
        spoken = parse_line(turn.line)
        if spoken.unintelligible:
            report.skip("an utterance is unintelligible in part (xxx, yyy, www)", path.name)
        elif spoken.verbatim:
            said.append(spoken.verbatim)
            meant.append(spoken.intended)
            if turn.start_s is not None and turn.end_s is not None:
                piece = (spoken.verbatim, spoken.intended or None, turn.start_s, turn.end_s)
                timed.append(piece)
    # A text of the whole must be whole: with other voices or gaps in it, it is not.
    complete = said and len(said) == len(turns)
    flat: _Piece = (" ".join(said), " ".join(filter(None, meant)) or None, 0.0, None)
    return timed, [flat] if complete else []


def _from_textgrid(text: str, path: Path, report: base.Report) -> list[_Piece]:
    try:
        tiers = read_textgrid(text)
    except ValueError as error:
        report.skip(f"a TextGrid cannot be read ({error})", path.name)
        return []
    for wanted in _WORD_TIERS:
        for name, tier in tiers.items():
            if wanted in name.lower():
                return [(p.text, None, p.start_s, p.end_s) for p in phrases(tier)]
    report.skip("a TextGrid has no tier of words", path.name)
    return []


def _key(stem: str) -> str:
    return stem.replace("-", "_").upper()


def _place(path: Path, root: Path) -> str:
    """Return release and task as a prefix for ids: a stem may stand for several tasks."""
    folders = " ".join((root.name, *path.relative_to(root).parts[:-1])).lower()
    release = re.search(r"release[ _-]*(\w+)", folders)
    task = next((task for task in _TASKS if task in folders), "")
    number = {"one": "1", "two": "2"}.get(release[1], release[1]) if release else ""
    return "/".join([*([f"release{number}"] if number else []), *([task] if task else []), ""])


@dataclass(frozen=True)
class Interval:
    """A labelled stretch of a TextGrid; times in seconds."""

    start_s: float
    end_s: float
    text: str


def read_textgrid(text: str) -> dict[str, list[Interval]]:
    """Return the interval tiers of a TextGrid, long or short text format, without tiers of points.

    Raises:
        ValueError: this is no TextGrid, or it breaks off.
    """
    if "ooTextFile" not in text[:200] or "TextGrid" not in text[:200]:
        raise ValueError("no TextGrid in text format")
    # Both formats are the same sequence of strings and numbers; the long one has names between.
    values: list[str | float] = []
    for token in _GRID_TOKEN.finditer(text):
        quoted, number = token.groups()
        values.append(quoted.replace('""', '"') if number is None else float(number))
    stream = iter(values[2:])  # after "ooTextFile" and "TextGrid"
    try:
        next(stream), next(stream)  # the times of the whole
        tiers = {}
        for _ in range(_count(next(stream))):
            kind, name = next(stream), str(next(stream))
            next(stream), next(stream)
            n_values = 3 if kind == "IntervalTier" else 2
            entries = [[next(stream) for _ in range(n_values)] for _ in range(_count(next(stream)))]
            if kind == "IntervalTier":
                tiers[name] = [Interval(float(a), float(b), str(c).strip()) for a, b, c in entries]
    except (StopIteration, RuntimeError) as error:
        raise ValueError("the TextGrid breaks off") from error
    return tiers


def phrases(tier: list[Interval]) -> list[Interval]:
    """Join labelled intervals that follow each other into phrases.

    A silence, which has no text, of 0.3 s ends one; so do 25 s, unless one interval is longer.
    """
    joined: list[Interval] = []
    for interval in tier:
        if not interval.text:
            continue
        last = joined[-1] if joined else None
        if (
            last is not None
            and interval.start_s - last.end_s < _PAUSE_S
            and interval.end_s - last.start_s <= _LONGEST_S
        ):
            text = f"{last.text} {interval.text}"
            joined[-1] = Interval(last.start_s, interval.end_s, text)
        else:
            joined.append(interval)
    return joined


def _count(value: str | float) -> int:
    if not isinstance(value, float) or not value.is_integer() or value < 0:
        raise ValueError(f"expected a number of items in the TextGrid, not {value!r}")
    return int(value)
