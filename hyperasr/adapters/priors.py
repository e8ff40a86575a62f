"""Zero-mean Gaussian priors of factors, and the settings that Gaussian sources share.

The data-driven priors are those of *Variational Low-Rank Adaptation for Personalized Impaired
Speech Recognition* (arXiv 2509.20397): the standard deviation of every target layer's pretrained
weight, and for the dual prior a Gaussian mixture of two components over them. How a component
becomes the width of a prior is not published in what we have read; ours is `mixture_prior`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from hyperasr.adapters import lora
from hyperasr.errors import ConfigError, MissingExtra

log = logging.getLogger(__name__)

LOG_SIGMA_RANGE = (-12.0, 2.0)
"""Least and largest log standard deviation of a factor: sigma from 6e-6 to 7.4."""

FROM_WEIGHTS = ("single", "dual")
"""Priors that are fitted to the backbone's weights."""

# Of the variance of all layers together: a component is at least a tenth as wide as the whole.
LEAST_VARIANCE = 1e-2


@dataclass(frozen=True)
class GaussianSettings:
    """Prior and starting width of a Gaussian source."""

    sigma_start: float = 1e-3
    """Standard deviation of the posterior at the start, above 0: our choice, a few percent of A's
    entries."""

    PRIORS: ClassVar[tuple[str, ...]] = ("fixed", *FROM_WEIGHTS)

    prior: str = "fixed"
    """``fixed`` has the width `prior_sigma`; ``single`` the mean deviation of the pretrained target
    weights; ``dual`` that of the layer's component in a mixture of two."""

    prior_sigma: float = 0.1
    """Width of the fixed prior, above 0."""

    def __post_init__(self) -> None:
        check_sigma("sigma_start", self.sigma_start)
        if not (self.prior_sigma > 0 and math.isfinite(self.prior_sigma)):
            raise ConfigError(
                f"prior_sigma is {self.prior_sigma}: a prior of zero width; it must be above 0 and "
                "finite"
            )
        if self.prior not in self.PRIORS:
            raise ConfigError(f"prior must be one of {self.PRIORS}, got {self.prior!r}")


class PriorBuffers(nn.Module):
    """Widths of the prior as buffers, so that a loaded model needs neither backbone nor mixture."""

    def __init__(self, settings: GaussianSettings, targets: Mapping[str, lora.TargetShape]) -> None:
        super().__init__()
        self.dual = settings.prior == "dual"
        self.names = {name: name.replace(".", "_") for name in targets}
        # A data-driven prior is fitted by `fit`, or loaded; until then this keeps its place.
        for name, shape in targets.items():
            width = torch.full((shape.n_layer,), float(settings.prior_sigma))
            self.register_buffer(self.names[name], width)

    def by_target(self) -> dict[str, Tensor]:
        """Return sigma of N(0, sigma^2), for every entry of A and B: (n_layer,) of each target."""
        return {name: self.get_buffer(key) for name, key in self.names.items()}

    def fit(self, deviations: Mapping[str, Tensor]) -> None:
        """Fit a data-driven prior.

        Args:
            deviations: (n_layer,) of each target, as `weight_deviations` returns them.
        """
        for name, width in mixture_prior(deviations, dual=self.dual).items():
            self.register_buffer(self.names[name], width)


@torch.no_grad()
def weight_deviations(whisper: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the standard deviation of each target layer's own weight: (n_layer,) by target.

    Raises:
        ConfigError: a target that is unknown or matches no layer.
    """
    return {
        name: torch.stack([m.weight.double().std().cpu() for m in linears])
        for name, linears in lora.find_targets(whisper, names).items()
    }


def mixture_prior(deviations: Mapping[str, Tensor], *, dual: bool = True) -> dict[str, Tensor]:
    """Let each layer's prior be as wide as the weights of the layers of its kind.

    A component's width is the mean deviation of the layers that belong to it, for A and B alike:
    entries of the factors are expected to be of the size of the weights they adapt. This is our
    choice; the paper's rule is not known to us. One component where the layers are all alike.

    Args:
        deviations: (n_layer,) of each target, as `weight_deviations` returns them.
        dual: two components; False gives one width for all.
    Returns:
        (n_layer,) of each target, above 0.
    Raises:
        ConfigError: weights without spread, which would give a prior of zero width.
        MissingExtra: two components without scikit-learn.
    """
    values = np.concatenate([d.double().numpy() for d in deviations.values()])
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ConfigError(
            "the weights of a target layer have no spread or are not finite: a prior of zero "
            "width; load pretrained weights, or use prior 'fixed'"
        )
    labels = _components(values) if dual else np.zeros(len(values), int)
    means = [float(values[labels == c].mean()) for c in range(labels.max() + 1)]
    widths_said = " and ".join(f"{mean:.4g}" for mean in sorted(means))
    log.info("prior: %d component(s), sigma %s", len(means), widths_said)
    sizes = [len(d) for d in deviations.values()]
    widths = np.split(np.array(means, dtype=np.float32)[labels], np.cumsum(sizes)[:-1])
    return {name: torch.from_numpy(w.copy()) for name, w in zip(deviations, widths, strict=True)}


def _components(values: np.ndarray) -> np.ndarray:
    """Return each value's component, 0 or 1."""
    one = np.zeros(len(values), int)
    spread = values.std()
    if len(values) < 3 or spread < 1e-6 * values.mean():
        return one
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise MissingExtra(
            "the dual prior needs scikit-learn: pip install 'hyperasr[train]', or use prior "
            "'single' or 'fixed'"
        ) from error
    data = ((values - values.mean()) / spread)[:, None]
    mixture = GaussianMixture(2, reg_covar=LEAST_VARIANCE, n_init=5, random_state=0)
    labels = mixture.fit(data).predict(data)
    return labels if len(set(labels)) == 2 else one


def clamp_log_sigma(log_sigma: Tensor) -> Tensor:
    """Hold log standard deviations, of any shape, in `LOG_SIGMA_RANGE`.

    The gradient passes also outside, or a value that overshot could never come back.
    """
    low, high = LOG_SIGMA_RANGE
    return log_sigma + (log_sigma.clamp(low, high) - log_sigma).detach()


def check_sigma(name: str, sigma: float) -> None:
    """Raise ConfigError unless `sigma` is a standard deviation a posterior may have."""
    low, high = (math.exp(bound) for bound in LOG_SIGMA_RANGE)
    if not low <= sigma <= high:
        raise ConfigError(f"{name} is {sigma}; it must be in [{low:.2g}, {high:.2g}]")
