"""Adapter sources: each maps a batch to low-rank factors (or a distribution over them)."""

from __future__ import annotations

from hyperasr.sources.base import AdapterSource, Budget
from hyperasr.sources.hypernet import HyperNet, HyperNetConfig
from hyperasr.sources.static import StaticLoRA, StaticLoRAConfig

__all__ = [
    "AdapterSource",
    "Budget",
    "HyperNet",
    "HyperNetConfig",
    "StaticLoRA",
    "StaticLoRAConfig",
]
