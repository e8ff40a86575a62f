"""Baselines outside the adapter protocol: fine-tuning, residual adapters, and PEFT's LoRA.

    accelerate launch -m train.baselines --config train/configs/decoder_ft.yaml
    accelerate launch -m train.baselines --config train/configs/full_ft.yaml
    accelerate launch -m train.baselines --config train/configs/residual.yaml
    accelerate launch -m train.baselines --config train/configs/peft_reference.yaml

Same views, sampler, loop and development set as `train.meta`. What they leave in the run folder's
`best` is a Whisper in the Hugging Face layout, residual adapters
(`hyperasr.adapters.residual.ResidualAdapters.from_pretrained`), or a PEFT folder;
`eval.lib.systems` decodes with all of them. PEFT's LoRA is the outside reference: none of our
layers takes part, and a global LoRA of ours with the same settings must come to the same weights.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hyperasr.adapters import SourceConfig, lora
from hyperasr.adapters.objective import from_teacher
from hyperasr.adapters.residual import ResidualAdapters, ResidualConfig
from hyperasr.cohorts.cache import Cache
from hyperasr.errors import ConfigError, MissingExtra
from hyperasr.hub import HyperASR
from hyperasr.types import Batch
from hyperasr.util.config import to_dict
from hyperasr.util.files import atomic_folder
from hyperasr.whisper.backbone import Backbone
from train.config import LoopConfig, MetaConfig
from train.loop.program import fit_and_report, read_config, run_program, start
from train.loop.scoring import evaluate, mel_only
from train.meta import data_of, frozen, judge_of, split_batch

log = logging.getLogger("train.baselines")
TRAINING_FILE = "training.json"
"""In the folder of a recogniser that has no other place for it: how it was trained."""


@dataclass(frozen=True)
class FineTuneConfig:
    """A baseline on the training views of a meta-training configuration."""

    method: Literal["decoder_ft", "full_ft", "residual", "peft"] = "decoder_ft"
    """Fine-tune every weight of the decoder's layers, or of the whole model, or train residual
    adapters or PEFT's LoRA on the frozen one."""
    data: MetaConfig = field(default_factory=MetaConfig)
    """Recordings, views, teacher, backbone, batch size and cache. Of its objective the weights of
    text and teacher count; its source, a global LoRA, is that of PEFT; its loop is not used."""
    residual: ResidualConfig = field(default_factory=ResidualConfig)
    """Where residual adapters sit."""
    out: Path = Path("runs/decoder_ft")
    """Run folder; the best model is in its folder `best`."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """The training loop."""

    def __post_init__(self) -> None:
        settings = self.data.source.settings or {}
        is_global = settings.get("by", "global") == "global"
        if self.method == "peft" and not (self.data.source.kind == "static" and is_global):
            raise ConfigError("PEFT's LoRA is a global one: data.source.kind static, by global")

    @property
    def adapts_encoder(self) -> bool:
        """Whether what the frozen encoder heard does not serve, so that each batch is encoded."""
        if self.method == "peft":
            return self.data.adapts_encoder
        encoder_adapters = self.method == "residual" and "encoder" in self.residual.parts
        return self.method == "full_ft" or encoder_adapters

    def meta(self) -> MetaConfig:
        """Return the data's configuration with this run's loop, and log-mel where it is needed."""
        keep_mel = self.data.keep_mel or self.adapts_encoder
        return replace(self.data, out=self.out, loop=self.loop, keep_mel=keep_mel)


class TunedObjective(nn.Module):
    """A recogniser that is trained itself; batch in, losses by name out.

    Args:
        backbone: becomes trainable as far as the method says.
        config: of the program.
    """

    def __init__(self, backbone: Backbone, config: FineTuneConfig) -> None:
        super().__init__()
        self.backbone, self.config = backbone, config
        self.adapters: ResidualAdapters | None = None
        # No modules of ours: their weights are the backbone's. The reader comes first, because it
        # looks for layers that PEFT then wraps.
        self.reader = (HyperASR.unadapted(backbone),)
        self.peft: tuple[Any, ...] = ()
        model = backbone.whisper.model
        if config.method == "full_ft":
            backbone.whisper.requires_grad_(True)
            # Whisper's encoder positions are sinusoids, not weights.
            model.encoder.embed_positions.requires_grad_(False)
        elif config.method == "decoder_ft":
            model.decoder.layers.requires_grad_(True)
            model.decoder.layer_norm.requires_grad_(True)
        elif config.method == "residual":
            self.adapters = ResidualAdapters(config.residual, backbone.whisper, config.loop.seed)
        else:
            self.peft = (peft_lora(backbone.whisper, config.data.source, config.loop.seed),)

    def train(self, mode: bool = True) -> TunedObjective:
        """Set training mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.adapters is not None or self.peft:
            self.backbone.eval()
        return self

    def adapted(self) -> AbstractContextManager[None]:
        """Return the context in which the backbone is the trained recogniser."""
        return self.adapters.using(self.backbone.whisper) if self.adapters else nullcontext()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy and what the teacher adds, means over the scored tokens."""
        assert batch.tokens is not None
        assert batch.n_tokens is not None
        with self.adapted():
            encoded = None if self.config.adapts_encoder else batch.encoded
            if encoded is None:
                assert batch.mel is not None
                with nullcontext() if self.config.adapts_encoder else torch.no_grad():
                    encoded = self.backbone.encode(batch.mel, batch.n_frames)
            logprobs, scored = self.backbone.scored_logprobs(
                encoded, batch.tokens, batch.n_tokens, batch.n_prompt
            )
        nll = -logprobs.gather(1, batch.tokens[scored][:, None]).mean()
        goal = self.config.data.objective
        if not goal.teacher or batch.teacher is None:
            return {"total": goal.nll_weight * nll, "nll": nll}
        told = goal.teacher * from_teacher(logprobs, batch.teacher, scored)
        return {"total": goal.nll_weight * nll + told, "nll": nll, "teacher": told}


def peft_lora(whisper: Any, source: SourceConfig, seed: int) -> Any:
    """Put PEFT's LoRA into a Whisper, on the targets and at the rank of a global static source.

    Raises:
        MissingExtra: PEFT is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtra("the outside reference needs peft; pip install peft") from error
    wanted = {id(m) for ms in lora.find_targets(whisper, source.targets).values() for m in ms}
    names = [name for name, module in whisper.named_modules() if id(module) in wanted]
    settings = source.settings or {}
    rank, alpha = settings.get("rank", 4), settings.get("alpha", 8.0)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(whisper, config)


