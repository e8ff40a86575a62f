"""What every adapter source has in common: targets, rank, scaling and a budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hyperasr.adapters.lora import TargetShape
from hyperasr.adapters.posterior import GaussianFactors
from hyperasr.errors import ConfigError
from hyperasr.types import LayerFactors, LoRAFactors

MAX_RANK = 32


class AdapterSource(nn.Module, ABC):
    """A module that says which low-rank factors adapt each utterance of a batch.

    A point source returns `LoRAFactors` itself, a Gaussian source its posterior, `GaussianFactors`;
    whoever decodes or trains turns that into factors (mean or sample) before `lora.using`, so
    nothing else depends on the kind.

    Attributes:
        targets: sizes of each target, by name.
        rank, alpha: of the factors; `scaling = alpha / rank`.
        conditioned: whether `forward` reads the speaker embedding.
        n_generated: factor entries that depend on the utterance.
    """

    conditioned: bool = False
    n_generated: int = 0

    def __init__(self, targets: Mapping[str, TargetShape], rank: int, alpha: float) -> None:
        super().__init__()
        if not targets:
            raise ConfigError("an adapter source needs at least one target, such as decoder.fc1")
        for name, shape in targets.items():
            if rank > min(shape.d_in, shape.d_out):
                raise ConfigError(
                    f"rank {rank} is above the size of target {name!r}, {shape.d_out} x "
                    f"{shape.d_in}; choose at most {min(shape.d_in, shape.d_out)}"
                )
        self.targets: dict[str, TargetShape] = dict(targets)
        self.rank = rank
        self.alpha = alpha

    @property
    def scaling(self) -> float:
        """alpha / rank: delta_weight = scaling * B @ A."""
        return self.alpha / self.rank

    @abstractmethod
    def forward(
        self,
        speaker_emb: Tensor | None = None,
        groups: Sequence[str] | None = None,
    ) -> LoRAFactors | GaussianFactors:
        """Return the factors of a batch, or their distribution.

        Args:
            speaker_emb: (n_utt, d_spk) for a conditioned source.
            groups: cohort or speaker of each utterance, for sources with factors by name.
        Returns:
            A (n_layer, n_utt, rank, d_in) and B (n_layer, n_utt, d_out, rank) of each target, or
            their distribution; n_utt is 1 where one serves all.
        """

    def budget(self, n_backbone: int) -> str:
        """Return the source's size beside a backbone's `n_backbone` parameters, in one line.

        As training programs print it at the start.
        """
        n_source, n_generated = sum(p.numel() for p in self.parameters()), self.n_generated
        return (
            f"budget: source {n_source:,} parameters "
            f"({100 * n_source / n_backbone:.3g} % of the backbone's {n_backbone:,}), "
            f"generates {n_generated:,} per utterance ({100 * n_generated / n_backbone:.3g} %)"
        )

    def pack(
        self, pairs: Mapping[str, tuple[Tensor, Tensor]], *, shared: bool = False
    ) -> LoRAFactors:
        """Wrap A (n_layer, n_utt, rank, d_in) and B (n_layer, n_utt, d_out, rank) by target."""
        targets = {name: LayerFactors(a, b) for name, (a, b) in pairs.items()}
        return LoRAFactors(targets, scaling=self.scaling, shared=shared)

    @staticmethod
    def key(name: str) -> str:
        """Return a target's name in parameter names, where a dot would mean a submodule."""
        return name.replace(".", "_")


def check_rank(rank: int, alpha: float) -> None:
    """Raise ConfigError unless `rank` is in 1..32 and `alpha` above 0."""
    if not 1 <= rank <= MAX_RANK:
        raise ConfigError(f"rank must be in 1..{MAX_RANK}, got {rank}")
    if not alpha > 0:
        raise ConfigError(f"alpha must be above 0, got {alpha}")


def kaiming_start(shape: Sequence[int], d_in: int, generator: torch.Generator) -> Tensor:
    """Draw A as an ordinary LoRA does: uniform in +-1/sqrt(d_in) (Kaiming, a = sqrt(5))."""
    uniform = torch.rand(tuple(shape), generator=generator)
    return (uniform * 2 - 1).mul(d_in**-0.5)
