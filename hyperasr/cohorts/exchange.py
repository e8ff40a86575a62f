"""Manifests to and from `datasets.Dataset`, lhotse and Kaldi.

Paths go out absolute. What the other side has no place for (cohort, severity, split ...) is kept
beside: in columns, in ``custom`` of a lhotse supervision, in ``utt2cohort`` and ``utt2lang``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperasr.cohorts.manifest import check_row
from hyperasr.container import open_recording
from hyperasr.errors import AudioError, ManifestError
from hyperasr.files import atomic_folder, atomic_write_bytes
from hyperasr.types import Utterance

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["from_dataset", "from_lhotse", "to_dataset", "to_kaldi", "to_lhotse"]

AUDIO_COLUMN = "audio"

_NAMES = tuple(field.name for field in dataclasses.fields(Utterance))
_NUMBERS = ("start_s", "end_s", "severity")
# Fields that a lhotse supervision has itself; the others go to `custom`.
_OF_LHOTSE = ("id", "path", "text", "speaker", "language", "start_s", "end_s", "extra")
_UNKNOWN_FRAMES = 2**62
_SUFFIX_OF = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"NIST": ".sph"}
_DECODERS = {
    ".flac": "flac -c -d -s {} |",
    ".sph": "sph2pipe -f wav -p{} {} |",
    ".wav": "{}",
}
KALDI_FILES = ("wav.scp", "utt2spk")


def to_dataset(rows: Iterable[Utterance], *, audio: str = "path") -> Dataset:
    """Return the rows as a dataset in memory: one column a field, and the column ``audio``.

    ``audio`` has the feature ``Audio(decode=False)``: items are ``{"path", "bytes"}``, for
    `hyperasr.audio` to decode; decoding by `datasets` itself needs torchcodec. ``extra`` is JSON.

    Args:
        rows: of a manifest.
        audio: ``path`` refers to the files; ``bytes`` copies them in, once a row: rows that are
            parts of one long recording each carry the whole of it.
    Raises:
        ManifestError: no rows, another `audio`, or a file that cannot be read.
    """
    from datasets import Audio, Dataset, Features, Value

    if audio not in ("path", "bytes"):
        raise ManifestError(f"audio is {audio!r}; it must be path or bytes")
    rows = list(rows)
    if not rows:
        raise ManifestError("there is nothing to convert: the manifest has no rows")
    # An `Audio` feature from the start would encode, which needs torchcodec: cast afterwards.
    kinds = {name: Value("float64" if name in _NUMBERS else "string") for name in _NAMES}
    stored = Value("string") if audio == "path" else Value("binary")
    features = Features({**kinds, AUDIO_COLUMN: stored})
    columns: dict[str, list[Any]] = {name: [] for name in features}
    for row in rows:
        for name, value in row.to_dict().items():
            columns[name].append(_json(value) if name == "extra" else value)
        columns[AUDIO_COLUMN].append(
            os.path.abspath(row.path) if audio == "path" else _content(row.path)
        )
    dataset = Dataset.from_dict(columns, features=features)
    return dataset.cast_column(AUDIO_COLUMN, Audio(decode=False))


def from_dataset(
    dataset: Dataset,
    folder: str | os.PathLike[str] | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Iterator[Utterance]:
    """Yield the rows of a dataset that has an audio column or paths.

    Args:
        dataset: with `to_dataset`'s columns, or others; other columns are left out.
        folder: where recordings are written that the dataset holds as bytes: files named by their
            content, so that a second time writes nothing. None refuses them.
        columns: the dataset's column for a field where it is called otherwise, such as
            ``{"text": "sentence"}``.
        defaults: values of fields that the dataset has no column for, such as the cohort.
    Raises:
        ManifestError: a row that is no valid row of a manifest (number, field, reason), bytes
            without a folder, or decoded audio.
    """
    from datasets import Audio

    names = {name: (columns or {}).get(name, name) for name in (*_NAMES, AUDIO_COLUMN)}
    missing = sorted(set(columns or {}) - set(names)) or sorted(
        {n for n in (columns or {}).values() if n not in dataset.column_names}
    )
    if missing:
        raise ManifestError(
            f"columns: there is no {missing[0]!r}; the dataset has {sorted(dataset.column_names)}"
        )
    sound = names[AUDIO_COLUMN]
    if isinstance(dataset.features.get(sound), Audio):
        dataset = dataset.cast_column(sound, Audio(decode=False))
    for number, item in enumerate(dataset):
        where = f"dataset, row {number}"
        values = dict(defaults or {})
        values |= {f: item[c] for f, c in names.items() if f in _NAMES and item.get(c) is not None}
        if isinstance(values.get("extra"), str):
            values["extra"] = json.loads(values["extra"])
        path = _recording(item.get(sound), values.get("path"), folder, where)
        values |= {"path": path, "id": values.get("id") or f"{number:08d}"}
        yield check_row(values, where, Path())


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
        custom = {
            name: value
            for name, value in row.to_dict().items()
            if name not in _OF_LHOTSE and value is not None
        }
        channel = int((row.extra or {}).get("channel", "0"))
        values = {
            "id": row.id,
            "recording_id": recording["id"],
            "start": row.start_s,
            "duration": round(min(end_s, recording["duration"]) - row.start_s, 8),
            "channel": channel,
            "text": row.text,
            "language": row.language,
            "speaker": row.speaker,
            "custom": custom | ({"extra": row.extra} if row.extra else {}),
        }
        supervisions.append({k: v for k, v in values.items() if v is not None})
    if not supervisions:
        raise ManifestError("there is nothing to write: the manifest has no rows")
    with atomic_folder(Path(folder), replaces=("supervisions.jsonl",)) as temporary:
        _write_lines(temporary / "recordings.jsonl", map(_json, recordings.values()))
        _write_lines(temporary / "supervisions.jsonl", map(_json, supervisions))
    return Path(folder)


def from_lhotse(folder: str | os.PathLike[str]) -> Iterator[Utterance]:
    """Yield the rows of ``recordings.jsonl`` and ``supervisions.jsonl``, as lhotse writes them.

    Raises:
        ManifestError: a file, a line or a field that cannot be used.
    """
    folder = Path(folder)
    recordings = {}
    for where, values in _read_lines(folder / "recordings.jsonl"):
        sources = values.get("sources") or [{}]
        if len(sources) != 1 or sources[0].get("type") != "file":
            raise ManifestError(f"{where}: only recordings of one file are read")
        recordings[values.get("id")] = sources[0].get("source")
    for where, values in _read_lines(folder / "supervisions.jsonl"):
        source = recordings.get(values.get("recording_id"))
        if source is None:
            raise ManifestError(f"{where}: there is no recording {values.get('recording_id')!r}")
        custom = {k: v for k, v in (values.get("custom") or {}).items() if k in _NAMES}
        start_s = values.get("start", 0.0)
        channel = values.get("channel", 0)
        if channel not in (0, [0]):
            first = channel[0] if isinstance(channel, list) else channel
            custom["extra"] = {**(custom.get("extra") or {}), "channel": str(first)}
        row = {
            **custom,
            "id": values.get("id"),
            "path": source,
            "text": values.get("text"),
            "start_s": start_s,
            "end_s": round(start_s + values.get("duration", 0.0), 8),
        }
        row |= {k: values[k] for k in ("speaker", "language") if values.get(k) is not None}
        yield check_row(row, where, folder)


def to_kaldi(rows: Iterable[Utterance], folder: str | os.PathLike[str]) -> Path:
    """Write a Kaldi folder: wav.scp, segments, utt2spk, spk2utt, text, utt2lang, utt2cohort.

    Utterances are called SPEAKER-ID (unless the id begins so already), as Kaldi's sorting wants,
    with another joint where hyphens in speakers' names would disturb it; blanks in names become
    underscores. WAV files stand as they are, others with the usual command that decodes them.
    `segments` is left out where every row is a whole recording.

    Returns:
        The folder.
    Raises:
        ManifestError: no rows; some rows with text and some without; names that meet.
        ConfigError: the folder cannot be written.
    """
    rows = list(rows)
    if not rows:
        raise ManifestError("there is nothing to write: the manifest has no rows")
    untold = next((row for row in rows if not (row.text or "").strip()), None)
    told = any((row.text or "").strip() for row in rows)
    if untold is not None and told:
        raise ManifestError(
            f"row {untold.id!r} has no text and others have; Kaldi wants all or none: leave it out"
        )
    cut = any(row.start_s > 0 or row.end_s is not None for row in rows)
    files: dict[str, dict[str, str]] = {
        name: {} for name in ("utt2spk", "utt2lang", "utt2cohort", "text", "wav.scp", "segments")
    }
    names: dict[tuple[str, str], str] = {}
    for row, name in zip(rows, _kaldi_names(rows), strict=True):
        if name in files["utt2spk"]:
            raise ManifestError(f"two rows are called {name!r} in Kaldi; give them other ids")
        files["utt2spk"][name] = _kaldi_name(row.speaker)
        files["utt2lang"][name] = row.language
        files["utt2cohort"][name] = row.cohort
        if told:
            files["text"][name] = " ".join((row.text or "").split())
        channel = (row.extra or {}).get("channel", "")
        key = (os.path.abspath(row.path), channel)
        recording = names.setdefault(key, name) if cut else name
        files["wav.scp"][recording] = _kaldi_source(*key)
        if cut:
            end = -1 if row.end_s is None else row.end_s
            files["segments"][name] = f"{recording} {row.start_s:.3f} {end:.3f}"
    _write_kaldi(folder, files)
    return Path(folder)


def _write_kaldi(folder: str | os.PathLike[str], files: dict[str, dict[str, str]]) -> None:
    utterances: dict[str, list[str]] = {}
    for name, speaker in files["utt2spk"].items():
        utterances.setdefault(speaker, []).append(name)
    spk2utt = {speaker: " ".join(_sorted(names)) for speaker, names in utterances.items()}
    with atomic_folder(Path(folder), replaces=KALDI_FILES) as temporary:
        for name, pairs in {**files, "spk2utt": spk2utt}.items():
            if pairs:
                lines = (f"{key} {pairs[key]}" for key in _sorted(pairs))
                _write_lines(temporary / name, lines)


def _sorted(names: Iterable[str]) -> list[str]:
    """Sort as LC_ALL=C does, which Kaldi insists on."""
    return sorted(names, key=lambda name: name.encode())


def _kaldi_name(name: str) -> str:
    return "_".join(name.split()) or "unknown"


def _kaldi_names(rows: Sequence[Utterance]) -> list[str]:
    """Return names that sort by speaker and by utterance alike, which Kaldi insists on.

    A hyphen does, unless one speaker's name is the beginning of another's and a hyphen follows.
    """
    for joint in "-+!":
        pairs = []
        for row in rows:
            speaker, name = _kaldi_name(row.speaker), _kaldi_name(row.id)
            whole = name if name.startswith(f"{speaker}{joint}") else f"{speaker}{joint}{name}"
            pairs.append((speaker.encode(), whole.encode()))
        if sorted(pairs) == sorted(pairs, key=lambda pair: pair[1]):
            break
    return [name.decode() for _, name in pairs]


def _kaldi_source(path: str, channel: str) -> str:
    """Return what stands in wav.scp: a WAV file, or a command that makes one."""
    if "\n" in path:
        raise ManifestError(f"{path!r} has a line break in its name, which Kaldi cannot read")
    quoted = "'" + path.replace("'", "'\\''") + "'"
    suffix = Path(path).suffix.lower()
    if suffix == ".sph":
        side = f" -c {int(channel) + 1}" if channel else ""
        return _DECODERS[".sph"].format(side, quoted)
    if channel:
        return f"sox {quoted} -t wav - remix {int(channel) + 1} |"
    if suffix == ".wav":
        return path
    return _DECODERS.get(suffix, "sox {} -t wav - |").format(quoted)


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


def _recording(
    sound: Any, path: str | None, folder: str | os.PathLike[str] | None, where: str
) -> str:
    """Return the path of a row's recording, written to `folder` where there are only bytes."""
    if isinstance(sound, str):
        return sound
    if sound is None:
        return path or ""
    content = sound if isinstance(sound, bytes) else None
    if isinstance(sound, Mapping):
        content = sound.get("bytes")
        if content is None and sound.get("path"):
            return str(sound["path"])
    if content is None:
        raise ManifestError(
            f"{where}: audio that was decoded already; cast it to Audio(decode=False)"
        )
    if folder is None:
        raise ManifestError(
            f"{where}: the dataset holds the recording as bytes; give a folder for it"
        )
    suffix = _SUFFIX_OF.get(content[:4], ".mp3")
    target = Path(folder) / f"{hashlib.sha256(content).hexdigest()[:24]}{suffix}"
    if not target.exists():
        atomic_write_bytes(target, content)
    return os.path.abspath(target)


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror}") from error


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _write_lines(path: Path, lines: Iterable[str | None]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        lines: Sequence[str] = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                values = json.loads(line)
            except ValueError as error:
                raise ManifestError(f"{where}: not a JSON object ({error})") from error
            if not isinstance(values, dict):
                raise ManifestError(f"{where}: not a JSON object")
            yield where, values
