"""Gaussian posteriors that do not depend on the utterance: VI LoRA and BLoRA.

`VILoRA` after *Variational Low-Rank Adaptation for Personalized Impaired Speech Recognition*
(arXiv 2509.20397): mean-field Gaussians over A and B, prior from the backbone's weights. `BLoRA`
after *Bayesian Low-Rank Factorization for Robust Model Adaptation* (arXiv 2510.18723) and its
authors' code: a narrow zero-mean prior, a B that is nearly a point, the mean at inference. What is
not published in what we have read (rank, start and prior of VI LoRA; the variant of B behind
BLoRA's tables) is our choice, stated at the setting.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from hyperasr.adapters.lora import TargetShape
from hyperasr.adapters.posterior import NOISE_SCHEMES, GaussianFactors, LogSigma
from hyperasr.adapters.priors import (
    GaussianSettings,
    PriorBuffers,
    check_sigma,
    clamp_log_sigma,
)
from hyperasr.adapters.static import StaticLoRA, StaticLoRAConfig, select
from hyperasr.errors import ConfigError


@dataclass(frozen=True)
class VILoRAConfig(GaussianSettings, StaticLoRAConfig):
    """Settings of a `VILoRA`: rank, level and groups of a `StaticLoRA`, prior and start, and
    these."""

    PRIORS = (*GaussianSettings.PRIORS, "posterior")

    prior: str = "dual"
    """See `GaussianSettings`; the paper compares ``single`` and ``dual``. ``posterior`` is that of
    an earlier training, one for all, which this one goes on from (`go_on_from`)."""

    sigma_B_start: float | None = None  # noqa: N815 (B is a matrix)
    """Standard deviation of B at the start; None as `sigma_start`; 0 makes B a point, which counts
    in the divergence by the density of its prior (maximum a posteriori)."""

    noise: Literal["plain", "flipout"] = "plain"
    """How training noise enters: factors drawn for each utterance, or see
    `hyperasr.adapters.noise`."""

    def __post_init__(self) -> None:
        StaticLoRAConfig.__post_init__(self)
        GaussianSettings.__post_init__(self)
        if self.sigma_B_start:
            check_sigma("sigma_B_start", self.sigma_B_start)
        if self.prior == "posterior" and self.sigma_B_start == 0:
            raise ConfigError("prior 'posterior' needs a B that is no point; set sigma_B_start")
        if self.noise not in NOISE_SCHEMES:
            raise ConfigError(f"noise must be one of {NOISE_SCHEMES}, got {self.noise!r}")
        if self.noise != "plain" and self.by != "global":
            raise ConfigError(
                f"noise {self.noise!r} needs one posterior for all; use noise 'plain'"
            )


@dataclass(frozen=True)
class BLoRAConfig(VILoRAConfig):
    """Settings of a `BLoRA`: those of a `VILoRA` with the defaults of the authors' code."""

    rank: int = 32
    """As in the authors' code, 1..32."""

    alpha: float = 64.0
    """As in the authors' code: at rank 32 the update is scaled by 2."""

    sigma_start: float = 0.0067
    """softplus(-5), the middle of the range the authors draw from."""

    sigma_B_start: float | None = 0.0  # noqa: N815
    """A point: the authors' B has a deviation of 2e-22 that never moves."""

    prior: str = "fixed"
    """Zero mean, one width."""

    prior_sigma: float = 0.01
    """As in the paper."""

    noise: Literal["plain", "flipout"] = "flipout"
    """As in the authors' code, but one sample an utterance; they draw signs per token."""


