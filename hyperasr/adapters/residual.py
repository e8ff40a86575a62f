"""Residual adapters: a small bottleneck after each layer of a frozen Whisper, the same for all.

A baseline outside the adapter sources: what is added is a function of the layer's output and not a
change of its weights, so it cannot be generated as low-rank factors, merged or exported.

Bottlenecks inside a frozen network: Houlsby et al., ICML 2019; in residual form after a layer's
feed-forward block: Bapna and Firat, EMNLP 2019; for atypical speech: Tomanek et al., EMNLP 2021.
Which layers and which width the hypernetwork's paper used is not known; ours are choices.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.hooks import RemovableHandle

from hyperasr.adapters import lora
from hyperasr.adapters.checkpoint import load_strictly
from hyperasr.errors import CheckpointMismatch, ConfigError
from hyperasr.util.config import from_dict, to_dict
from hyperasr.util.files import atomic_folder

_Output = Tensor | tuple[Tensor, ...]  # of a layer

FORMAT = "residual_adapters"
PARTS = ("encoder", "decoder")


@dataclass(frozen=True)
class ResidualConfig:
    """Where residual adapters sit and how wide they are."""

    d_bottleneck: int = 16
    """Width of the bottleneck, at least 1."""

    parts: tuple[str, ...] = ("decoder",)
    """``decoder``, ``encoder`` or both; every layer of a part gets an adapter."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if self.d_bottleneck < 1:
            raise ConfigError(f"d_bottleneck is {self.d_bottleneck}; it must be at least 1")
        if not self.parts or len(set(self.parts)) < len(self.parts) or set(self.parts) - {*PARTS}:
            raise ConfigError(f"parts is {self.parts}; give encoder, decoder or both, each once")


class Bottleneck(nn.Module):
    """h + up(relu(down(norm(h)))); `up` starts at zero, so that h passes unchanged."""

    def __init__(self, d_model: int, d_bottleneck: int, generator: torch.Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.down = nn.Linear(d_model, d_bottleneck)
        self.up = nn.Linear(d_bottleneck, d_model)
        with torch.no_grad():
            bound = d_model**-0.5
            start = torch.rand(self.down.weight.shape, generator=generator)
            self.down.weight.copy_((2 * start - 1) * bound)
            for weight in (self.down.bias, self.up.weight, self.up.bias):
                weight.zero_()

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the adapted hidden states, any shape that ends in d_model."""
        update: Tensor = self.up(F.relu(self.down(self.norm(hidden))))
        return hidden + update


class ResidualAdapters(nn.Module):
    """One bottleneck after the feed-forward block of every layer of the chosen parts.

    Args:
        config: width and parts.
        whisper: a Whisper of transformers; read for its shape, not kept.
        seed: of the untrained weights.
    """

    def __init__(self, config: ResidualConfig, whisper: nn.Module, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(seed)
        self.adapters = nn.ModuleDict()
        layers = lora.layers_by_part(whisper)
        for part in config.parts:
            self.adapters[part] = nn.ModuleList(
                Bottleneck(_width(layer), config.d_bottleneck, generator) for layer in layers[part]
            )

    @property
    def adapts_encoder(self) -> bool:
        """Whether encoder states depend on the adapters, so that cached ones do not serve."""
        return "encoder" in self.config.parts

    def attach(self, whisper: nn.Module) -> list[RemovableHandle]:
        """Put the adapters behind the layers of `whisper` until the handles are removed.

        Returns:
            The hooks' handles, each with `remove()`.
        Raises:
            CheckpointMismatch: another number of layers, or another width.
        """
        pairs: list[tuple[nn.Module, nn.Module]] = []
        layers_by_part = lora.layers_by_part(whisper)
        for part in self.config.parts:
            layers, adapters = layers_by_part[part], list(self.adapters[part].children())
            width, theirs = len(adapters[0].get_parameter("norm.weight")), _width(layers[0])
            if (len(adapters), width) != (len(layers), theirs):
                raise CheckpointMismatch(
                    f"these adapters are for {len(adapters)} {part} layers of width {width}, the "
                    f"model has {len(layers)} of {theirs}"
                )
            pairs += zip(layers, adapters, strict=True)
        return [layer.register_forward_hook(_hook(adapter)) for layer, adapter in pairs]

    @contextmanager
    def using(self, whisper: nn.Module) -> Iterator[None]:
        """Adapt `whisper` for the length of the block; errors as `attach`."""
        handles = self.attach(whisper)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        backbone: str,
        fingerprint: str,
        training: dict[str, Any] | None = None,
    ) -> None:
        """Write config.json and model.safetensors.

        Args:
            folder: replaced in one rename.
            backbone: how to find the backbone: as for `Backbone.from_pretrained`.
            fingerprint: of the backbone, see `hyperasr.whisper.backbone.Backbone.fingerprint`.
            training: notes on how they were trained, kept in config.json.
        """
        head = {
            "format": FORMAT,
            "backbone": backbone,
            "backbone_fingerprint": fingerprint,
            "adapters": to_dict(self.config),
            "training": training or {},
        }
        with atomic_folder(Path(folder), replaces=("config.json",)) as temporary:
            tensors = {n: t.detach().contiguous().clone() for n, t in self.state_dict().items()}
            save_file(tensors, temporary / "model.safetensors")
            (temporary / "config.json").write_text(json.dumps(head, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], backbone: Any) -> ResidualAdapters:
        """Load adapters that `save_pretrained` wrote.

        Args:
            folder: of the adapters.
            backbone: the `hyperasr.whisper.backbone.Backbone` they belong to.
        Raises:
            ConfigError: no adapters there.
            CheckpointMismatch: another backbone, or weights that do not fit.
        """
        path = Path(folder)
        try:
            head = json.loads((path / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"no residual adapters in {path}: no readable config.json") from error
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise ConfigError(f"{path} holds no residual adapters; give a folder that holds some")
        backbone.require_fingerprint(head["backbone_fingerprint"], f"the adapter in {path}")
        config = from_dict(ResidualConfig, head["adapters"], str(path / "config.json"))
        adapters = cls(config, backbone.whisper)
        load_strictly(adapters, path / "model.safetensors")
        return adapters.to(backbone.device)


def _hook(adapter: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...], _Output], _Output]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: _Output) -> _Output:
        if isinstance(output, tuple):
            return (adapter(output[0]), *output[1:])
        adapted: Tensor = adapter(output)
        return adapted

    return hook


def _width(layer: nn.Module) -> int:
    return len(layer.get_parameter("final_layer_norm.weight"))
