"""The hypernetwork with a Bayesian head: a Gaussian over the factors of every utterance.

The deviations come from the same trunk by heads of their own. Which of A and B are Gaussian is a
setting; the published accounts we have read do not describe such a head, so it is ours. A alone
(as in BLoB, arXiv 2406.11675) adds least: with B still zero, no noise of A moves the backbone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from hyperasr.adapters.hypernet import HyperNet, HyperNetConfig, zero_linear
from hyperasr.adapters.lora import TargetShape
from hyperasr.adapters.posterior import GaussianFactors, LogSigma
from hyperasr.adapters.priors import GaussianSettings, PriorBuffers, clamp_log_sigma
from hyperasr.errors import ConfigError


@dataclass(frozen=True)
class BayesHyperNetConfig(GaussianSettings, HyperNetConfig):
    """Settings of a `BayesHyperNet`: those of a `HyperNet`, and these."""

    bayesian: Literal["A", "B", "both"] = "A"
    """Which factors are Gaussian; the other is a point and has no prior."""

    def __post_init__(self) -> None:
        HyperNetConfig.__post_init__(self)
        GaussianSettings.__post_init__(self)
        if self.bayesian not in ("A", "B", "both"):
            raise ConfigError(f"bayesian must be 'A', 'B' or 'both', got {self.bayesian!r}")


class BayesHyperNet(HyperNet):
    """Generate means and log standard deviations of an utterance's factors.

    **Start.** The means start as in a `HyperNet`, so that decoding with the mean is the backbone,
    bit for bit. The heads of the deviations have zero weights too, and their bias is
    log(sigma_start): at first every utterance has the same small noise.
    """

    def __init__(
        self,
        config: BayesHyperNetConfig,
        targets: Mapping[str, TargetShape],
        generator: torch.Generator | None = None,
    ) -> None:
        """Build the network; `generator` decides the initial values (default: seed 0)."""
        super().__init__(config, targets, generator)
        self.gaussian = config
        self.prior_sigma = PriorBuffers(config, self.targets)
        self.sigma_heads = nn.ModuleDict()
        self.bias_sigma = nn.ParameterDict()
        for name, shape in self.targets.items():
            n_out = sum(self._n_deviations(shape))
            self.n_generated += shape.n_layer * n_out
            self.sigma_heads[self.key(name)] = zero_linear(config.d_hidden, n_out)
            start = torch.full((shape.n_layer, n_out), math.log(config.sigma_start))
            self.bias_sigma[self.key(name)] = nn.Parameter(start)

    @property
    def prior(self) -> dict[str, Tensor]:
        """Width of the prior of every target's layers (n_layer,)."""
        return self.prior_sigma.by_target()

    def learning_rate_scales(self) -> dict[str, float]:
        """Return them for the heads of the means and of the deviations; see `HyperNet`."""
        sigma = [f"sigma_heads.{key}.weight" for key in self.sigma_heads]
        return super().learning_rate_scales() | dict.fromkeys(sigma, 1 / self.config.d_hidden)

    def forward(
        self,
        speaker_emb: Tensor | None = None,
        groups: Sequence[str] | None = None,
    ) -> GaussianFactors:
        """Generate the posterior of each utterance; see `HyperNet.forward`.

        Returns:
            Means and log deviations of A (n_layer, n_utt, rank, d_in) and B (n_layer, n_utt, d_out,
            rank) of each target.
        """
        states = self._trunk_states(speaker_emb)
        log_sigma = {name: self._log_sigma(name, hidden) for name, hidden in states.items()}
        return GaussianFactors(self._points(states), log_sigma)

    def _log_sigma(self, name: str, hidden: Tensor) -> LogSigma:
        """Turn (n_layer, n_utt, d_hidden) into log deviations of one target."""
        key, rank = self.key(name), self.rank
        n_a, n_b = self._n_deviations(self.targets[name])
        out = clamp_log_sigma(self.sigma_heads[key](hidden) + self.bias_sigma[key][:, None])
        a, b = torch.split(out, [n_a, n_b], dim=-1)
        return LogSigma(
            rearrange(a, "layer utt (r d_in) -> layer utt r d_in", r=rank) if n_a else None,
            rearrange(b, "layer utt (r d_out) -> layer utt d_out r", r=rank) if n_b else None,
        )

    def _n_deviations(self, shape: TargetShape) -> tuple[int, int]:
        """Count the deviations of one layer: of A and of B."""
        n_a = self.rank * shape.d_in if self.gaussian.bayesian != "B" else 0
        n_b = self.rank * shape.d_out if self.gaussian.bayesian != "A" else 0
        return n_a, n_b
