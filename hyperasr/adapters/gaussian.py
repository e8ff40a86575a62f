"""What Gaussian sources share: settings of prior and start; the prior, kept in checkpoints."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from hyperasr.adapters.elbo import LOG_SIGMA_RANGE
from hyperasr.adapters.lora import TargetShape
from hyperasr.adapters.priors import FactorPrior, fixed_prior, mixture_prior
from hyperasr.errors import ConfigError

__all__ = ["GaussianSettings", "PriorBuffers", "check_sigma"]

log = logging.getLogger(__name__)
_PRIORS = ("fixed", "single", "dual")


@dataclass(frozen=True)
class GaussianSettings:
    """Prior and starting width of a Gaussian source."""

    sigma_start: float = 1e-3
    """Standard deviation of the posterior at the start, above 0: our choice, a few percent of A's
    entries."""

    prior: Literal["fixed", "single", "dual"] = "fixed"
    """``fixed`` has the width `prior_sigma`; ``single`` the mean deviation of the pretrained target
    weights; ``dual`` that of the layer's component in a mixture of two."""

    prior_sigma: float = 0.1
    """Width of the fixed prior, above 0."""

    prior_scale: float = 1.0
    """Factor of the widths of a data-driven prior, above 0."""

    def __post_init__(self) -> None:
        check_sigma("sigma_start", self.sigma_start)
        for name in ("prior_sigma", "prior_scale"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ConfigError(
                    f"{name} is {value}: a prior of zero width; it must be above 0 and finite"
                )
        if self.prior not in _PRIORS:
            raise ConfigError(f"prior must be one of {_PRIORS}, got {self.prior!r}")


class PriorBuffers(nn.Module):
    """Widths of the prior as buffers, so that a loaded model needs neither backbone nor mixture."""

    def __init__(self, settings: GaussianSettings, targets: Mapping[str, TargetShape]) -> None:
        super().__init__()
        self.settings = settings
        self.names = {name: name.replace(".", "_") for name in targets}
        # A data-driven prior is fitted by `fit`, or loaded; until then this keeps its place.
        self._store(fixed_prior(targets, settings.prior_sigma))

    def forward(self) -> FactorPrior:
        """Return the prior."""
        return FactorPrior({name: getattr(self, key) for name, key in self.names.items()})

    def fit(self, deviations: Mapping[str, Tensor]) -> None:
        """Fit a data-driven prior; a fixed one stays as it is.

        Args:
            deviations: of the pretrained weights, as `priors.weight_deviations` returns them.
        """
        if self.settings.prior == "fixed":
            return
        dual = self.settings.prior == "dual"
        found = mixture_prior(deviations, dual=dual, scale=self.settings.prior_scale)
        log.info("%s", found)
        self._store(found.prior)

    def _store(self, prior: FactorPrior) -> None:
        for name, key in self.names.items():
            self.register_buffer(key, prior.sigma[name].clone())


def check_sigma(name: str, sigma: float) -> None:
    """Raise ConfigError unless `sigma` is a standard deviation a posterior may have."""
    low, high = (math.exp(bound) for bound in LOG_SIGMA_RANGE)
    if not low <= sigma <= high:
        raise ConfigError(f"{name} is {sigma}; it must be in [{low:.2g}, {high:.2g}]")
