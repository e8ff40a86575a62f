"""FluencyBank: interviews and readings of people who stutter, transcribed in CHAT."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from hyperasr.cohorts.corpora import base
from hyperasr.cohorts.corpora._chat import parse_line, read_chat, read_ids

_SUFFIXES = (*base.AUDIO_SUFFIXES, ".m4a", ".mp4", ".mov")
_STEM = re.compile(r"(\d+)([mf])([a-z]?)", re.IGNORECASE)
_COLLECTION = re.compile(r"voices-\w+", re.IGNORECASE)
_TASKS = ("interview", "reading", "stuttering")
_PARTICIPANTS = ("PAR", "PAR0", "CHI")
_LANGUAGES = {"eng": "en", "spa": "es", "fra": "fr", "deu": "de", "nld": "nl"}

ABOUT = base.describe("fluencybank")


def prepare(root: base.AnyPath) -> base.Prepared:
    """Read CHAT files (``.cha``) and the recordings of the same stem below `root`.

    A row is an utterance of the participant with a time mark: `text` as it was said, `text_clean`
    as it was meant. The interviewer is left out. The letter at the end of a stem such as ``24fa``
    counts as the take: ``24fa`` and ``24fb`` are one speaker.

    Args:
        root: folder with transcripts and recordings, in any folders; where a stem stands for an
            interview and a reading, both kinds of file must lie in folders of these names.
    """
    return base.Prepared(ABOUT, root, _rows)


def _rows(root: Path, report: base.Report) -> base.Rows:
    files = list(base.walk(root, report, (".cha",)))
    n_transcripts = Counter(path.stem.lower() for path in files)
    recordings = _recordings(root, report)
    for path in files:
        stem, task = path.stem.lower(), _task(path, root)
        candidates = recordings.get(stem, {}).values()
        same = [audio for audio in candidates if _task(audio, root) == task]
        # A folder that names no task may hold the recording of any.
        loose = [audio for audio in candidates if not (task and _task(audio, root))]
        alone = n_transcripts[stem] == 1
        if len(same) == 1 and (task or alone):
            audio = same[0]
        elif len(loose) == 1 and not same and alone:
            audio = loose[0]
        elif same or loose:
            report.skip("a transcript and a recording cannot be told to belong together", path.stem)
            continue
        else:
            report.skip("there is no recording for a transcript", path.stem)
            continue
        text = base.read_text(path, report)
        if text is not None:
            yield from _utterances(text, audio, _collection(path, root), task, report)


def _recordings(root: Path, report: base.Report) -> dict[str, dict[Path, Path]]:
    """Return the recordings, of which there are a few hundred, by stem and folder."""
    recordings: dict[str, dict[Path, Path]] = {}
    for path in base.walk(root, report, _SUFFIXES):
        # One recording in two formats: the first of the suffixes is taken.
        here = recordings.setdefault(path.stem.lower(), {})
        here[path.parent] = min(path, here.get(path.parent, path), key=_rank)
    return recordings


def _utterances(
    transcript: str, audio: Path, collection: str, task: str, report: base.Report
) -> base.Rows:
    ids, stem = read_ids(transcript), audio.stem.lower()
    named = _STEM.fullmatch(stem)
    place = "/".join(["fluencybank", collection, *([task] if task else []), stem])
    turns = (turn for turn in read_chat(transcript) if turn.code in _PARTICIPANTS)
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
            person = f"{named[1]}{named[2].lower()}" if named else stem
            extra = {"text_source": "human", "session": stem, "raw_text": turn.line, "task": task}
            extra["gender"] = sex[:1].lower() or (named[2].lower() if named else "")
            extra["age"] = age.partition(";")[0]
            yield ABOUT.row(
                id=name,
                path=audio,
                text=spoken.verbatim,
                text_clean=spoken.intended or None,
                start_s=turn.start_s,
                end_s=turn.end_s,
                speaker=f"{collection}-{person}",
                etiology=group or None,
                language=_LANGUAGES.get(language.partition(",")[0].strip(), "en"),
                extra=extra,
            )


def _rank(path: Path) -> int:
    return _SUFFIXES.index(path.suffix.lower())


def _task(path: Path, root: Path) -> str:
    folders = (root.name, *path.relative_to(root).parts[:-1])
    return next((part.lower() for part in folders[::-1] if part.lower() in _TASKS), "")


def _collection(path: Path, root: Path) -> str:
    parts = (root.name, *path.relative_to(root).parts)
    return next((part for part in parts if _COLLECTION.fullmatch(part)), "Voices")
