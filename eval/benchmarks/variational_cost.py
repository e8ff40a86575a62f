"""What variational training costs over a LoRA on the same matrices: the time of a step.

BLoRA (arXiv 2510.18723) puts the overhead at 8 to 10 percent without measuring it. Sources,
matrices, objectives and batch sizes are those of the training configurations; the backbone is
theirs too. Speech and texts are made up: what is counted is arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks.overhead import batch_as_cached, training_step, voice_like
from hyperasr.hub import HyperASR
from hyperasr.util.config import parse
from hyperasr.whisper.backbone import Backbone
from train.config import MetaConfig
from train.meta import frozen

__all__ = ["GROUPS", "Group", "groups"]

CONFIGS = Path(__file__).parents[2] / "train" / "configs"

GROUPS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("lora_qk", (("blora", "flipout"), ("blora", "plain"))),
    ("lora_qkv", (("vi_lora", "plain"),)),
)
"""A LoRA, and the variational ones of the same matrices with their noise, by configuration."""


@dataclass(frozen=True)
class Group:
    """A LoRA and variational ones, ready to train on one batch.

    Attributes:
        models: by name, the LoRA first.
        setting: matrices and batch in words.
        steps: a step of training of each model, by name.
    """

    models: dict[str, HyperASR]
    setting: str
    steps: dict[str, Callable[[], None]]


def groups(seconds: float, n_tokens: int, seed: int) -> Iterator[Group]:
    """Make the trainings of `GROUPS`, one group after the other.

    Args:
        seconds: length of each utterance.
        n_tokens: of its text.
        seed: of the sound.
    """
    rng = np.random.default_rng(seed)
    backbones: dict[str, Backbone] = {}
    for lora, others in GROUPS:
        config = _read(lora)
        name = str(config.backbone)
        backbone = backbones.setdefault(name, frozen(config))
        models = {lora: _model(config, backbone)}
        for kind, noise in others:
            models[f"{kind}, {noise} noise"] = _model(_read(kind), backbone, noise=noise)
        waves = [voice_like(seconds, rng) for _ in range(config.batch_size)]
        batch = batch_as_cached(models[lora], waves, n_tokens)
        setting = (
            f"{name} model, {', '.join(config.source.targets)}, {len(waves)} utterances of "
            f"{seconds:g} s, {n_tokens} tokens"
        )
        steps = {key: partial(training_step(model), batch) for key, model in models.items()}
        yield Group(models, setting, steps)


def _read(name: str) -> MetaConfig:
    return parse(MetaConfig, ["--config", str(CONFIGS / f"{name}.yaml")])


def _model(config: MetaConfig, backbone: Backbone, **settings: Any) -> HyperASR:
    source = replace(config.source, settings={**(config.source.settings or {}), **settings})
    return HyperASR(backbone, config.speaker, source, objective=config.objective)
