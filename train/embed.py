"""Put trained models into the package as the embedded one, in fp16.

    python -m train.embed --backbone runs/backbone/best
    python -m train.embed --hypernet runs/hypernet/best
    python -m train.embed --hypernet_encoder runs/hypernet_encoder_decoder/best

First the backbone, so that everything meta-trained on it sees the very weights that are shipped.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from hyperasr.backbone import Backbone
from hyperasr.files import atomic_folder
from hyperasr.hub import EMBEDDED
from hyperasr.weights import ASSETS
from train.program import read_config, run_program


@dataclass(frozen=True)
class EmbedConfig:
    """What to embed."""

    backbone: Path | None = None
    """Backbone folder, or none."""
    hypernet: Path | None = None
    """Adapter model folder that was trained on ``micro``, or none; becomes the model ``micro``."""
    hypernet_encoder: Path | None = None
    """The same for the model ``micro-encoder``."""
    out: Path = ASSETS / "micro"
    """Folder of the embedded model."""


def embed_backbone(source: Path, target: Path) -> None:
    """Write the backbone with fp16 weights."""
    backbone = Backbone.from_pretrained(source)
    backbone.whisper.to(torch.float16)
    with atomic_folder(target) as temporary:
        backbone.save_pretrained(temporary)


def embed_hypernet(source: Path, target: Path) -> None:
    """Copy the adapter; its notes keep settings, without the folders of the one who trained it."""
    head = json.loads((source / "config.json").read_text())
    head["training"].pop("config", None)
    with atomic_folder(target) as temporary:
        shutil.copy(source / "model.safetensors", temporary)
        (temporary / "config.json").write_text(json.dumps(head, indent=2) + "\n")


def main() -> None:
    """Embed what was given, and say how large the package's models are."""
    config = read_config(EmbedConfig)
    if config.backbone:
        embed_backbone(config.backbone, config.out / "backbone")
    if config.hypernet:
        embed_hypernet(config.hypernet, config.out / EMBEDDED["micro"])
    if config.hypernet_encoder:
        embed_hypernet(config.hypernet_encoder, config.out / EMBEDDED["micro-encoder"])
    size = sum(f.stat().st_size for f in config.out.rglob("*") if f.is_file())
    print(f"{config.out}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    run_program(main)
