"""UA-Speech: isolated words by people with cerebral palsy and controls, seven microphones."""

from __future__ import annotations

import re
from pathlib import Path

from hyperasr.cohorts.corpora import base
from hyperasr.cohorts.corpora._sheets import Sheet, read_sheets
from hyperasr.errors import ConfigError, HyperASRError

_NAME = re.compile(r"(C?[FM]\d{2})_B(\d)_(CW\d+|UW\d+|C\d+|D\d|L[A-Z])_M(\d)\.wav", re.IGNORECASE)
_VERSIONS = ("original", "normalized", "noisereduced")  # folders of the new release
_KINDS = {"D": "digit", "L": "letter", "C": "command", "CW": "common word", "UW": "uncommon word"}
_TEST_BLOCK = "2"

ABOUT = base.describe("ua_speech")


def prepare(root: base.AnyPath, *, version: str = "", mics: str = "") -> base.Prepared:
    """Read UA-Speech below `root`, the old or the new release.

    Words come from ``mlf/SPEAKER/SPEAKER_word.mlf`` or, where a speaker has none, from
    ``speaker_wordlist.xls`` (``.xlsx``). Blocks 1 and 3 are for training, block 2 is the test.
    The recordings of a word by the seven microphones share ``extra["group"]``. Severity is
    1 - intelligibility, where the word list has it.

    Args:
        root: the unpacked corpus.
        version: of the new release: ``original``, ``normalized`` or ``noisereduced``; empty means
            the first of these that is there.
        mics: such as ``M5`` or ``M2,M5``; empty means all.
    Raises:
        ConfigError: no such folder, version or microphone.
    """
    if version and version.lower() not in _VERSIONS:
        raise ConfigError(f"version is {version!r}; it must be one of {', '.join(_VERSIONS)}")
    wanted = {mic.strip().upper().removeprefix("M") for mic in mics.split(",") if mic.strip()}
    if not wanted <= set("12345678"):
        raise ConfigError(f"mics is {mics!r}; expected such as M5 or M2,M5, of M1 to M8")
    return base.Prepared(ABOUT, root, _rows, version=version.lower(), mics=wanted)


def read_mlf(text: str) -> dict[str, str]:
    """Return the words of an HTK master label file by utterance (``F02_B1_C1_M2``)."""
    words: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.split("\n"):
        line = line.strip()
        if line.startswith('"'):
            name = line.strip('"').replace("\\", "/").rpartition("/")[2]
            current = words.setdefault(name.rpartition(".")[0].upper() or name.upper(), [])
        elif line and line != "." and not line.startswith("#!"):
            fields = line.split()
            timed = len(fields) >= 3 and fields[0].isdigit() and fields[1].isdigit()
            current.append(fields[2] if timed else fields[0])
    return {name: _clean(" ".join(parts)) for name, parts in words.items()}


def _rows(root: Path, report: base.Report, version: str, mics: set[str]) -> base.Rows:
    labels = _Labels(root, report)
    version = version or next((v for v in _VERSIONS if _has_folder(root, v, report)), "")
    for path in base.walk(root, report, (".wav",)):
        named = _NAME.fullmatch(path.name)
        if named is None:
            report.skip("the name is not SPEAKER_BLOCK_WORD_MICROPHONE", path)
            continue
        folders = (root.name, *path.relative_to(root).parts[:-1])
        own_version = next((p.lower() for p in folders[::-1] if p.lower() in _VERSIONS), "")
        if own_version != version:
            report.note(f"another version of the recordings ({own_version or 'none'}) is left")
            continue
        speaker, block, word, mic = (group.upper() for group in named.groups())
        if mics and mic not in mics:
            continue
        text = labels.text(speaker, block, word, mic)
        if text is None:
            report.skip("neither an MLF nor the word list has the word", path)
            continue
        percent, diagnosis = labels.people.get(speaker, (None, ""))
        extra = {
            "text_source": "prompt",
            "group": f"{speaker}/B{block}/{word}",
            "session": f"B{block}",
            "mic": f"M{mic}",
            "gender": speaker.lstrip("C")[0].lower(),
            "task": _KINDS[re.sub(r"\d", "", word) if word[0] != "L" else "L"],
            "intelligibility_pct": "" if percent is None else str(percent),
        }
        yield ABOUT.row(
            id=f"ua_speech/{speaker}/B{block}/{word}/M{mic}",
            path=path,
            text=text,
            speaker=speaker,
            typical=speaker.startswith("C"),
            etiology=diagnosis or "cerebral palsy",
            severity=None if percent is None else round(1 - percent / 100, 4),
            split="test" if block == _TEST_BLOCK else "train",
            extra=extra,
        )


