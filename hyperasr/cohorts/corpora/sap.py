"""Speech Accessibility Project: English of people with five etiologies; two references."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperasr.cohorts.corpora import base

# A cohort is an etiology, so that one can be left out of a training; other names are `unknown`.
_COHORTS = {
    "parkinson": "parkinson",
    "als": "als",
    "amyotrophic": "als",
    "cerebral": "cerebral_palsy",
    "down": "down_syndrome",
    "stroke": "stroke",
}
_SPLITS = ("train", "dev", "test", "test1", "test2")
_ARCHIVES = (".tar", ".7z", ".7z.001", ".zip")
_CONVERTED = "_16khz"
# Instead of a transcript; `#dis` on the first line of one only says that marks follow.
_INVALID = ("nod", "nov", "bgn", "otv", "cut", "dis", "loa", "nrw")
_CODE = re.compile(r"^[#\[]?(" + "|".join(_INVALID) + r")\]?[.]?$", re.I)
_TIMED = re.compile(r"^\s*(\d+(?:\.\d+)?)\s+(\d+(?:\.\d+)?)\s+(.*)$")
_UNKNOWN = "UNK"
_CURLY = re.compile(r"\{([^{}]*)\}?")
_ROUND = re.compile(r"\(([^()]*)\)?")

ABOUT = base.describe("sap")


def prepare(
    root: base.AnyPath,
    *,
    etiology: str | None = None,
    unknown_words: bool = False,
    keep_ids: bool = False,
    salt: str = "",
) -> base.Prepared:
    """Read unpacked archives: a JSON for each contributor, and the recordings it lists.

    JSON and recordings may lie in one folder (``[raw/]Train/UUID/UUID.json``), all in one
    (``Train/*.json``), or apart (``train/metadata`` and ``train/audio``); recordings may be
    converted (``_16kHz``). ``text`` is the reference with disfluencies, ``text_clean`` the one
    without. Splits come from the challenges' lists, the list of contributors or the folders.
    Ratings are in ``extra`` as ``rating: DIMENSION``; they are scales of their own, so severity
    stays unknown.

    Args:
        root: folder of the corpus.
        etiology: of contributors whose JSON and lists (``dev.txt``) do not tell; without, their
            cohort is ``unknown``.
        unknown_words: keep utterances with words that nobody understood, as ``UNK``.
        keep_ids: use the contributor ids as they are, to score a challenge; else a hash of them.
        salt: a secret of your own that goes into the hash.
    """
    reader = _Reader(etiology, unknown_words, keep_ids, salt)
    return base.Prepared(ABOUT, root, reader.rows)


@dataclass(frozen=True)
class _Reader:
    """What is the same for all rows."""

    etiology: str | None
    unknown_words: bool
    keep_ids: bool
    salt: str

    def rows(self, root: Path, report: base.Report) -> base.Rows:
        for path in base.walk(root, report, _ARCHIVES):
            report.skip("an archive that is not unpacked", path)
        listed = _listed(root, report)
        splits = _contributor_splits(root, report)
        recordings: dict[str, list[Path]] = {}
        for path in base.walk(root, report, (".wav", ".flac")):
            recordings.setdefault(_key(path.name), []).append(path)
        for path in base.walk(root, report, (".json",)):
            person = _load(path, report, self._speaker(path.stem))
            if not isinstance(person, dict) or not isinstance(person.get("Files"), list):
                continue  # lists of prompts and contributors lie beside the contributors
            beside = (path.parent, path.parent / path.stem)
            seen: set[str] = set()
            for item in person["Files"]:
                name = _text(item, "Filename").replace("\\", "/").rpartition("/")[2]
                if not name:
                    report.skip("an entry without a file name", self._speaker(path.stem))
                    continue
                if name.lower() in seen:
                    report.skip("a file listed twice by one contributor", self._name(name))
                    continue
                seen.add(name.lower())
                split, etiology = listed.get(name.lower(), ("", ""))
                etiology = _text(person, "Etiology") or etiology or self.etiology or ""
                split = split or splits.get(name.partition("_")[0].lower(), "")
                split = split or _split(path.relative_to(root))
                copies = recordings.get(_key(name), [])
                if not copies:
                    report.skip("the recording is listed but absent", self._name(name))
                    continue
                audio = next((copy for copy in copies if copy.parent in beside), copies[0])
                yield from self._file(item, name, audio, etiology, split, report)

    def _file(
        self, item: Any, name: str, audio: Path, etiology: str, split: str, report: base.Report
    ) -> base.Rows:
        prompt = item.get("Prompt") if isinstance(item.get("Prompt"), dict) else {}
        transcript, stem = _text(prompt, "Transcript"), self._name(name)
        parts = stretches(transcript)
        if not parts:
            coded = transcript and not transcript.lower().startswith("#ts")
            reason = "the transcript is a code for an unusable recording"
            report.skip(reason if coded else "no transcript", stem)
        if not etiology:
            report.note("a recording whose etiology nothing tells (option etiology)")
        extra = {"text_source": "human", **_prompt(prompt), **_ratings(item)}
        for number, (raw, start_s, end_s) in enumerate(parts):
            verbatim, clean = references(raw)
            if _UNKNOWN in verbatim.split() and not self.unknown_words:
                report.skip("words that nobody understood (option unknown_words)", stem)
            elif not verbatim:
                report.skip("a transcript without words", stem)
            else:
                yield ABOUT.row(
                    id=stem if start_s is None else f"{stem}-{number:02d}",
                    path=audio,
                    text=verbatim,
                    text_clean=clean,
                    speaker=self._speaker(name),
                    start_s=start_s or 0.0,
                    end_s=end_s,
                    cohort=_cohort(etiology),
                    etiology=etiology or None,
                    split=split,
                    extra=extra | {"raw_text": raw},
                )

    def _speaker(self, name: str) -> str:
        contributor = name.partition("_")[0].lower()
        if self.keep_ids:
            return contributor
        return base.pseudonym(contributor, self.salt, prefix="sap")

    def _name(self, name: str) -> str:
        """Return the stem of a file name, with the contributor as the speaker is called."""
        stem = name.rpartition(".")[0] or name
        return stem if self.keep_ids else f"{self._speaker(stem)}_{stem.partition('_')[2]}"


def _key(name: str) -> str:
    return name.lower().rpartition(".")[0].removesuffix(_CONVERTED)


def _text(values: Any, key: str) -> str:
    value = values.get(key) if isinstance(values, dict) else None
    return "" if value is None else str(value).strip()


def _load(path: Path, report: base.Report, shown: str = "") -> Any:
    """Return what a JSON file holds, None with a reason where it is damaged.

    A contributor's file is named by their id, so a report shows another name of it.
    """
    try:
        return json.loads(base.read_text(path, report) or "null")
    except ValueError:
        report.skip("a JSON file that is damaged", shown or path.name)
        return None


def _cohort(etiology: str) -> str:
    # From the beginning of a word: "palsy" has "als" in it.
    begins = (c for word, c in _COHORTS.items() if re.search(rf"\b{word}", etiology.lower()))
    return next(begins, "unknown")


def _prompt(prompt: dict[str, Any]) -> dict[str, str]:
    keys = {
        "prompt": "Prompt Text",
        "task": "Category Description",
        "subtask": "Sub Category Description",
    }
    return {ours: _text(prompt, theirs) for ours, theirs in keys.items() if _text(prompt, theirs)}


def _ratings(item: dict[str, Any]) -> dict[str, str]:
    """Return the levels of each dimension; several raters are separated by blanks."""
    levels: dict[str, str] = {}
    ratings = item.get("Ratings")
    for rating in ratings if isinstance(ratings, list) else ():
        dimension, level = _text(rating, "Dimension Description"), _text(rating, "Level")
        if dimension and level:
            key = f"rating: {dimension}"
            levels[key] = f"{levels[key]} {level}" if key in levels else level
    return levels


def _split(path: Path) -> str:
    parts = [re.sub(r"[^a-z0-9]", "", part.lower()) for part in path.parts[:-1]]
    return next((part for part in reversed(parts) if part in _SPLITS), base.NO_SPLIT)


def _contributor_splits(root: Path, report: base.Report) -> dict[str, str]:
    """Return the split of each contributor from ``Speech*Contributors.json``, where it is there."""
    splits: dict[str, str] = {}
    for path in base.walk(root, report, ("contributors.json",)):
        lists = _load(path, report)
        for split, people in lists.items() if isinstance(lists, dict) else ():
            if split.lower() in _SPLITS and isinstance(people, list):
                splits |= {str(person).lower(): split.lower() for person in people}
    return splits


def _listed(root: Path, report: base.Report) -> dict[str, tuple[str, str]]:
    """Return split and etiology by file name from the challenges' lists.

    ``{train,dev}.txt`` has lines of a path and an etiology; ``{train,dev,test1,test2}.tsv`` the
    root in its first line, then a path and a number of samples.
    """
    lists: dict[str, tuple[str, str]] = {}
    for path in base.walk(root, report, (".txt", ".tsv")):
        split = path.stem.lower()
        if split not in _SPLITS:
            continue
        for line in (base.read_text(path, report) or "").splitlines():
            name, _, value = (field.strip() for field in line.partition("\t"))
            if value:
                etiology = "" if path.suffix.lower() == ".tsv" else value
                lists[name.rpartition("/")[2].lower()] = split, etiology
    return lists


def stretches(transcript: str) -> list[tuple[str, float | None, float | None]]:
    """Return the parts of a transcript field with start and end, None for the whole recording.

    A first line ``#dis`` is dropped and lines are joined. After a first line ``#ts``, each line
    is ``start end text`` in seconds. There are none where the field is a code for invalid.
    """
    lines = [line.strip() for line in transcript.replace("\r", "\n").split("\n") if line.strip()]
    if len(lines) > 1 and lines[0].lower() == "#dis":
        lines = lines[1:]
    if lines and lines[0].lower().startswith("#ts"):
        timed = [_TIMED.match(line) for line in lines[1:]]
        return [(m[3], float(m[1]), float(m[2])) for m in timed if m and m[3].strip()]
    raw = " ".join(lines)
    return [] if not raw or _CODE.match(raw) else [(raw, None, None)]


def references(raw: str) -> tuple[str, str]:
    """Return the references with and without disfluencies; unknown words stand as ``UNK``.

    Markup: ``(...)`` disfluency, ``(cs: x)`` and ``(ss: x)`` words of somebody else or beside the
    prompt, which stay in both; ``{g: x}`` guess and ``{f: x}`` foreign keep their words,
    ``{w: 3}`` is three unknown words and ``{u: }`` one; ``[...]`` goes; ``~J`` is a letter,
    ``*`` a mark inside a stutter. Marks that are never closed end with the text.

    Source: the rules of the challenge's scoring (SAPC template, text_normalizer_hf.py), without
        its normalisation of words. Ours: spelled letters stay apart.
    """
    text = re.sub(r"\[[^\]]*\]", " ", raw)
    text = re.sub(r"^[^\[\]]*\]", " ", text)  # its beginning is outside of this recording
    text = _CURLY.sub(_curly, text).replace("[", " ").replace("]", " ")
    return _words(_nested(text, keep=True)), _words(_nested(text, keep=False))


def _curly(match: re.Match[str]) -> str:
    kind, colon, words = match[1].rpartition(":")
    kind = kind.strip().lower()
    if kind == "w":
        number = re.search(r"\d+", words)
        return " " + " ".join([_UNKNOWN] * int(number[0] if number else 0)) + " "
    if kind == "u" or not match[1].strip():
        return f" {_UNKNOWN} "
    return f" {words if colon else match[1]} "


def _nested(text: str, keep: bool) -> str:
    """Resolve round brackets from the innermost outwards."""

    def resolve(match: re.Match[str]) -> str:
        _, colon, words = match[1].rpartition(":")
        if colon:
            return f" {words} "
        # (f-*)Find: what is broken off stands before the word, not in it.
        return f" {match[1]} " if keep else " "

    before = None
    while before != text:
        before, text = text, _ROUND.sub(resolve, text)
    return text.replace(")", " ")


def _words(text: str) -> str:
    plain = re.sub(r"[~*]", "", text)
    return re.sub(r"\s+([.,?!;:])", r"\1", " ".join(plain.split())).strip()
