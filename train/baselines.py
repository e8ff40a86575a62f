"""Baselines outside the adapter protocol: fine-tuning the whole decoder.

    accelerate launch -m train.baselines --config train/configs/decoder_ft.yaml

Same views, sampler, loop and development set as `train.meta`.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from hyperasr.backbone import Backbone
from hyperasr.cache import Cache, CacheConfig, build_cache
from hyperasr.files import atomic_folder
from hyperasr.model import HyperASR
from hyperasr.types import Batch
from train.loop import LoopConfig, fit
from train.meta import MetaConfig, Views, development_views, evaluate
from train.program import read_config, start

log = logging.getLogger("train.baselines")


@dataclass(frozen=True)
class FineTuneConfig:
    """Decoder fine-tuning on the training views of a meta-training configuration."""

    data: MetaConfig = field(default_factory=MetaConfig)
    """Recordings, views, backbone, batch size and cache; its source and loop are not used."""
    out: Path = Path("runs/decoder_ft")
    """Run folder; the best model is in its folder `best`."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """The training loop."""


class DecoderObjective(nn.Module):
    """The backbone with a trainable decoder; batch in, losses by name out."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        backbone.whisper.model.decoder.layers.requires_grad_(True)
        backbone.whisper.model.decoder.layer_norm.requires_grad_(True)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy, mean over the scored tokens."""
        assert batch.encoded is not None
        assert batch.tokens is not None
        assert batch.n_tokens is not None
        nll, n_scored = self.backbone.nll(
            batch.encoded, batch.tokens, batch.n_tokens, batch.n_prompt
        )
        loss = nll.sum() / n_scored.sum()
        return {"total": loss, "nll": loss}


def main() -> None:
    """Train, and leave the best backbone in the run folder."""
    config = read_config(FineTuneConfig)
    accelerator = start("decoder_ft", config.out)
    backbone = Backbone.from_pretrained(config.data.backbone)
    with accelerator.main_process_first():
        views = Views(config.data, backbone)
        dev_folder = build_cache(
            config.data.cache,
            development_views(config.data.dev),
            config.data.backbone,
            CacheConfig(config.data.speaker, views.drawing[1].keeps_mel),
            workers=config.data.workers,
        )
    dev = Cache([dev_folder], backbone)

    def save_best(objective: nn.Module) -> None:
        with atomic_folder(config.out / "best") as temporary:
            objective.backbone.save_pretrained(temporary)

    def score_of(objective: nn.Module) -> dict[str, float]:
        model = HyperASR(objective.backbone, config.data.speaker, config.data.source)
        return evaluate(model, dev, adapt=False)

    best = fit(
        DecoderObjective(backbone),
        views,
        score_of,
        save_best,
        config.loop,
        config.out,
        accelerator,
    )
    print(json.dumps(best))
    accelerator.end_training()


if __name__ == "__main__":
    main()