class _Labels:
    """What the lists say of words and speakers; an MLF is held for one speaker at a time."""

    def __init__(self, root: Path, report: base.Report) -> None:
        self.root, self.report = root, report
        self.mlf_folders = [p for p in base.find_named(root, "mlf", report) if p.is_dir()]
        self.keys: dict[str, str] = {}
        self.people: dict[str, tuple[int | None, str]] = {}
        for name in ("speaker_wordlist.xls", "speaker_wordlist.xlsx"):
            for path in base.find_named(root, name, report)[:1]:
                try:
                    sheets = list(read_sheets(path).values())
                except HyperASRError as error:
                    if not self.mlf_folders:
                        raise
                    report.note(f"no severity: {error}")
                    continue
                self.people |= _people(sheets[0])
                self.keys |= _word_keys(sheets[1]) if len(sheets) > 1 else {}
        self.speaker = ""
        self.labels: dict[str, str] = {}

    def text(self, speaker: str, block: str, word: str, mic: str) -> str | None:
        if speaker != self.speaker:  # the walk goes speaker by speaker
            self.speaker, self.labels = speaker, self._labels(speaker)
        name = f"{speaker}_B{block}_{word}"  # the word does not depend on the microphone
        label = self.labels.get(f"{name}_M{mic}") or self.labels.get(name)
        return label or self.keys.get(f"B{block}_{word}" if word.startswith("UW") else word) or None

    def _labels(self, speaker: str) -> dict[str, str]:
        labels: dict[str, str] = {}
        for folder in self.mlf_folders:
            for path in base.find_named(
                folder, f"{speaker}_word.mlf", self.report, depth=2, within=self.root
            ):
                labels |= read_mlf(base.read_text(path, self.report) or "")
        return labels | {name.rpartition("_")[0]: word for name, word in labels.items()}


def _has_folder(root: Path, name: str, report: base.Report) -> bool:
    folders = base.find_named(root, name, report, depth=3)
    return root.name.lower() == name or any(p.is_dir() for p in folders)


def _people(sheet: Sheet) -> dict[str, tuple[int | None, str]]:
    """Return intelligibility in percent and diagnosis by speaker.

    The intelligibility, such as ``Very low (15%)``, may go on in the cell below.
    """
    cells: dict[str, str] = {}
    diagnoses: dict[str, str] = {}
    speaker = ""
    for row in sheet:
        name, _, intelligibility, diagnosis, *_ = [*row, "", "", "", ""]
        if name:
            speaker = name.strip().upper()
            diagnoses[speaker] = diagnosis
        cells[speaker] = f"{cells.get(speaker, '')} {intelligibility}"
    people: dict[str, tuple[int | None, str]] = {}
    for speaker, text in cells.items():
        if re.fullmatch(r"C?[FM]\d{2}", speaker):
            percent = re.search(r"(\d{1,3})\s*%", text)
            people[speaker] = (int(percent[1]) if percent else None, diagnoses.get(speaker, ""))
    return people


def _word_keys(sheet: Sheet) -> dict[str, str]:
    """Return words by key: ``C1``, ``D0``, ``LA``, ``CW7``, but ``B1_UW7``."""
    return {row[1].strip().upper(): _clean(row[0]) for row in sheet if len(row) > 1 and row[1]}


def _clean(word: str) -> str:
    return word.strip().upper().rstrip(".")