class VILoRA(StaticLoRA):
    """One Gaussian over the factors for all, or one for each cohort or speaker.

    Means start as an ordinary LoRA, A at random and B zero, so that decoding with the mean starts
    as the backbone, bit for bit.
    """

    def __init__(
        self,
        config: VILoRAConfig,
        targets: Mapping[str, TargetShape],
        generator: torch.Generator | None = None,
    ) -> None:
        """Build the posterior; `generator` decides the initial A (default: seed 0)."""
        generator = generator or torch.Generator().manual_seed(0)
        super().__init__(config, targets, generator)
        self.gaussian = config
        self.prior_sigma = PriorBuffers(config, self.targets)
        b_start = config.sigma_start if config.sigma_B_start is None else config.sigma_B_start
        self.log_sigma_A = nn.ParameterDict()
        self.log_sigma_B = nn.ParameterDict()
        for name in self.targets:
            key = self.key(name)
            start = torch.full_like(self.A[key].detach(), math.log(config.sigma_start))
            self.log_sigma_A[key] = nn.Parameter(start)
            if b_start:
                start = torch.full_like(self.B[key].detach(), math.log(b_start))
                self.log_sigma_B[key] = nn.Parameter(start)
        if config.prior == "posterior":  # of `go_on_from`, or loaded
            for name, values in self._tensors():
                self.register_buffer(f"prior_{name}", torch.zeros_like(values.detach()[:, :1]))

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield means and log deviations by a name for each."""
        for what in ("A", "B", "log_sigma_A", "log_sigma_B"):
            for key, values in getattr(self, what).items():
                yield f"{what}_{key}", values

    @property
    def prior(self) -> dict[str, Tensor] | GaussianFactors:
        """Width of the prior of every target's layers (n_layer,), or the earlier posterior."""
        if self.gaussian.prior != "posterior":
            return self.prior_sigma.by_target()
        pairs, log_sigma = {}, {}
        for name in self.targets:
            a, b, log_a, log_b = (
                self.get_buffer(f"prior_{what}_{self.key(name)}")
                for what in ("A", "B", "log_sigma_A", "log_sigma_B")
            )
            pairs[name] = (a, b)
            log_sigma[name] = LogSigma(clamp_log_sigma(log_a), clamp_log_sigma(log_b))
        return GaussianFactors(self.pack(pairs, shared=True), log_sigma)

    @torch.no_grad()
    def go_on_from(self, other: VILoRA) -> None:
        """Start as another posterior, which becomes the prior; that has to be ``posterior``.

        Args:
            other: one posterior for all, of the same targets, rank and scaling.
        Raises:
            ConfigError: it is by cohort or speaker, or of other shapes.
        """
        if other.config.by != "global":
            raise ConfigError(f"a posterior by {other.config.by} cannot be the prior of another")
        values = dict(other._tensors())
        own = dict(self._tensors())
        shapes = [{n: (v.shape[0], *v.shape[2:]) for n, v in of.items()} for of in (own, values)]
        if shapes[0] != shapes[1] or self.scaling != other.scaling:
            raise ConfigError(
                "the posterior to go on from has other targets, another rank or alpha, or points "
                "where this one has Gaussians"
            )
        for name, tensor in own.items():
            tensor.copy_(values[name].expand_as(tensor))
            self.get_buffer(f"prior_{name}").copy_(values[name])

    def forward(
        self,
        speaker_emb: Tensor | None = None,
        groups: Sequence[str] | None = None,
    ) -> GaussianFactors:
        """Return the shared posterior, or each utterance's by its cohort or speaker.

        See `AdapterSource.forward`; the embedding is ignored.

        Raises:
            ConfigError: groups are missing, or one has no posterior.
        """
        rows = self._rows(groups)
        log_sigma = {}
        for name in self.targets:
            key = self.key(name)
            a, b = (
                clamp_log_sigma(select(deviations[key], rows)) if key in deviations else None
                for deviations in (self.log_sigma_A, self.log_sigma_B)
            )
            log_sigma[name] = LogSigma(a, b)
        return GaussianFactors(
            self._means(rows), log_sigma, map_points=True, noise=self.gaussian.noise
        )


class BLoRA(VILoRA):
    """One Gaussian for all under a narrow prior; its mean serves at inference."""
