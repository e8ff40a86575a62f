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

from hyperasr.audio.container import open_recording
from hyperasr.errors import AudioError, ManifestError
from hyperasr.types import Utterance
from hyperasr.util.files import atomic_folder

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["to_dataset", "to_lhotse"]

_NAMES = tuple(field.name for field in dataclasses.fields(Utterance))
_NUMBERS = ("start_s", "end_s", "severity")
# Fields that a lhotse supervision has itself; the others go to `custom`.
_OF_LHOTSE = ("id", "path", "text", "speaker", "language", "start_s", "end_s")
_UNKNOWN_FRAMES = 2**62


def to_dataset(rows: Iterable[Utterance]) -> Dataset:
    """Return the rows as a dataset in memory: one column a field, and the column ``audio``.

    ``audio`` refers to the files. It has the feature ``Audio(decode=False)``: items are ``{"path",
    "bytes"}``, for `hyperasr.audio.reading` to decode; decoding by `datasets` itself needs
    torchcodec. ``extra`` is JSON.

    Raises:
        ManifestError: no rows.
    """
    from datasets import Audio, Dataset, Features, Value

    rows = list(rows)
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
    for row in rows:
        path = os.path.abspath(row.path)
        if path not in recordings:
            recordings[path] = _lhotse_recording(path, row.id)
        recording = recordings[path]
        end_s = recording["duration"] if row.end_s is None else row.end_s
        custom = {k: v for k, v in row.to_dict().items() if k not in _OF_LHOTSE and v is not None}
        values = {
            "id": row.id,
            "recording_id": recording["id"],
            "start": row.start_s,
            "duration": round(min(end_s, recording["duration"]) - row.start_s, 8),
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
        _write_lines(temporary / "recordings.jsonl", map(_json, recordings.values()))
        _write_lines(temporary / "supervisions.jsonl", map(_json, supervisions))
    return Path(folder)


def _lhotse_recording(path: str, name: str) -> dict[str, Any]:
    try:
        with open_recording(path) as file:
            n_frames, rate, n_channels = file.frames, file.samplerate, file.channels
    except AudioError as error:
        raise ManifestError(f"row {name!r}: {error}") from error
    if n_frames >= _UNKNOWN_FRAMES:
        raise ManifestError(
            f"row {name!r}: the header of {path} tells no length; convert it to WAV"
        )
    channels = list(range(n_channels))
    return {
        "id": name,
        "sources": [{"type": "file", "channels": channels, "source": path}],
        "sampling_rate": rate,
        "num_samples": n_frames,
        "duration": n_frames / rate,
        "channel_ids": channels,
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
