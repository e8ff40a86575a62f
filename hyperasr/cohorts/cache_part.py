"""One part of a cache: its views simulated, encoded, embedded and written, in a worker process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyperasr.audio.mel import N_SAMPLES, TAIL_FRAMES
from hyperasr.cohorts.views import View, render_view
from hyperasr.errors import AudioError, ConfigError
from hyperasr.speaker.encoder import speaker_encoder
from hyperasr.util.files import atomic_folder
from hyperasr.whisper.backbone import Backbone

__all__ = ["check_part", "start_worker", "write_part"]

_BATCH = 16
_SORTED = 64  # views that are sorted by length together, so that little is padding
_SUMS = "sums.json"


_worker: dict[str, Any] = {}


def start_worker(
    backbone_name: str, config: Any, audio_context: str, margin_s: float, device: str
) -> None:
    """Load what `write_part` needs, once a process.

    Args:
        backbone_name: as for `Backbone.from_pretrained`, at hand on this machine.
        config: what a row holds, a `hyperasr.cohorts.cache.CacheConfig`.
        audio_context, margin_s: of the backbone.
        device: to encode on.
    """
    from datasets import disable_progress_bars

    disable_progress_bars()
    torch.set_num_threads(1)
    backbone = Backbone.from_pretrained(
        backbone_name, offline=True, audio_context=audio_context, margin_s=margin_s, device=device
    )
    speaker = speaker_encoder(config.speaker, backbone).eval().to(device)
    _worker.update(backbone=backbone, config=config, speaker=speaker)


def write_part(views: list[View], folder: str) -> int:
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
    backbone, config, speaker = _worker["backbone"], _worker["config"], _worker["speaker"]
    waveforms = [waveform for waveform, _ in rendered]
    mel, n_frames = backbone.features(waveforms)
    encoded = backbone.encode(mel, n_frames, speaker.layers)
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
            "duration_s": len(waveform) / 16_000,
            "n_frames": int(n_frames[i]),
            "n_states": n_states,
            "states": _bytes(encoded.states[i, :n_states]),
            "emb": embs[i].float().cpu().numpy().tobytes(),
        }
        if config.keep_mel:
            row["mel"] = _bytes(mel[i, :, : int(n_frames[i]) + tail])
        rows.append(row)
    return rows


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.to("cpu", torch.float16).contiguous().numpy().tobytes()


def check_part(path: Path) -> None:
    """Raise ConfigError where a file of the part in folder `path` is not as long as written."""
    try:
        for name, size in json.loads((path / _SUMS).read_text()).items():
            if (path / name).stat().st_size != size["bytes"]:
                raise ConfigError(f"{path / name} is not what was written; remove {path}")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error}); remove it and build again") from error
