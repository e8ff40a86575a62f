"""A model folder's config.json and weights: read strictly, with readable differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hyperasr.errors import CheckpointMismatch, ConfigError
from hyperasr.util.config import check_type, from_json

FORMAT_VERSION = 1
_HEAD = {
    "format_version": int,
    "backbone": str,
    "backbone_fingerprint": str,
    "audio_context": Literal["full", "trimmed"],
    "margin_s": float,
    "speaker": dict,
    "source": dict,
    "training": dict,
}


def stored(tensor: Tensor, half: bool) -> Tensor:
    """Store weights in fp16; statistics, which fp16 could overflow, stay as they are."""
    return tensor.detach().to(torch.float16 if half else tensor.dtype).contiguous().clone()


def read_head(path: Path) -> dict[str, Any]:
    """Read a model folder's config.json.

    Raises:
        ConfigError: no model there, another format, or a key that is unknown or missing.
    """
    try:
        head = from_json((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no adapter model in {path}: config.json is missing or damaged; "
            "give a folder that train.meta wrote, or the name of a model"
        ) from error
    version = head.get("format_version") if isinstance(head, dict) else None
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"{path}: format_version is {version}, this version of hyperasr reads {FORMAT_VERSION}"
        )
    head = {"margin_s": 0.0, **head}  # not written before 2026-11-28, when there was none
    wrong = sorted(set(_HEAD) ^ set(head))
    if wrong:
        fault = "unknown" if wrong[0] in head else "missing"
        raise ConfigError(f"{path / 'config.json'}: {fault} key {wrong[0]!r}")
    for key, value in head.items():
        check_type(value, _HEAD[key], f"{path / 'config.json'}: {key}")
    return head


def load_strictly(model: nn.Module, path: Path) -> None:
    """Load every weight but the backbone's.

    Raises:
        CheckpointMismatch: weights are missing, damaged, too many or of other shapes.
    """
    expected = {n: t for n, t in model.state_dict().items() if not n.startswith("backbone.")}
    try:
        saved = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointMismatch(f"{path}: weights are missing or damaged ({error})") from error
    missing, surplus = sorted(set(expected) - set(saved)), sorted(set(saved) - set(expected))
    wrong = [
        f"{n} is {tuple(saved[n].shape)}, not {tuple(expected[n].shape)}"
        for n in expected
        if n in saved and saved[n].shape != expected[n].shape
    ]
    if missing or surplus or wrong:
        raise CheckpointMismatch(
            f"{path} does not fit its config.json: missing {missing[:3]}, surplus {surplus[:3]}, "
            f"other shape {wrong[:3]}"
        )
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(saved[name])
