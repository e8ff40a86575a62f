"""Encoder states and speaker embeddings of a plan of views, computed once, memory-mapped.

The backbone is frozen, so the encoder runs once per view and not once per epoch. A cache is a
folder named by what is in it: the plan, the backbone's weights and the speaker encoder. It is
written in parts, so that an interrupted build goes on, and read back as one `datasets.Dataset`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyperasr.backbone import Backbone
from hyperasr.cohorts.views import View, plan_key, realise
from hyperasr.config import to_dict
from hyperasr.errors import AudioError, ConfigError
from hyperasr.files import atomic_folder
from hyperasr.speaker import SpeakerConfig, speaker_encoder
from hyperasr.types import Batch, EncoderOutput

__all__ = ["Cache", "build_cache", "cache_folder"]

log = logging.getLogger(__name__)
_PART = 512  # views a part: a minute's work, so that little is lost on interruption
_BATCH = 16


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
    return Path(root) / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def build_cache(
    root: Path,
    views: Sequence[View],
    backbone_name: str | Path,
    config: CacheConfig,
    *,
    backbone: Backbone | None = None,
    workers: int = 1,
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
        progress: called with parts done and parts in total.
    """
    backbone = backbone or Backbone.from_pretrained(backbone_name)
    folder = cache_folder(root, views, backbone, config)
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(views), _PART)
    todo = [s for s in starts if not _part(folder, s // _PART).exists()]
    if progress:
        progress(len(starts) - len(todo), len(starts))
    if not todo:
        return folder
    # A fresh interpreter each: a fork of a process that has used torch's threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(str(backbone_name), config)
    ) as pool:
        jobs = [
            pool.submit(_write_part, list(views[s : s + _PART]), str(_part(folder, s // _PART)))
            for s in todo
        ]
        try:
            for count, job in enumerate(as_completed(jobs), start=len(starts) - len(todo) + 1):
                job.result()
                if progress:
                    progress(count, len(starts))
        except BaseException:
            # Else the error shows only when every other part is done.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return folder


def _part(folder: Path, index: int) -> Path:
    return folder / f"part-{index:05d}"


_worker: dict[str, Any] = {}


def _start_worker(backbone_name: str, config: CacheConfig) -> None:
    from datasets import disable_progress_bars

    disable_progress_bars()
    torch.set_num_threads(1)
    backbone = Backbone.from_pretrained(backbone_name, offline=True)
    _worker.update(
        backbone=backbone, config=config, speaker=speaker_encoder(config.speaker, backbone).eval()
    )


def _write_part(views: list[View], folder: str) -> None:
    from datasets import Dataset

    rows: list[dict[str, Any]] = []
    for start in range(0, len(views), _BATCH):
        rows += _rows(views[start : start + _BATCH])
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    with atomic_folder(folder, replaces=("dataset_info.json",)) as temporary:
        Dataset.from_dict(columns).save_to_disk(str(temporary))


@torch.inference_mode()
def _rows(views: list[View]) -> list[dict[str, Any]]:
    """Simulate, encode and embed a batch of views."""
    backbone, config, speaker = _worker["backbone"], _worker["config"], _worker["speaker"]
    made = [realise(view) for view in views]
    for view, (waveform, _) in zip(views, made, strict=True):
        if len(waveform) == 0:
            raise AudioError(f"{view.utterance.path}: no samples between the given times")
    mel, n_frames = backbone.features([waveform for waveform, _ in made])
    encoded = backbone.encode(mel, n_frames, speaker.layers)
    embs = None
    # What a speaker encoder that is yet to be trained says now would only be in its way.
    if not any(p.requires_grad for p in speaker.parameters()):
        waveforms = [waveform for waveform, _ in made]
        embs = speaker(encoded=encoded, mel=mel, n_frames=n_frames, waveforms=waveforms)
    rows = []
    for i, (view, (waveform, text)) in enumerate(zip(views, made, strict=True)):
        n_states = int(encoded.lengths[i])
        row = {
            "id": view.id,
            "text": text,
            "speaker": view.utterance.speaker,
            "cohort": view.cohort,
            "severity": float(view.severity),
            "source": view.utterance.source,
            "duration_s": len(waveform) / 16_000,
            "n_frames": int(n_frames[i]),
            "n_states": n_states,
            "states": _bytes(encoded.states[i, :n_states]),
        }
        if embs is not None:
            row["emb"] = embs[i].tolist()
        if config.keep_mel:
            row["mel"] = _bytes(mel[i, :, : int(n_frames[i])])
        rows.append(row)
    return rows


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.to(torch.float16).contiguous().numpy().tobytes()


class Cache:
    """One or several cache folders as rows; batches are put together from memory-mapped bytes."""

    def __init__(self, folders: Sequence[Path], backbone: Backbone) -> None:
        from datasets import concatenate_datasets, load_from_disk

        parts = [load_from_disk(str(p)) for f in folders for p in sorted(Path(f).glob("part-*"))]
        if not parts:
            raise ConfigError(f"no cache in {[str(f) for f in folders]}: its plan has no views")
        self.rows = concatenate_datasets(parts)
        self.backbone = backbone
        columns = self.rows.select_columns(
            ["speaker", "cohort", "severity", "text", "source", "id"]
        )
        self.meta: dict[str, list[Any]] = {name: columns[name][:] for name in columns.column_names}

        self.n_frames: list[int] = self.rows["n_frames"][:]
        self.keeps_mel = "mel" in self.rows.column_names
        self.keeps_embeddings = "emb" in self.rows.column_names

    def __len__(self) -> int:
        return len(self.rows)

    def person(self, row: int) -> str:
        """Return who speaks a row: the simulated person, or the speaker of a typical view."""
        return str(self.meta["id"][row]).split("/")[-3]  # see View.id

    def embeddings(self) -> torch.Tensor:
        """Return all embeddings (n_rows, d_spk) float32.

        Raises:
            ConfigError: there are none, because the speaker encoder is trained along.
        """
        if not self.keeps_embeddings:
            raise ConfigError("this cache has no embeddings: its speaker encoder is trained along")
        return torch.tensor(np.stack(self.rows.with_format("numpy")["emb"][:]), dtype=torch.float32)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return the rows `indices` as a batch with states, embeddings, mel and tokens."""
        rows = self.rows[list(indices)]
        lengths = torch.tensor(rows["n_states"])
        states = torch.zeros(len(lengths), int(lengths.max()), self.backbone.d_model)
        for target, data, n in zip(states, rows["states"], rows["n_states"], strict=True):
            target[:n] = _tensor(data, n, -1)
        mel = None
        if self.keeps_mel:
            mel = torch.zeros(len(lengths), self.backbone.n_mels, max(rows["n_frames"]))
            for target, data, n in zip(mel, rows["mel"], rows["n_frames"], strict=True):
                target[:, :n] = _tensor(data, self.backbone.n_mels, n)
        emb = torch.tensor(rows["emb"]).float() if self.keeps_embeddings else None
        prompt = self.backbone.prompt_ids()
        ids = [[*prompt, *self.backbone.text_ids(t), self.backbone.eos] for t in rows["text"]]
        tokens = torch.full((len(ids), max(map(len, ids))), self.backbone.eos)
        for target, values in zip(tokens, ids, strict=True):
            target[: len(values)] = torch.tensor(values)
        batch = Batch(
            n_frames=torch.tensor(rows["n_frames"]),
            encoded=EncoderOutput(states, lengths),
            mel=mel,
            speaker_emb=emb,
            tokens=tokens,
            n_tokens=torch.tensor([len(values) for values in ids]),
            n_prompt=len(prompt),
            ids=tuple(rows["id"]),
            speakers=tuple(rows["speaker"]),
            cohorts=tuple(rows["cohort"]),
        )
        return batch.to(self.backbone.device)


def _tensor(data: bytes, *shape: int) -> torch.Tensor:
    values = np.frombuffer(data, dtype=np.float16).astype(np.float32)
    return torch.from_numpy(values).view(*shape)
