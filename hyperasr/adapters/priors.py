"""Zero-mean Gaussian priors of factors: of one width, or of widths that follow the backbone.

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

import numpy as np
import torch
from torch import Tensor, nn

from hyperasr.adapters import lora
from hyperasr.errors import ConfigError, MissingExtra, ShapeError

__all__ = ["FactorPrior", "MixtureFit", "fixed_prior", "mixture_prior", "weight_deviations"]

log = logging.getLogger(__name__)

# Of the variance of all layers together: a component is at least a tenth as wide as the whole.
_LEAST_VARIANCE = 1e-2


@dataclass(frozen=True)
class FactorPrior:
    """N(0, sigma^2) for every entry of A and B alike, with a sigma for each layer.

    Attributes:
        sigma: (n_layer,) of each target, above 0.
    """

    sigma: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        for name, sigma in self.sigma.items():
            if sigma.dim() != 1:
                raise ShapeError(
                    f"prior of target {name!r} is {tuple(sigma.shape)}, expected (n_layer,)"
                )
            right = (sigma > 0) & sigma.isfinite()
            if not bool(right.all()):
                raise ConfigError(
                    f"prior of target {name!r} has width {float(sigma[~right][0]):g}; it must be "
                    "above 0 and finite"
                )

    def log_sigma(self, name: str) -> Tensor:
        """Return the log standard deviations of a target's layers (n_layer,).

        Raises:
            ConfigError: the target has no prior.
        """
        if name not in self.sigma:
            raise ConfigError(f"no prior for target {name!r}; there are {', '.join(self.sigma)}")
        return self.sigma[name].log()


@dataclass(frozen=True)
class MixtureFit:
    """What a mixture made of the layers' deviations.

    Attributes:
        prior: each layer with the prior of its component.
        sigmas: the width of each component, narrow first.
    """

    prior: FactorPrior
    sigmas: tuple[float, ...]

    def __str__(self) -> str:
        """Say it in one line."""
        widths = " and ".join(f"{sigma:.4g}" for sigma in self.sigmas)
        return f"prior: {len(self.sigmas)} component(s), sigma {widths}"


def fixed_prior(targets: Mapping[str, lora.TargetShape], sigma: float) -> FactorPrior:
    """Return one width for every layer of every target.

    Raises:
        ConfigError: a width that is not above 0.
    """
    return FactorPrior({n: torch.full((s.n_layer,), float(sigma)) for n, s in targets.items()})


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


def mixture_prior(
    deviations: Mapping[str, Tensor],
    *,
    dual: bool = True,
    scale: float = 1.0,
    seed: int = 0,
) -> MixtureFit:
    """Let each layer's prior be as wide as the weights of the layers of its kind.

    A component's width is the mean deviation of the layers that belong to it, times `scale`, for A
    and B alike: entries of the factors are expected to be of the size of the weights they adapt.
    This is our choice; the paper's rule is not known to us. One component where the layers are all
    alike.

    Args:
        deviations: (n_layer,) of each target, as `weight_deviations` returns them.
        dual: two components; False gives one width for all.
        scale: of every width, above 0.
        seed: of the mixture's starts.
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
    if not (scale > 0 and math.isfinite(scale)):
        raise ConfigError(f"prior_scale is {scale}; it must be above 0")
    labels = _components(values, seed) if dual else np.zeros(len(values), int)
    means = [float(values[labels == c].mean()) * scale for c in range(labels.max() + 1)]
    order = sorted(range(len(means)), key=lambda c: means[c])
    widths = torch.tensor([means[c] for c in labels], dtype=torch.float32)
    sizes = [len(d) for d in deviations.values()]
    prior = FactorPrior(dict(zip(deviations, widths.split(sizes), strict=True)))
    return MixtureFit(prior, tuple(means[c] for c in order))


def _components(values: np.ndarray, seed: int) -> np.ndarray:
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
    mixture = GaussianMixture(2, reg_covar=_LEAST_VARIANCE, n_init=5, random_state=seed)
    labels = mixture.fit(data).predict(data)
    return labels if len(set(labels)) == 2 else one
