"""Adapters that do not depend on the utterance: one for all, or one per cohort or speaker.

The baselines of arXiv 2406.04240 at its three levels: global, cohort, individual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from hyperasr.adapters.base import AdapterSource, check_rank, kaiming_start
from hyperasr.adapters.lora import TargetShape
from hyperasr.adapters.posterior import GaussianFactors
from hyperasr.errors import ConfigError
from hyperasr.types import LoRAFactors
from hyperasr.util.closest import closest


@dataclass(frozen=True)
class StaticLoRAConfig:
    """Rank and level of a `StaticLoRA`."""

    rank: int = 4
    """Rank of the factors, 1..32."""

    alpha: float = 8.0
    """LoRA alpha, > 0; the update is scaled by alpha / rank."""

    by: Literal["global", "cohort", "speaker"] = "global"
    """One set of factors for every utterance, or one for each cohort or speaker."""

    groups: tuple[str, ...] = ()
    """The cohorts or speakers that have factors, each once; empty when global."""

    def __post_init__(self) -> None:
        check_rank(self.rank, self.alpha)
        levels = ("global", "cohort", "speaker")
        if self.by not in levels:
            raise ConfigError(f"by must be one of {levels}, got {self.by!r}")
        if self.by == "global" and self.groups:
            raise ConfigError("global factors have no groups; leave groups empty")
        if self.by != "global" and not self.groups:
            raise ConfigError(f"by={self.by!r} needs groups, the {self.by}s to learn factors for")
        if len(set(self.groups)) != len(self.groups):
            raise ConfigError(f"groups name the same {self.by} twice; list each once")


class StaticLoRA(AdapterSource):
    """Ordinary LoRA: A drawn at random, B zero, the same factors whatever is heard."""

    def __init__(
        self,
        config: StaticLoRAConfig,
        targets: Mapping[str, TargetShape],
        generator: torch.Generator | None = None,
    ) -> None:
        """Build the factors; `generator` decides the initial A (default: seed 0)."""
        super().__init__(targets, config.rank, config.alpha)
        self.config = config
        self._index = {group: i for i, group in enumerate(config.groups)}
        generator = generator or torch.Generator().manual_seed(0)
        n_group, rank = max(1, len(config.groups)), config.rank
        self.A = nn.ParameterDict()
        self.B = nn.ParameterDict()
        for name, shape in self.targets.items():
            start = kaiming_start((shape.n_layer, n_group, rank, shape.d_in), shape.d_in, generator)
            self.A[self.key(name)] = nn.Parameter(start)
            zeros = torch.zeros(shape.n_layer, n_group, shape.d_out, rank)
            self.B[self.key(name)] = nn.Parameter(zeros)

    def forward(
        self,
        speaker_emb: Tensor | None = None,
        groups: Sequence[str] | None = None,
    ) -> LoRAFactors | GaussianFactors:
        """Return shared factors, or each utterance's by its cohort or speaker.

        See `AdapterSource.forward`; the embedding is ignored.

        Raises:
            ConfigError: groups are missing, or one has no factors.
        """
        return self._means(self._rows(groups))

    def _means(self, rows: Tensor | None) -> LoRAFactors:
        """Return the factors of the given groups; shared where there is but one for all."""
        pairs = {
            name: (select(self.A[self.key(name)], rows), select(self.B[self.key(name)], rows))
            for name in self.targets
        }
        return self.pack(pairs, shared=rows is None)

    def _rows(self, groups: Sequence[str] | None) -> Tensor | None:
        """Return which group's factors each utterance takes (n_utt,), or None when global."""
        by = self.config.by
        if by == "global":
            return None
        if isinstance(groups, str) or not groups:
            raise ConfigError(f"factors by {by} need groups: a list with each utterance's {by}")
        for group in groups:
            if group not in self._index:
                close = closest(group, self._index)
                raise ConfigError(
                    f"no factors for {by} {group!r}; there are {len(self._index)}, "
                    f"the closest is {close!r}"
                )
        return torch.tensor([self._index[group] for group in groups])


def select(factor: Tensor, rows: Tensor | None) -> Tensor:
    """Take rows of a factor or its deviations (n_layer, n_group, n, m)."""
    return factor if rows is None else factor.index_select(1, rows.to(factor.device))
