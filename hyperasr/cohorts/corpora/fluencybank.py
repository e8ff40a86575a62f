"""FluencyBank: interviews and readings of people who stutter, transcribed in CHAT."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hyperasr.cohorts.corpora import base
from hyperasr.cohorts.corpora._chat import Turn, parse_line, read_chat, read_ids
from hyperasr.types import Utterance

__all__ = ["ABOUT", "prepare"]

_SUFFIXES = (*base.AUDIO_SUFFIXES, ".m4a", ".mp4", ".mov")
_STEM = re.compile(r"(\d+)([mf])([a-z]?)", re.IGNORECASE)
_COLLECTION = re.compile(r"voices-\w+", re.IGNORECASE)
_TASKS = ("interview", "reading", "stuttering")
_PARTICIPANTS = ("PAR", "PAR0", "CHI")
_LANGUAGES = {"eng": "en", "spa": "es", "fra": "fr", "deu": "de", "nld": "nl"}
_CASA_COLUMNS = {"media_file", "annotator", "start", "end", "label"}
_CODE_OF_CASA = "PAR"

ABOUT = base.describe("fluencybank")


def prepare(root: base.AnyPath) -> base.Prepared:
    """Read CHAT files (``.cha``) and the recordings of the same stem below `root`.

    A row is an utterance of the participant with a time mark: `text` as it was said, `text_clean`
    as it was meant. The interviewer is left out. Where a recording has no CHAT file but rows in
    CASA's ``transcripts.csv``, these are read in its place. The letter at the end of a stem such
    as ``24fa`` counts as the take: ``24fa`` and ``24fb`` are one speaker.

    Args:
        root: folder with transcripts and recordings, in any folders; where a stem stands for an
            interview and a reading, both kinds of file must lie in folders of these names.
    Raises:
        ConfigError: no such folder.
    """
    return base.Prepared(ABOUT, root, _rows)


def _rows(root: Path, report: base.Report) -> Iterator[Utterance]:
    files = list(base.walk(root, report, (".cha",)))
    media = _Media(root, report, Counter(path.stem.lower() for path in files))
    transcribed: set[Path] = set()
    for path in files:
        task = _task(path, root)
        audio = media.find(path.stem, task, report)
        text = None if audio is None else base.read_text(path, report)
        if audio is None or text is None:
            continue
        transcribed.add(audio)
        ids = read_ids(text)
        turns = (turn for turn in read_chat(text) if turn.code in _PARTICIPANTS)
        yield from _utterances(turns, audio, _collection(path, root), task, ids, report)
    for path in base.walk(root, report, (".csv",)):
        if path.name.lower() == "transcripts.csv":
            yield from _casa_rows(path, root, media, transcribed, report)


def _utterances(
    turns: Iterator[Turn],
    audio: Path,
    collection: str,
    task: str,
    ids: dict[str, tuple[str, ...]],
    report: base.Report,
) -> Iterator[Utterance]:
    stem = audio.stem.lower()
    named = _STEM.fullmatch(stem)
    place = "/".join(["fluencybank", collection, *([task] if task else []), stem])
    for number, turn in enumerate(turns, start=1):
        spoken = parse_line(turn.line)
        name = f"{place}/{number:04d}"
        if turn.start_s is None or turn.end_s is None:
            report.skip("an utterance has no time mark", name)
        elif spoken.unintelligible:
            report.skip("an utterance is unintelligible in part (xxx, yyy, www)", name)
        elif not spoken.verbatim:
            report.skip("an utterance has no words (events and pauses only)", name)
        else:
            language, _, _, age, sex, group, *_ = (*ids.get(turn.code, ()), *[""] * 6)
            extra = {"session": stem, "raw_text": turn.line, "task": task}
            extra["gender"] = sex[:1].lower() or (named[2].lower() if named else "")
            extra["age"] = age.partition(";")[0]
            yield ABOUT.row(
                id=name,
                path=audio,
                text=spoken.verbatim,
                text_clean=spoken.intended or None,
                start_s=turn.start_s,
                end_s=turn.end_s,
                speaker=f"{collection}-{named[1]}{named[2].lower()}"
                if named
                else f"{collection}-{stem}",
                etiology=group or None,
                language=_LANGUAGES.get(language.partition(",")[0].strip(), "en"),
                extra={"text_source": "human"} | {k: v for k, v in extra.items() if v},
            )


def _casa_rows(
    path: Path, root: Path, media: _Media, transcribed: set[Path], report: base.Report
) -> Iterator[Utterance]:
    turns: dict[str, list[Turn]] = {}
    for row in base.read_table(path, report):
        if not row.keys() >= _CASA_COLUMNS:
            report.skip("a transcripts.csv is not CASA's", path.name)
            return
        if row["annotator"] != _CODE_OF_CASA:
            continue
        try:
            start_s, end_s = float(row["start"]) / 1000, float(row["end"]) / 1000
        except ValueError:
            report.skip("a row's times are no numbers", f"{path.name}: {row['media_file']}")
            continue
        turn = Turn(_CODE_OF_CASA, row["label"], start_s, end_s)
        turns.setdefault(row["media_file"], []).append(turn)
    for name, of_recording in turns.items():
        parts = name.lower().replace("\\", "/").split("/")
        stem = parts[-1].partition(".")[0]
        task = next((part for part in parts if part in _TASKS), "")
        audio = media.find(stem, _task(path, root) or task, report)
        if audio is None:
            continue
        if audio in transcribed:
            report.note("CASA's rows are left aside where there is a CHAT file")
            continue
        task = _task(audio, root)
        yield from _utterances(
            iter(of_recording), audio, _collection(audio, root), task, {}, report
        )


class _Media:
    """Recordings by stem; there are a few hundred."""

    def __init__(self, root: Path, report: base.Report, transcripts: Counter[str]) -> None:
        self.root, self.transcripts = root, transcripts
        self.audio: dict[str, dict[Path, Path]] = {}  # by stem and folder
        for path in base.walk(root, report, _SUFFIXES):
            # One recording in two formats: the first of the suffixes is taken.
            here = self.audio.setdefault(path.stem.lower(), {})
            here[path.parent] = min(path, here.get(path.parent, path), key=_rank)

    def find(self, stem: str, task: str, report: base.Report) -> Path | None:
        """Return the one recording of a transcript, or None with the reason counted."""
        paths = {path: _task(path, self.root) for path in self.audio.get(stem.lower(), {}).values()}
        same = [path for path, of in paths.items() if of == task]
        # A folder that names no task may hold the recording of any.
        loose = [path for path, of in paths.items() if not (task and of)]
        alone = self.transcripts[stem.lower()] <= 1
        if len(same) == 1 and (task or alone):
            return same[0]
        if len(loose) == 1 and not same and alone:
            return loose[0]
        if same or loose:
            report.skip("a transcript and a recording cannot be told to belong together", stem)
        else:
            report.skip("there is no recording for a transcript", stem)
        return None


def _rank(path: Path) -> int:
    return _SUFFIXES.index(path.suffix.lower())


def _task(path: Path, root: Path) -> str:
    folders = (root.name, *path.relative_to(root).parts[:-1])
    return next((part.lower() for part in folders[::-1] if part.lower() in _TASKS), "")


def _collection(path: Path, root: Path) -> str:
    parts = (root.name, *path.relative_to(root).parts)
    return next((part for part in parts if _COLLECTION.fullmatch(part)), "Voices")