def scorer(config: FineTuneConfig, dev: Cache) -> Callable[[nn.Module], dict[str, float]]:
    """Return what measures a `TunedObjective` on the development rows."""
    rows: Any = mel_only(dev) if config.adapts_encoder else dev

    def score_of(objective: nn.Module) -> dict[str, float]:
        with objective.adapted():
            return evaluate(objective.reader[0], rows, adapt=False)

    return score_of


def saver(config: FineTuneConfig) -> Callable[[nn.Module], None]:
    """Return what writes a `TunedObjective` into the run folder's `best`."""
    best, notes = config.out / "best", {"config": to_dict(config)}

    def save_best(objective: nn.Module) -> None:
        if objective.adapters is not None:
            fingerprint = objective.backbone.fingerprint()
            objective.adapters.save_pretrained(
                best, backbone=config.data.backbone, fingerprint=fingerprint, training=notes
            )
            return
        with atomic_folder(best) as temporary:
            for trained in objective.peft or (objective.backbone,):
                trained.save_pretrained(temporary)
            text = json.dumps({"training": notes}, indent=1) + "\n"
            (temporary / TRAINING_FILE).write_text(text, encoding="utf-8")

    return save_best


def main() -> None:
    """Train, and leave the best recogniser or adapters in the run folder."""
    config = read_config(FineTuneConfig)
    accelerator = start(config.method, config.out, config.loop)
    backbone, meta = frozen(config.data), config.meta()
    views, dev = data_of(meta, backbone, accelerator)
    judge = judge_of(meta, backbone, accelerator, dev)
    objective = TunedObjective(backbone, config)
    n_trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    share = n_trained / backbone.n_parameters
    log.info(
        "%s: %d trained weights, %.3g %% of the backbone's", config.method, n_trained, 100 * share
    )
    fit_and_report(
        objective,
        views,
        scorer(config, dev),
        saver(config),
        config,
        accelerator,
        split=split_batch,
        judge=judge,
    )


if __name__ == "__main__":
    run_program(main)
