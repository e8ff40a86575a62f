"""Adapter sources: each maps a batch to low-rank factors, or to a distribution over them."""

from __future__ import annotations

from hyperasr.adapters.base import AdapterSource
from hyperasr.adapters.bayes_hypernet import BayesHyperNet, BayesHyperNetConfig
from hyperasr.adapters.build import GAUSSIAN_SOURCES, SourceConfig, new_source
from hyperasr.adapters.hypernet import HyperNet, HyperNetConfig
from hyperasr.adapters.static import StaticLoRA, StaticLoRAConfig
from hyperasr.adapters.variational import BLoRA, BLoRAConfig, VILoRA, VILoRAConfig

__all__ = [
    "GAUSSIAN_SOURCES",
    "AdapterSource",
    "BLoRA",
    "BLoRAConfig",
    "BayesHyperNet",
    "BayesHyperNetConfig",
    "HyperNet",
    "HyperNetConfig",
    "SourceConfig",
    "StaticLoRA",
    "StaticLoRAConfig",
    "VILoRA",
    "VILoRAConfig",
    "new_source",
]
