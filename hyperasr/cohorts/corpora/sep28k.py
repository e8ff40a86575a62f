"""SEP-28k and SEP-28k-Extended: three-second clips of podcasts with labels of stuttering."""

from __future__ import annotations

from pathlib import Path

from hyperasr.cohorts.corpora import base
from hyperasr.errors import ConfigError
from hyperasr.types import Utterance

LABELS = (
    *("Unsure", "PoorAudioQuality", "Prolongation", "Block", "SoundRep", "WordRep"),
    *("DifficultToUnderstand", "Interjection", "NoStutteredWords"),
    *("NaturalPause", "Music", "NoSpeech"),
)
"""Labels of a clip, each a count of three annotators, 0 to 3."""

_EXTENDED = "SEP-28k-Extended_clips.csv"
_TABLES = ("SEP-28k_labels.csv", "fluencybank_labels.csv")
_SPLITS = ("SEP28k-E", "SEP28k-T", "SEP28k-D", "SEP12k")
_NEEDED = ("Show", "EpId", "ClipId", "Start", "Stop", *LABELS)
_RATE_HZ = 16_000

ABOUT = base.describe("sep28k")


def prepare(root: base.AnyPath, *, split_column: str = "SEP28k-E", salt: str = "") -> base.Prepared:
    """Read the clips that the tables below `root` list; no row has a text.

    Clips are taken from ``CLIPS/Show/EpId/Show_EpId_ClipId.wav`` (or all in one folder), else cut
    by their times out of ``WAVS/Show/EpId.wav``. ``extra`` holds the twelve labels. With the
    extended table the speaker is that of its clusters, hashed because hosts stand there by name,
    and a split is one of its four; without it an episode counts as a speaker, ``extra["group"]``
    is the podcast (whose hosts come back), and there is no split.

    Args:
        root: folder with the tables and the audio.
        split_column: of the extended table: SEP28k-E, SEP28k-T, SEP28k-D or SEP12k.
        salt: secret that goes into the hash of speakers' names.
    Raises:
        ConfigError: no such folder or column.
    """
    if split_column not in _SPLITS:
        raise ConfigError(f"split_column is {split_column!r}; known are {', '.join(_SPLITS)}")
    return base.Prepared(ABOUT, root, _rows, split_column=split_column, salt=salt)


def _rows(root: Path, report: base.Report, split_column: str, salt: str) -> base.Rows:
    extended = base.find_named(root, _EXTENDED, report)[:1]
    tables = [path for name in _TABLES for path in base.find_named(root, name, report)[:1]]
    if extended:
        if not salt:
            report.note("names of speakers are hashed without a secret salt; give one")
        if any(path.name.lower() == _TABLES[0].lower() for path in tables):
            report.note(f"{_TABLES[0]} is left aside for {_EXTENDED}, which has the same clips")
        tables = [path for path in tables if path.name.lower() != _TABLES[0].lower()]
    audio = _Audio(root, report)
    for path in extended + tables:
        for row in base.read_table(path, report):
            if missing := next((name for name in _NEEDED if name not in row), None):
                report.skip(f"a table has no column {missing}", path.name)
                break
            utterance = _row(row, audio, report, split_column, salt)
            if utterance is not None:
                yield utterance


def _row(
    row: dict[str, str], audio: _Audio, report: base.Report, split_column: str, salt: str
) -> Utterance | None:
    show, episode, clip = row["Show"], row["EpId"], row["ClipId"]
    name = f"{show}_{episode}_{clip}"
    try:
        start, stop = int(row["Start"]), int(row["Stop"])
        if not 0 <= start < stop or any(not 0 <= int(row[label]) <= 3 for label in LABELS):
            raise ValueError
    except ValueError:
        report.skip("a row's times or labels are out of range", name)
        return None
    path, is_clip = audio.find(show, episode, name)
    if path is None:
        return None
    extra = {label: row[label] for label in LABELS}
    extra |= {"text_source": "none", "session": f"{show}/{episode}"}
    if named := row.get("speaker"):
        speaker = base.pseudonym(named, salt)
        extra["is_host"] = row.get("is_probably_host", "").lower()
    else:
        speaker, extra["group"] = f"{show}/{episode}", show
    return ABOUT.row(
        id=f"sep28k/{show}/{episode}/{clip}",
        path=path,
        speaker=speaker,
        start_s=0.0 if is_clip else start / _RATE_HZ,
        end_s=None if is_clip else stop / _RATE_HZ,
        split=row.get(split_column) or base.NO_SPLIT,
        extra=extra,
    )


class _Audio:
    """Where the clips lie; the place that served last is tried first."""

    def __init__(self, root: Path, report: base.Report) -> None:
        self.root, self.report = root, report
        clips = [p for p in base.find_named(root, "CLIPS", report) if p.is_dir()]
        episodes = [p for p in base.find_named(root, "WAVS", report) if p.is_dir()]
        # SpeechBrain's archive and others hold all clips in one folder.
        flat = [p for p in base.find_named(root, "SEP28k-data", report) if p.is_dir()]
        self.places = [(p, "{show}/{episode}/{name}.wav", True) for p in [*clips, root]]
        self.places += [(p, "{name}.wav", True) for p in [*clips, *flat, root]]
        self.places += [(p, "{show}/{episode}.wav", False) for p in [*episodes, root]]

    def find(self, show: str, episode: str, name: str) -> tuple[Path | None, bool]:
        """Return the recording and whether it is the clip alone; None with a reason counted."""
        for number, (below, pattern, is_clip) in enumerate(self.places):
            listed = pattern.format(show=show, episode=episode, name=name)
            path = base.listed_path(self.root, listed, self.report, below=below)
            if path is None:
                return None, False
            if path.is_file():
                self.places.insert(0, self.places.pop(number))
                return path, is_clip
        self.report.skip("the recording is listed but absent", name)
        return None, False
