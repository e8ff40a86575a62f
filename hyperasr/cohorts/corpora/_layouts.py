"""What the readers of generic layouts share: defaults, paths, and speakers from folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperasr.cohorts.corpora import base
from hyperasr.types import Utterance

SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}
# Folders that name no speaker.
_PLAIN_FOLDERS = {"wav", "wavs", "audio", "clips", "data", "recordings", *SPLITS}


@dataclass(frozen=True)
class Defaults:
    """What a row has where the corpus does not tell.

    Attributes:
        root: folder of the corpus; audio_root: folder that no recording may lie outside of.
        speaker: None takes the first folder below the root that may be a speaker's.
        untranscribed: keep recordings without text.
        cohort, language, etiology, split: as in `Utterance`; split None takes the folder's.
    """

    root: Path
    audio_root: Path
    speaker: str | None
    cohort: str
    language: str
    etiology: str | None
    split: str | None
    untranscribed: bool

    def row(
        self, path: Path, name: str, text: str | None, report: base.Report, **known: Any
    ) -> base.Rows:
        """Yield an `Utterance`, or none with the reason counted; `known` wins over defaults."""
        if not (text and text.strip()):
            if not self.untranscribed:
                report.skip("no transcript (option untranscribed)", name)
                return
            text = None
        folders = self._below(path).parts[:-1]
        people = (folder for folder in folders if folder.lower() not in _PLAIN_FOLDERS)
        splits = (SPLITS[folder.lower()] for folder in folders if folder.lower() in SPLITS)
        extra = {"text_source": "none" if text is None else "human", **known.pop("extra", {})}
        values: dict[str, Any] = {
            "speaker": self.speaker or next(people, "unknown"),
            "cohort": self.cohort,
            "language": self.language,
            "etiology": self.etiology,
            "split": self.split or next(splits, base.NO_SPLIT),
            "source": "generic",
        }
        values |= {key: value for key, value in known.items() if value not in (None, "")}
        if values["speaker"] == "unknown":
            report.note("a recording whose speaker nothing tells (option speaker)")
        yield Utterance(id=name, path=str(path), text=text, extra=extra, **values)

    def name_of(self, path: Path) -> str:
        """Return an id: the file below the root, without suffix, blanks as underscores."""
        return self._below(path).with_suffix("").as_posix().replace(" ", "_")

    def inside(self, listed: str, report: base.Report, below: Path) -> Path | None:
        """Return a listed recording, or None with the reason counted.

        Unlike the lists of published corpora, those of one's own may hold absolute paths, as long
        as these lie below the audio root too.
        """
        top = self.audio_root
        absolute = os.path.normpath(listed.strip()) if os.path.isabs(listed.strip()) else ""
        if absolute and Path(absolute).is_relative_to(top):
            listed, below = os.path.relpath(absolute, top), top
        if not below.is_relative_to(top):
            below = top
        return base.listed_path(top, listed, report, below=below)

    def _below(self, path: Path) -> Path:
        return path.relative_to(self.root if path.is_relative_to(self.root) else self.audio_root)
