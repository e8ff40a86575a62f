"""Manifests to `datasets.Dataset` and to lhotse, which writes those of other programs.

Paths go out absolute. What the other side has no place for (cohort, severity, split ...) is kept
beside: in columns, in ``custom`` of a lhotse supervision.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperasr.audio.container import UNKNOWN_LENGTH, open_recording
from hyperasr.errors import AudioError, ManifestError
from hyperasr.types import Utterance
from hyperasr.util.files import atomic_folder

if TYPE_CHECKING:
    from datasets import Dataset

_NAMES = tuple(field.name for field in dataclasses.fields(Utterance))
_NUMBERS = ("start_s", "end_s", "severity")
# Fields that a lhotse supervision has itself; the others go to `custom`.
_OF_LHOTSE = ("id", "path", "text", "speaker", "language", "start_s", "end_s")
_SHORTEST_S = 0.001  # Kaldi's times are written in milliseconds


def to_dataset(rows: Iterable[Utterance]) -> Dataset:
    """Return the rows as a dataset in memory: one column a field, and the column ``audio``.

    ``audio`` refers to the files. It has the feature ``Audio(decode=False)``: items are ``{"path",
    "bytes"}``, for `hyperasr.audio.reading` to decode; decoding by `datasets` itself needs
    torchcodec. ``extra`` is JSON.

    Raises:
        ManifestError: no rows.
    """
    from datasets import Audio, Dataset, Features, Value

    rows = _within(rows)
    if not rows:
        raise ManifestError("there is nothing to convert: the manifest has no rows")
    # An `Audio` feature from the start would encode, which needs torchcodec: cast afterwards.
    kinds = {name: Value("float64" if name in _NUMBERS else "string") for name in _NAMES}
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in _NAMES}
    columns["extra"] = [None if extra is None else _json(extra) for extra in columns["extra"]]
    columns["audio"] = [os.path.abspath(row.path) for row in rows]
    features = Features({**kinds, "audio": Value("string")})
    dataset = Dataset.from_dict(columns, features=features)
    return dataset.cast_column("audio", Audio(decode=False))


def to_lhotse(rows: Iterable[Utterance], folder: str | os.PathLike[str]) -> Path:
    """Write ``recordings.jsonl`` and ``supervisions.jsonl`` for lhotse, without needing lhotse.

    Every recording's header is read, for lhotse wants lengths. Recordings are called by their
    first utterance.

    Returns:
        The folder.
    Raises:
        ManifestError: a recording that cannot be read, or whose length its header does not tell.
        ConfigError: the folder cannot be written.
    """
    recordings: dict[str, dict[str, Any]] = {}
    supervisions = []
    for number, row in enumerate(_within(rows), start=1):
        path = os.path.abspath(row.path)
        if path not in recordings:
            n_frames, rate, n_channels = _header(number, row)
            if n_frames >= UNKNOWN_LENGTH:
                raise ManifestError(
                    f"{_named(number, row)}: the header of {path} tells no length; convert it to "
                    "WAV"
                )
            channels = list(range(n_channels))
            recordings[path] = {
                "id": row.id,
                "sources": [{"type": "file", "channels": channels, "source": path}],
                "sampling_rate": rate,
                "num_samples": n_frames,
                "duration": n_frames / rate,
                "channel_ids": channels,
            }
        recording = recordings[path]
        end_s = recording["duration"] if row.end_s is None else row.end_s
        custom = {k: v for k, v in row.to_dict().items() if k not in _OF_LHOTSE and v is not None}
        values = {
            "id": row.id,
            "recording_id": recording["id"],
            "start": row.start_s,
            "duration": round(end_s - row.start_s, 8),
            "channel": row.channel or 0,
            "text": row.text,
            "language": row.language,
            "speaker": row.speaker,
            "custom": custom,
        }
        supervisions.append({k: v for k, v in values.items() if v is not None})
    if not supervisions:
        raise ManifestError("there is nothing to write: the manifest has no rows")
    with atomic_folder(Path(folder), replaces=("supervisions.jsonl",)) as temporary:
        for name, lines in (("recordings", recordings.values()), ("supervisions", supervisions)):
            text = "".join(f"{_json(line)}\n" for line in lines)
            (temporary / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return Path(folder)


def _named(number: int, row: Utterance) -> str:
    return f"row {number} ({row.id!r})"


def _within(rows: Iterable[Utterance]) -> list[Utterance]:
    """Return the rows with ends past the end of their recording as "to its end" (None).

    Raises:
        ManifestError: a part that begins past the end or is shorter than a millisecond, or whose
            recording cannot be read.
    """
    lengths: dict[str, float] = {}
    within = []
    for number, row in enumerate(rows, start=1):
        if row.start_s > 0 or row.end_s is not None:
            if row.path not in lengths:
                n_frames, rate, _ = _header(number, row)
                lengths[row.path] = n_frames / rate
            length = lengths[row.path]
            if row.end_s is not None and row.end_s > length:
                row = dataclasses.replace(row, end_s=None)
            end_s = length if row.end_s is None else row.end_s
            if end_s - row.start_s < _SHORTEST_S:
                raise ManifestError(
                    f"{_named(number, row)} is from {row.start_s:g} s to {end_s:g} s, but "
                    f"{row.path} lasts {length:g} s: nothing can be heard there; leave it out"
                )
        within.append(row)
    return within


def _header(number: int, row: Utterance) -> tuple[int, int, int]:
    """Return frames (many where the header tells no length), sample rate and channels."""
    try:
        with open_recording(row.path) as file:
            return file.frames, file.samplerate, file.channels
    except AudioError as error:
        raise ManifestError(f"{_named(number, row)}: {error}") from error


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
