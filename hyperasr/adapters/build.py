"""From a configuration to an adapter source, of any kind, for any Whisper."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from hyperasr.adapters import lora
from hyperasr.adapters.base import AdapterSource
from hyperasr.adapters.bayes_hypernet import BayesHyperNet, BayesHyperNetConfig
from hyperasr.adapters.hypernet import HyperNet, HyperNetConfig
from hyperasr.adapters.priors import FROM_WEIGHTS, weight_deviations
from hyperasr.adapters.static import StaticLoRA, StaticLoRAConfig
from hyperasr.adapters.variational import BLoRA, BLoRAConfig, VILoRA, VILoRAConfig
from hyperasr.errors import ConfigError
from hyperasr.util.config import from_dict

SOURCES: dict[str, tuple[type[Any], type[Any]]] = {
    "hypernet": (HyperNet, HyperNetConfig),
    "bayes_hypernet": (BayesHyperNet, BayesHyperNetConfig),
    "static": (StaticLoRA, StaticLoRAConfig),
    "vi_lora": (VILoRA, VILoRAConfig),
    "blora": (BLoRA, BLoRAConfig),
}
"""The kinds of sources: class and configuration."""

GAUSSIAN_SOURCES = (BayesHyperNet, VILoRA)
"""Sources that give a distribution; `BLoRA` is one of them."""


@dataclass(frozen=True)
class SourceConfig:
    """Which adapter source, on which matrices, with which settings."""

    kind: str = "hypernet"
    """``hypernet``, ``bayes_hypernet``, ``static``, ``vi_lora`` or ``blora``."""
    targets: tuple[str, ...] = (lora.W1,)
    """Names of adapted matrices, such as ``decoder.fc1`` or ``encoder.q_proj``; any subset of
    `hyperasr.adapters.lora.TARGET_NAMES`."""
    settings: dict[str, Any] | None = None
    """Values of the source's own config, such as ``rank``."""

    def __post_init__(self) -> None:
        if self.kind not in SOURCES:
            raise ConfigError(f"no adapter source {self.kind!r}; there are {', '.join(SOURCES)}")
        object.__setattr__(self, "targets", tuple(self.targets))


def new_source(
    config: SourceConfig, whisper: nn.Module, d_spk: int, seed: int = 0, *, fit_prior: bool = True
) -> AdapterSource:
    """Build an untrained source.

    Args:
        config: kind, targets and settings.
        whisper: the backbone that it adapts.
        d_spk: size of the speaker embedding, for conditioned sources.
        seed: of the untrained weights.
        fit_prior: fit a data-driven prior to the backbone's weights; False where it is loaded.
    Raises:
        ConfigError: unknown targets or settings, or a value out of range.
        MissingExtra: the dual prior without scikit-learn.
    """
    kind, kind_config = SOURCES[config.kind]
    settings = dict(config.settings or {})
    if "d_spk" in {field.name for field in fields(kind_config)}:
        settings["d_spk"] = d_spk
    shapes = lora.target_shapes(whisper, config.targets)
    source_config = from_dict(kind_config, settings, f"source {config.kind}")
    source: AdapterSource = kind(
        source_config, shapes, generator=torch.Generator().manual_seed(seed)
    )
    if fit_prior and isinstance(source, GAUSSIAN_SOURCES) and source.gaussian.prior in FROM_WEIGHTS:
        source.prior_sigma.fit(weight_deviations(whisper, config.targets))
    return source
