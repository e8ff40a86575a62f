"""Divergence of Gaussian factors from their prior, and the objective as one value.

The divergence is summed in float64. How its entries become one number is a named option, because
the published strengths differ by orders of magnitude with it: see `KL_REDUCTIONS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperasr.errors import ConfigError

__all__ = [
    "ELBO",
    "KL",
    "KL_REDUCTIONS",
    "LOG_SIGMA_RANGE",
    "KLTerm",
    "clamp_log_sigma",
    "gaussian_kl",
    "matrix_kl",
    "reduce_kl",
]

KL_REDUCTIONS = ("sum", "mean_per_matrix", "mean", "per_utterance")
"""How entries become one number. A matrix is A or B of one layer; rows are posteriors of a batch
(one where a posterior is shared), over which every reduction takes the mean.

- ``sum``: nats of all entries.
- ``mean_per_matrix``: the mean over the entries of each matrix, summed over matrices, as in the
  authors' code of BLoRA (arXiv 2510.18723): its strength grows with the number of matrices.
- ``mean``: the mean over matrices of that mean; nats an entry, the same strength at any size.
- ``per_utterance``: ``sum`` divided by the scored tokens of an utterance, so that with weight 1
  (and `ObjectiveConfig.n_train`) the objective is the exact bound, in nats a token.
"""

LOG_SIGMA_RANGE = (-12.0, 2.0)
"""Least and largest log standard deviation of a factor: sigma from 6e-6 to 7.4."""


@dataclass(frozen=True)
class ELBO:
    """Negative evidence lower bound of a batch, in nats, with its weights.

    Attributes:
        nll: cross-entropy, mean over the scored tokens; scalar.
        kl: divergence of the factors' posterior from its prior, reduced; 0 for a point source.
        beta: weight of the divergence at this step, warm-up included.
        penalty: other regularisers, weighted already (`ObjectiveConfig.l2`, `typical_penalty`).
        nll_weight: weight of the cross-entropy.
        teacher: divergence from a teacher's next tokens, weighted already.
        n_left_out: matrices whose divergence was not finite and is not in `kl`.
    """

    nll: Tensor
    kl: Tensor
    beta: float = 0.0
    penalty: Tensor | float = 0.0
    nll_weight: float = 1.0
    teacher: Tensor | float = 0.0
    n_left_out: Tensor | int = 0

    @property
    def total(self) -> Tensor:
        """nll_weight * nll + beta * kl + teacher + penalty, the number that is minimised."""
        return self.nll_weight * self.nll + self.beta * self.kl + self.teacher + self.penalty

    def losses(self) -> dict[str, Tensor]:
        """Return the parts by name, for the training loop and its log; scalars all."""
        parts: dict[str, Tensor | float] = {
            "total": self.total,
            "nll": self.nll,
            "kl": self.kl,
            "beta": self.beta,
            "teacher": self.teacher,
            "penalty": self.penalty,
            "kl_left_out": self.n_left_out,
        }
        like = self.nll.detach()
        return {
            name: value if isinstance(value, Tensor) else like.new_tensor(float(value))
            for name, value in parts.items()
        }


@dataclass(frozen=True)
class KL:
    """A reduced divergence.

    Attributes:
        value: nats, float64 scalar; NaN where no term is finite.
        n_left_out: terms that were not finite and are not in the value.
    """

    value: Tensor
    n_left_out: Tensor


@dataclass(frozen=True)
class KLTerm:
    """Divergence of one matrix, of all its layers and rows.

    Attributes:
        value: nats, the sum over entries (n_layer, n_row) float64; 0 where not finite.
        finite: which values are (n_layer, n_row).
        n_entries: entries of the matrix.
    """

    value: Tensor
    finite: Tensor
    n_entries: int


def clamp_log_sigma(log_sigma: Tensor) -> Tensor:
    """Hold log standard deviations in `LOG_SIGMA_RANGE`.

    The gradient passes also outside, or a value that overshot could never come back.
    """
    low, high = LOG_SIGMA_RANGE
    return log_sigma + (log_sigma.clamp(low, high) - log_sigma).detach()


def gaussian_kl(mu: Tensor, log_sigma: Tensor | None, prior_log_sigma: Tensor) -> Tensor:
    """Return KL(N(mu, sigma^2) || N(0, prior_sigma^2)) of each entry, in nats.

    Args:
        mu: means, any shape.
        log_sigma: natural logs of standard deviations, the same shape; None for a point, of which
            the part that depends on it remains: minus the log density of the prior, without the
            constant (the limit of an ever narrower Gaussian, whose constant is infinite).
        prior_log_sigma: log standard deviation of the prior, broadcasts.
    """
    from_mean = 0.5 * (mu * torch.exp(-prior_log_sigma)).square()
    if log_sigma is None:
        return from_mean
    ratio = log_sigma - prior_log_sigma
    # expm1 keeps the digits where posterior and prior are almost the same.
    return from_mean + 0.5 * torch.expm1(2 * ratio) - ratio


def matrix_kl(mu: Tensor, log_sigma: Tensor | None, prior_log_sigma: Tensor) -> KLTerm:
    """Sum the divergence over the entries of one matrix.

    A layer and row whose sum is not finite counts as 0, passes no gradient, and is marked.

    Args:
        mu: (n_layer, n_row, n, m).
        log_sigma: the same shape, or None for a point.
        prior_log_sigma: (n_layer,).
    """
    prior = prior_log_sigma.to(mu)[:, None, None, None]

    def nats(mean: Tensor, log_deviation: Tensor | None) -> Tensor:
        return gaussian_kl(mean, log_deviation, prior).sum(dim=(-2, -1), dtype=torch.float64)

    value = nats(mu, log_sigma)
    finite = value.detach().isfinite()
    if not bool(finite.all()):
        # Once more without them: masking only the sum would leave 0 * inf in the gradient.
        keep = finite[..., None, None]
        mean, deviation = (
            t if t is None else torch.where(keep, t, torch.zeros_like(t)) for t in (mu, log_sigma)
        )
        value = torch.where(finite, nats(mean, deviation), torch.zeros_like(value))  # type: ignore[arg-type]
    return KLTerm(value, finite, mu.shape[-2] * mu.shape[-1])


def reduce_kl(terms: Sequence[KLTerm], reduction: str, n_tokens: float | Tensor = 1.0) -> KL:
    """Make one number of the divergences of all matrices; see `KL_REDUCTIONS`.

    Args:
        terms: of every target; what is not finite in them is left out of sums and of averages.
        reduction: one of `KL_REDUCTIONS`.
        n_tokens: scored tokens of an average utterance, for ``per_utterance``.
    Raises:
        ConfigError: an unknown reduction, or nothing to reduce.
    """
    if reduction not in KL_REDUCTIONS:
        raise ConfigError(f"kl_reduction must be one of {KL_REDUCTIONS}, got {reduction!r}")
    if not terms:
        raise ConfigError("no factor has a distribution; there is no divergence to reduce")
    n_row = terms[0].value.shape[1]
    averaged = reduction in ("mean_per_matrix", "mean")
    total = torch.stack([t.value.sum() / (t.n_entries if averaged else 1) for t in terms]).sum()
    n_finite = torch.stack([t.finite.sum() for t in terms]).sum()
    n_all = sum(t.finite.numel() for t in terms)
    if reduction == "mean":
        value = total / n_finite
    else:
        value = total / n_row
    if reduction == "per_utterance":
        value = value / n_tokens
    # A divergence of which nothing is left is not 0.
    value = torch.where(n_finite > 0, value, torch.full_like(value, torch.nan))
    return KL(value, n_all - n_finite)
