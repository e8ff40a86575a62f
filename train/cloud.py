"""Fit the cloud of a trained model's embeddings and put it beside its weights.

    python -m train.cloud --model runs/hypernet/best

Embeddings come from the cache of the model's own training, which is made again where it is gone.
With its cloud a model can be cautious: see `hyperasr.caution`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from hyperasr.backbone import Backbone
from hyperasr.caution import CLOUD_FILE, Cloud
from hyperasr.checkpoint import read_head
from hyperasr.config import from_dict
from hyperasr.errors import ConfigError
from train.meta import MetaConfig
from train.program import read_config, run_program
from train.views import Views

__all__ = ["CloudConfig", "cloud_of"]

log = logging.getLogger("train.cloud")


@dataclass(frozen=True)
class CloudConfig:
    """Whose cloud."""

    model: Path = Path("runs/hypernet/best")
    """Folder of a model that `train.meta` wrote."""
    backbone: str = "micro"
    """The frozen Whisper it was trained on."""


def training_config(folder: Path) -> MetaConfig:
    """Return the configuration that a model was trained with, from its own notes.

    Raises:
        ConfigError: no model there, or one whose notes do not hold its configuration.
    """
    notes = read_head(folder)["training"].get("config")
    if notes is None:
        raise ConfigError(f"{folder} does not say how it was trained; a cloud needs its training")
    return from_dict(MetaConfig, notes, str(folder / "config.json"))


def cloud_of(folder: Path, backbone: Backbone) -> Cloud:
    """Fit the cloud of what a model was trained on: its cohorts alone, whole people left out.

    Raises:
        ConfigError: no model there, or its speaker encoder was trained along, so that the cache
            holds no embeddings.
    """
    config = replace(training_config(folder), view_sets=1)
    _, cache, _ = Views(config, backbone).drawing
    log.info("%d embeddings", len(cache))
    return Cloud.fit(cache.embeddings(), [str(speaker) for speaker in cache.meta["speaker"]])


def main() -> None:
    """Fit and save."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    config = read_config(CloudConfig)
    head = read_head(config.model)
    heard = {"audio_context": head["audio_context"], "margin_s": head["margin_s"]}
    backbone = Backbone.from_pretrained(config.backbone, **heard)
    backbone.require_fingerprint(head["backbone_fingerprint"], f"the model in {config.model}")
    cloud_of(config.model, backbone).save(config.model, backbone.fingerprint())
    log.info("%s", config.model / CLOUD_FILE)


if __name__ == "__main__":
    run_program(main)
