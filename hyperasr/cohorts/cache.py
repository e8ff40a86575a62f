"""Encoder states and speaker embeddings of a plan of views, computed once, memory-mapped.

The backbone is frozen, so the encoder runs once per view and not once per epoch. A cache is a
folder named by what is in it: the plan, the backbone's weights and the speaker encoder. It is
written in parts by several processes, so that an interrupted build goes on, and read back as one
`datasets.Dataset` that stays on disk. Every part carries its size, and the folder the backbone's
fingerprint: what is cut short or of another backbone is refused.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyperasr.audio.mel import CHUNK_S, HOP_LENGTH, N_SAMPLES, SAMPLE_RATE, TAIL_FRAMES
from hyperasr.audio.reading import duration_s
from hyperasr.cohorts.views import View, plan_key, render_view
from hyperasr.errors import AudioError, CheckpointMismatch, ConfigError, HyperASRError
from hyperasr.speaker.encoder import SpeakerConfig, speaker_encoder
from hyperasr.types import Batch, EncoderOutput
from hyperasr.util.config import to_dict
from hyperasr.util.files import alone_in, atomic_folder, atomic_write_text
from hyperasr.util.workers import WorkerPool
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.loading import checked_device

log = logging.getLogger(__name__)
# Views a part: a minute's work, so that little is lost on interruption. Goes with the layout.
_PART = 128
_EMBEDDINGS = 512  # read at a time
_BATCH = 16
_SORTED = 64  # views that are sorted by length together, so that little is padding
_HEAD = "cache.json"
_SUMS = "sums.json"
_LAYOUT = 3  # of the columns; a cache of another layout has another folder
_META = ("speaker", "person", "cohort", "domain", "severity", "text", "source", "id")


@dataclass(frozen=True)
class CacheConfig:
    """What a cache holds besides encoder states."""

    speaker: SpeakerConfig
    """Speaker encoder whose embeddings are stored."""
    keep_mel: bool = False
    """Store log-mel too, for encoder targets and trained speaker encoders."""


def cache_folder(
    root: Path, views: Sequence[View], backbone: Backbone, config: CacheConfig
) -> Path:
    """Return the folder of the cache with exactly this content."""
    parts = [plan_key(views), backbone.fingerprint(), json.dumps(to_dict(config), sort_keys=True)]
    parts.append(f"layout {_layout(backbone)}")
    return Path(root) / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def estimate_bytes(views: Sequence[View], backbone: Backbone, config: CacheConfig) -> int:
    """Estimate the size of a cache on disk from the recordings' headers.

    Simulated views count a third more than their recording, which is what their pauses and
    repetitions come to on average; the estimate is good to about a quarter.

    Raises:
        AudioError: a recording cannot be read.
    """
    lengths: dict[str, float] = {}
    total = 0.0
    for view in views:
        u = view.utterance
        if u.end_s is None and u.path not in lengths:
            lengths[u.path] = duration_s(u.path)
        end_s = lengths[u.path] if u.end_s is None else u.end_s
        view_s = (end_s - u.start_s) / view.speed * (1.33 if view.simulates else 1.0)
        whole = backbone.audio_context == "full"
        states = 1_500 if whole else 50 * (view_s + backbone.margin_s)
        total += states * backbone.d_model * 2
        total += 100 * view_s * backbone.n_mels * 2 if config.keep_mel else 0
    d_spk = speaker_encoder(config.speaker, backbone).d_spk
    return int(total + len(views) * (4 * d_spk + 200))


def build_cache(
    root: Path,
    views: Sequence[View],
    backbone_name: str | Path,
    config: CacheConfig,
    *,
    backbone: Backbone | None = None,
    workers: int = 1,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Compute what is missing of a cache and return its folder.

    Args:
        root: folder of all caches.
        views: the plan, in the order of the rows.
        backbone_name: as for `Backbone.from_pretrained`; each worker loads its own.
        config: what to store.
        backbone: the same one, already loaded; in a thread it must be given, because
            transformers cannot load two models at a time.
        workers: processes, one core each.
        device: that all of them encode on; simulation stays on the CPU.
        progress: called with parts done and parts in total.
    Raises:
        AudioError: a recording cannot be read.
        ConfigError: no such device.
        HyperASRError: the disk is too small or full, or another run is building it; the parts that
            are done stay.
    """
    checked_device(device)
    backbone = backbone or Backbone.from_pretrained(backbone_name)
    folder = cache_folder(root, views, backbone, config)
    starts, missing = _parts(folder, len(views))
    if not missing:
        if progress:
            progress(len(starts), len(starts))
        return folder
    n_bytes = estimate_bytes(views, backbone, config)
    with alone_in(folder):
        starts, missing = _parts(folder, len(views))  # another build may just have ended
        if progress:
            progress(len(starts) - len(missing), len(starts))
        n_missing = sum(min(_PART, len(views) - s) for s in missing)
        _check_space(folder, n_bytes * n_missing // len(views), n_missing)
        head = {"fingerprint": backbone.fingerprint(), "n_rows": len(views)}
        head |= {"layout": _layout(backbone), "config": to_dict(config)}
        atomic_write_text(folder / _HEAD, json.dumps(head) + "\n")
        worker = (str(backbone_name), config, backbone.audio_context, backbone.margin_s, device)
        with WorkerPool(workers, _start_worker, worker) as pool:
            jobs = [
                pool.submit(_write_part, list(views[s : s + _PART]), str(_part(folder, s)))
                for s in missing
            ]
            n_long = 0
            for count, job in enumerate(as_completed(jobs), start=len(starts) - len(missing) + 1):
                n_long += job.result()
                if progress:
                    progress(count, len(starts))
    if n_long:
        log.warning(
            "%d of %d views last more than %d s and are left out", n_long, n_missing, CHUNK_S
        )
    return folder


def _parts(folder: Path, n_views: int) -> tuple[range, list[int]]:
    """Return the first view of each part, and of each part that is not there."""
    starts = range(0, n_views, _PART)
    return starts, [s for s in starts if not _part(folder, s).exists()]


def _part(folder: Path, start: int) -> Path:
    return folder / f"part-{start // _PART:05d}"


def _layout(backbone: Backbone) -> str:
    """Name the columns; log-mel of 30 s keeps the silence after an utterance, see `_encoded`."""
    return f"{_LAYOUT}, 30 s" if backbone.audio_context == "full" else str(_LAYOUT)


def _check_space(folder: Path, n_bytes: int, n_views: int) -> None:
    """Say what a build takes, and refuse one that the disk cannot hold."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    log.info("%s: %d views, about %.2f GiB to write", folder, n_views, n_bytes / 2**30)
    if n_bytes > free:
        raise HyperASRError(
            f"the cache of {n_views} views needs about {n_bytes / 2**30:.1f} GiB, the disk of "
            f"{folder} has {free / 2**30:.1f} GiB left; make room or choose another folder"
        )


_worker: tuple[Backbone, Any, bool] | None = None  # its speaker encoder, and whether to keep mel


def _start_worker(
    backbone_name: str, config: CacheConfig, audio_context: str, margin_s: float, device: str
) -> None:
    """Load what `_write_part` needs, once a process; the backbone is at hand on this machine."""
    global _worker
    from datasets import disable_progress_bars

    disable_progress_bars()
    torch.set_num_threads(1)
    backbone = Backbone.from_pretrained(
        backbone_name, offline=True, audio_context=audio_context, margin_s=margin_s, device=device
    )
    speaker = speaker_encoder(config.speaker, backbone).eval().to(device)
    _worker = (backbone, speaker, config.keep_mel)


def _write_part(views: list[View], folder: str) -> int:
    """Write the rows of some views, their sizes beside them; all of it or nothing.

    Returns:
        How many views were left out because simulation made them longer than Whisper hears.
    Raises:
        AudioError: a recording cannot be read.
    """
    from datasets import Dataset, Value

    rows: list[dict[str, Any]] = []
    for start in range(0, len(views), _SORTED):
        rows += _rows(views[start : start + _SORTED])
    with atomic_folder(folder, replaces=("dataset_info.json",)) as temporary:
        if rows:
            columns = {name: [row[name] for row in rows] for name in rows[0]}
            # A part in which nobody's severity is known would have a column of another type.
            table = Dataset.from_dict(columns).cast_column("severity", Value("float64"))
            table.save_to_disk(str(temporary))
        sums = {p.name: {"bytes": p.stat().st_size} for p in sorted(temporary.glob("*.arrow"))}
        (temporary / _SUMS).write_text(json.dumps(sums))
    return len(views) - len(rows)


@torch.inference_mode()
def _rows(views: list[View]) -> list[dict[str, Any]]:
    """Simulate, encode and embed some views, in their order, without those of more than 30 s."""
    rendered = [render_view(view) for view in views]
    short = [i for i, (waveform, _) in enumerate(rendered) if len(waveform) <= N_SAMPLES]
    for i in short:
        if len(rendered[i][0]) == 0:
            raise AudioError(f"{views[i].utterance.path}: no samples between the given times")
    short.sort(key=lambda i: len(rendered[i][0]))
    rows: dict[int, dict[str, Any]] = {}
    for start in range(0, len(short), _BATCH):
        chosen = short[start : start + _BATCH]
        encoded = _encoded([views[i] for i in chosen], [rendered[i] for i in chosen])
        rows.update(zip(chosen, encoded, strict=True))
    return [rows[i] for i in sorted(rows)]


def _encoded(views: list[View], rendered: list[tuple[np.ndarray, str]]) -> list[dict[str, Any]]:
    """Return the rows of views that are rendered: a waveform and a text each."""
    assert _worker is not None
    backbone, speaker, keep_mel = _worker
    waveforms = [waveform for waveform, _ in rendered]
    mel, n_frames = backbone.features(waveforms)
    encoded = backbone.encode(mel, n_frames, speaker.layers)
    embs = None
    # What a speaker encoder that is yet to be trained says now would only be in its way.
    if not any(p.requires_grad for p in speaker.parameters()):
        embs = speaker(encoded=encoded, mel=mel, n_frames=n_frames, waveforms=waveforms)
    # Of the silence after it what differs: the last frame kept is as all the others are.
    silent = backbone.audio_context == "full" or backbone.margin_frames > 0
    tail = TAIL_FRAMES if silent else 0
    rows = []
    for i, (view, (waveform, text)) in enumerate(zip(views, rendered, strict=True)):
        n_states = int(encoded.lengths[i])
        row = {
            "id": view.id,
            "text": text,
            "speaker": view.utterance.speaker,
            "person": view.person,
            "cohort": view.cohort,
            "domain": view.domain,
            "severity": None if view.severity is None else float(view.severity),
            "source": view.utterance.source,
            "duration_s": len(waveform) / SAMPLE_RATE,
            "n_frames": int(n_frames[i]),
            "n_states": n_states,
            "states": _bytes(encoded.states[i, :n_states]),
        }
        if embs is not None:
            row["emb"] = embs[i].float().cpu().numpy().tobytes()
        if keep_mel:
            row["mel"] = _bytes(mel[i, :, : int(n_frames[i]) + tail])
        rows.append(row)
    return rows


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.to("cpu", torch.float16).contiguous().numpy().tobytes()


def _check_part(path: Path) -> None:
    """Raise ConfigError where a file of the part in folder `path` is not as long as written."""
    try:
        for name, size in json.loads((path / _SUMS).read_text()).items():
            if (path / name).stat().st_size != size["bytes"]:
                raise ConfigError(f"{path / name} is not what was written; remove {path}")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error}); remove it and build again") from error


class Cache:
    """One or several cache folders as rows; batches are put together from memory-mapped bytes.

    Args:
        folders: as `build_cache` returned them.
        backbone: which they must have been made with.
    Raises:
        ConfigError: no rows, or a part that is missing or cut short.
        CheckpointMismatch: the states are of another backbone.
    """

    def __init__(self, folders: Sequence[Path], backbone: Backbone) -> None:
        from datasets import concatenate_datasets, load_from_disk

        paths = [p for f in folders for p in sorted(Path(f).glob("part-*"))]
        if not paths:
            raise ConfigError(f"no cache in {[str(f) for f in folders]}: its plan has no views")
        for folder in folders:
            _check_head(Path(folder), backbone)
        for path in paths:
            _check_part(path)
        paths = [path for path in paths if any(path.glob("*.arrow"))]
        if not paths:
            raise ConfigError(f"no view lasts {CHUNK_S} s or less; give shorter recordings")
        self.rows = concatenate_datasets([load_from_disk(str(path)) for path in paths])
        self.backbone = backbone
        self.meta: dict[str, list[Any]] = _columns(self.rows, [*_META, "n_frames"])
        self.n_frames: list[int] = self.meta.pop("n_frames")
        self.index: Sequence[int] = range(len(self.rows))
        self.keeps_mel = "mel" in self.rows.column_names
        self.keeps_embeddings = "emb" in self.rows.column_names
        self._embs = self.rows.select_columns("emb") if self.keeps_embeddings else None

    def where(self, keep: Callable[[int], bool]) -> Cache:
        """Return a cache of the rows that pass a test, over the same files.

        Raises:
            ConfigError: no row passes.
        """
        chosen = [row for row in range(len(self)) if keep(row)]
        if not chosen:
            raise ConfigError("no row of the cache is left; check the cohorts and speakers chosen")
        part = copy.copy(self)
        part.index = [self.index[row] for row in chosen]
        part.meta = {name: [column[row] for row in chosen] for name, column in self.meta.items()}
        part.n_frames = [self.n_frames[row] for row in chosen]
        return part

    def with_texts(self, texts: Mapping[str, str]) -> Cache:
        """Return a cache of the same rows over the same files, with other texts by view id."""
        other = copy.copy(self)
        pairs = zip(self.meta["id"], self.meta["text"], strict=True)
        other.meta = {**self.meta, "text": [texts.get(name, text) for name, text in pairs]}
        return other

    def __len__(self) -> int:
        return len(self.index)

    def person(self, row: int) -> str:
        """Return who speaks a row: the simulated person, or the speaker of a typical view."""
        return str(self.meta["person"][row])

    def embeddings(self) -> torch.Tensor:
        """Return the embeddings of all rows, (n_rows, d_spk) float32.

        Raises:
            ConfigError: there are none, because the speaker encoder is trained along.
        """
        return torch.cat(list(self.embedding_blocks()))

    def embedding_blocks(self) -> Iterator[torch.Tensor]:
        """Yield the embeddings of all rows, (n, d_spk) float32, some hundreds at a time.

        Raises:
            ConfigError: there are none, because the speaker encoder is trained along.
        """
        if self._embs is None:
            raise ConfigError("this cache has no embeddings: its speaker encoder is trained along")
        for start in range(0, len(self), _EMBEDDINGS):
            rows = list(self.index[start : start + _EMBEDDINGS])
            data = b"".join(self._embs[rows]["emb"])
            yield torch.frombuffer(bytearray(data), dtype=torch.float32).view(len(rows), -1)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return the rows `indices` as a batch with states, embeddings, mel and tokens."""
        rows = self.rows[[self.index[i] for i in indices]]
        lengths = torch.tensor(rows["n_states"])
        states = torch.zeros(len(lengths), int(lengths.max()), self.backbone.d_model)
        for target, data, n in zip(states, rows["states"], rows["n_states"], strict=True):
            target[:n] = _tensor(data, n, -1)
        mel = self._mel(rows["mel"], max(rows["n_frames"])) if self.keeps_mel else None
        n_frames = torch.tensor(rows["n_frames"])
        sounding = None if mel is None else self.backbone.sounding(mel, n_frames)
        emb = None
        if self.keeps_embeddings:
            emb = torch.tensor(np.frombuffer(b"".join(rows["emb"]), np.float32))
            emb = emb.view(len(lengths), -1)
        texts = [self.meta["text"][i] for i in indices]
        tokens, n_tokens, n_prompt = self.backbone.targets(texts)
        batch = Batch(
            n_frames=n_frames,
            encoded=EncoderOutput(states, lengths, sounding=sounding),
            mel=mel,
            speaker_emb=emb,
            tokens=tokens,
            n_tokens=n_tokens,
            n_prompt=n_prompt,
            ids=tuple(rows["id"]),
            speakers=tuple(rows["speaker"]),
            cohorts=tuple(rows["cohort"]),
        )
        return batch.to(self.backbone.device)

    def _mel(self, stored: Sequence[bytes], longest: int) -> torch.Tensor:
        """Return log-mel (n_utt, n_mels, n_frames) as the backbone takes it."""
        n_mels, most = self.backbone.n_mels, N_SAMPLES // HOP_LENGTH
        whole, margin = self.backbone.audio_context == "full", self.backbone.margin_frames
        mel = torch.zeros(len(stored), n_mels, most if whole else min(longest + margin, most))
        for target, data in zip(mel, stored, strict=True):
            frames = _tensor(data, n_mels, -1)
            n = min(frames.shape[1], target.shape[1])
            target[:, :n] = frames[:, :n]
            if whole or margin:  # what is beyond an utterance's margin is not heard
                target[:, n:] = frames[:, -1:]
        return mel


def _columns(rows: Any, names: Sequence[str]) -> dict[str, list[Any]]:
    """Return columns as lists, in which equal values are one object: speakers and texts repeat."""
    columns = {}
    for name in names:
        shared: dict[Any, Any] = {}
        columns[name] = [shared.setdefault(value, value) for value in rows[name][:]]
    return columns


def _tensor(data: bytes, *shape: int) -> torch.Tensor:
    """View fp16 bytes; assigning it to float32 converts four times as fast as numpy does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # bytes are read-only; so is our use of them
        return torch.frombuffer(data, dtype=torch.float16).view(*shape)


def _check_head(folder: Path, backbone: Backbone) -> None:
    try:
        head = json.loads((folder / _HEAD).read_text())
        fingerprint, n_rows = head["fingerprint"], int(head["n_rows"])
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{folder} is no cache of this version (no cache.json); build it again"
        ) from error
    if fingerprint != backbone.fingerprint():
        raise CheckpointMismatch(
            f"{folder} holds states of the backbone {fingerprint}, this one is "
            f"{backbone.fingerprint()}; build the cache again"
        )
    starts, missing = _parts(folder, n_rows)
    if missing:
        raise ConfigError(
            f"{folder} is not complete, {len(missing)} of {len(starts)} parts are missing: its "
            "build was interrupted; start that again"
        )
