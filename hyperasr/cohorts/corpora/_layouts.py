"""What the readers of generic layouts share: defaults, paths, and speakers from folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperasr.cohorts.corpora import base
from hyperasr.types import Utterance

__all__ = ["Defaults", "inside"]

SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}
# Folders that name no speaker.
_PLAIN_FOLDERS = {"wav", "wavs", "audio", "clips", "data", "recordings", *SPLITS}


@dataclass(frozen=True)
class Defaults:
    """What a row has where the corpus does not tell.

    Attributes:
        root: folder of the corpus; audio_root: folder that no recording may lie outside of.
        speaker: None takes the folder's name.
        untranscribed: keep recordings without text.
        cohort, language, etiology, split: as in `Utterance`; split None takes the folder's.
    """

    root: Path
    audio_root: Path
    speaker: str | None = None
    cohort: str = "typical"
    language: str = "en"
    etiology: str | None = None
    split: str | None = None
    untranscribed: bool = False

    def row(
        self, path: Path, name: str, text: str | None, report: base.Report, **known: Any
    ) -> Any:
        """Return an `Utterance`, or None with the reason counted; `known` wins over defaults."""
        if not (text and text.strip()):
            if not self.untranscribed:
                report.skip("no transcript (option untranscribed)", name)
                return None
            text = None
        extra = {"text_source": "none" if text is None else "human", **known.pop("extra", {})}
        values: dict[str, Any] = {
            "speaker": self.speaker or self.speaker_of(path),
            "cohort": self.cohort,
            "language": self.language,
            "etiology": self.etiology,
            "split": self.split or self.split_of(path),
            "source": "generic",
        }
        values |= {key: value for key, value in known.items() if value not in (None, "")}
        if values["speaker"] == "unknown":
            report.note("a recording whose speaker nothing tells (option speaker)")
        return Utterance(id=name, path=str(path), text=text, extra=extra, **values)

    def folders(self, path: Path) -> tuple[str, ...]:
        """Return the folders of a file below the root."""
        return self._below(path).parts[:-1]

    def speaker_of(self, path: Path) -> str:
        """Return the first folder below the root that may be a speaker's, else ``unknown``."""
        names = (name for name in self.folders(path) if name.lower() not in _PLAIN_FOLDERS)
        return next(names, "unknown")

    def split_of(self, path: Path) -> str:
        """Return the split that a folder names, else none."""
        names = (SPLITS[n.lower()] for n in self.folders(path) if n.lower() in SPLITS)
        return next(names, base.NO_SPLIT)

    def name_of(self, path: Path) -> str:
        """Return an id: the file below the root, without suffix, blanks as underscores."""
        return self._below(path).with_suffix("").as_posix().replace(" ", "_")

    def _below(self, path: Path) -> Path:
        return path.relative_to(self.root if path.is_relative_to(self.root) else self.audio_root)


def inside(defaults: Defaults, listed: str, report: base.Report, below: Path) -> Path | None:
    """Return a listed recording, or None with the reason counted.

    Unlike the lists of published corpora, those of one's own may hold absolute paths, as long as
    these lie below the audio root too.
    """
    top = defaults.audio_root
    absolute = os.path.normpath(listed.strip()) if os.path.isabs(listed.strip()) else ""
    if absolute and Path(absolute).is_relative_to(top):
        listed = os.path.relpath(absolute, top)
        below = top
    return base.listed_path(top, listed, report, below=below if below.is_relative_to(top) else top)
