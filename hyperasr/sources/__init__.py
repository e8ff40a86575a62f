"""Adapter sources: each maps a batch to low-rank factors, or to a distribution over them."""

from __future__ import annotations

from hyperasr.sources.base import AdapterSource, Budget
from hyperasr.sources.bayes_hypernet import BayesHyperNet, BayesHyperNetConfig
from hyperasr.sources.build import GAUSSIAN_SOURCES, SourceConfig, new_source
from hyperasr.sources.hypernet import HyperNet, HyperNetConfig
from hyperasr.sources.static import StaticLoRA, StaticLoRAConfig
from hyperasr.sources.variational import BLoRA, BLoRAConfig, VILoRA, VILoRAConfig

__all__ = [
    "GAUSSIAN_SOURCES",
    "AdapterSource",
    "BLoRA",
    "BLoRAConfig",
    "BayesHyperNet",
    "BayesHyperNetConfig",
    "Budget",
    "HyperNet",
    "HyperNetConfig",
    "SourceConfig",
    "StaticLoRA",
    "StaticLoRAConfig",
    "VILoRA",
    "VILoRAConfig",
    "new_source",
]
