"""Gaussian low-rank factors: a distribution over the adapter of each utterance.

A sample belongs to an utterance, is drawn once, and is kept over all tokens, steps and beams. The
divergence from the prior is summed in float64; how its entries become one number is a named option,
because the published strengths differ by orders of magnitude with it: see `KL_REDUCTIONS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from hyperasr.errors import ConfigError, ShapeError
from hyperasr.types import LayerFactors, LoRAFactors

KL_REDUCTIONS = ("sum", "mean_per_matrix", "mean")
"""How the divergence of all entries becomes one number. A matrix is A or B of one layer; rows are
posteriors of a batch (one where a posterior is shared), over which each takes the mean.

- ``sum``: nats of all entries, as in the exact bound.
- ``mean_per_matrix``: the mean over the entries of each matrix, summed over matrices, as in the
  authors' code of BLoRA (arXiv 2510.18723): its strength grows with the number of matrices.
- ``mean``: the mean over matrices of that mean; nats an entry, the same strength at any size.
"""

NOISE_SCHEMES = ("plain", "flipout")
"""How training noise enters; see `hyperasr.adapters.noise`. ``plain`` draws the factors
themselves."""

Generators = Sequence[torch.Generator] | None
"""A generator for each row of the result, or torch's own."""


@dataclass(frozen=True)
class LogSigma:
    """Natural logs of the standard deviations of one target's factors; None for a point.

    Attributes:
        A: (n_layer, n_row, rank, d_in) or None.
        B: (n_layer, n_row, d_out, rank) or None.
    """

    A: Tensor | None
    B: Tensor | None


@dataclass(frozen=True)
class GaussianFactors:
    """Independent Gaussians over factors.

    Attributes:
        mu: means; shared where one posterior serves every utterance (n_row is 1).
        log_sigma: log standard deviations of each target.
        map_points: whether a factor that is a point counts in the divergence with minus the log
            density of the prior.
        noise: how training noise enters, one of `NOISE_SCHEMES`; other than ``plain`` only where
            shared.
    """

    mu: LoRAFactors
    log_sigma: Mapping[str, LogSigma]
    map_points: bool = False
    noise: str = "plain"

    @property
    def n_utt(self) -> int:
        """Number of posteriors (1 when shared)."""
        return self.mu.n_utt

    def mean(self) -> LoRAFactors:
        """Return the means as factors."""
        return self.mu

    def sample(
        self, generators: Generators = None, n_samples: int = 1, *, n_utt: int | None = None
    ) -> LoRAFactors:
        """Draw factors; gradients reach means and deviations.

        Args:
            generators: of each row of the result, which then depends on nothing but its own; None
                is torch's own.
            n_samples: of each utterance, at least 1.
            n_utt: utterances of the batch, each with samples of its own; None takes one for each
                posterior. Only a shared posterior has another number.
        Returns:
            A (n_layer, n_row, rank, d_in), B (n_layer, n_row, d_out, rank) of each target, with
            n_row n_utt * n_samples, the samples of one utterance adjacent.
        Raises:
            ConfigError: fewer than one sample.
            ShapeError: another number of posteriors than utterances, or of generators than rows.
        """
        if n_samples < 1:
            raise ConfigError(f"n_samples is {n_samples}; it must be at least 1")
        n_utt = self.n_utt if n_utt is None else n_utt
        if n_utt != self.n_utt and not self.mu.shared:
            raise ShapeError(f"posteriors are of {self.n_utt} utterances, the batch has {n_utt}")
        n_row = n_utt * n_samples
        if generators is not None and len(generators) != n_row:
            raise ShapeError(f"{len(generators)} generators for {n_row} rows; give one a row")
        each = n_row // self.n_utt  # rows of each posterior
        targets = {}
        for name, pair in self.mu.targets.items():
            deviations = self.log_sigma[name]
            a = _drawn(pair.A, deviations.A, each, generators)
            b = _drawn(pair.B, deviations.B, each, generators)
            targets[name] = LayerFactors(a, b)
        return replace(self.mu, targets=targets, shared=self.mu.shared and n_row == 1)

    def kl(self, prior: Mapping[str, Tensor] | GaussianFactors, reduction: str = "sum") -> Tensor:
        """Return the divergence from a prior in nats, closed form; float64 scalar.

        Args:
            prior: of mean zero, by the standard deviations of each target's layers (n_layer,), for
                A and B alike; or another posterior, one for all, of which neither factor is a
                point.
            reduction: one of `KL_REDUCTIONS`.
        """
        terms, n_matrices = [], 0
        for name, pair in self.mu.targets.items():
            for letter in "AB":
                mean, log_sigma = getattr(pair, letter), getattr(self.log_sigma[name], letter)
                if log_sigma is None and not self.map_points:
                    continue
                if isinstance(prior, GaussianFactors):
                    log_prior = getattr(prior.log_sigma[name], letter)
                    mean = mean - getattr(prior.mu.targets[name], letter)
                else:
                    log_prior = prior[name].log().to(mean)[:, None, None, None]
                entries = gaussian_kl(mean, log_sigma, log_prior)
                nats = entries.sum(dim=(-2, -1), dtype=torch.float64)  # (n_layer, n_utt)
                terms.append(nats.sum() / (1 if reduction == "sum" else mean[0, 0].numel()))
                n_matrices += nats.numel()
        return torch.stack(terms).sum() / (n_matrices if reduction == "mean" else self.n_utt)


def gaussian_kl(mu: Tensor, log_sigma: Tensor | None, prior_log_sigma: Tensor) -> Tensor:
    """Return KL(N(mu, sigma^2) || N(0, prior_sigma^2)) of each entry, in nats.

    Args:
        mu: means, any shape.
        log_sigma: natural logs of standard deviations, the same shape; None for a point, of which
            the part that depends on it remains: minus the log density of the prior, without the
            constant (the limit of an ever narrower Gaussian, whose constant is infinite).
        prior_log_sigma: log standard deviation of the prior, broadcasts.
    Returns:
        The shape of `mu`.
    Source: Kingma and Welling, arXiv 1312.6114, appendix B.
    """
    from_mean = 0.5 * (mu * torch.exp(-prior_log_sigma)).square()
    if log_sigma is None:
        return from_mean
    ratio = log_sigma - prior_log_sigma
    # expm1 keeps the digits where posterior and prior are almost the same.
    return from_mean + 0.5 * torch.expm1(2 * ratio) - ratio


def utterance_generators(
    seed: int, keys: Sequence[str], n_samples: int = 1
) -> list[torch.Generator]:
    """Return a generator for each sample of each utterance, samples of one utterance adjacent.

    It follows from (seed, key, number of the sample) alone: neither the batch an utterance is in
    nor how many samples are drawn changes a sample.
    """
    generators = []
    for key in keys:
        for k in range(n_samples):
            digest = hashlib.sha256(f"{seed}/{k}/{key}".encode()).digest()
            value = int.from_bytes(digest[:8], "big") >> 1
            generators.append(torch.Generator().manual_seed(value))
    return generators


def _drawn(mean: Tensor, log_sigma: Tensor | None, each: int, generators: Generators) -> Tensor:
    """Draw `each` rows of every posterior (n_layer, n_row, n, m), adjacent."""
    rows = mean.unsqueeze(2).expand(-1, -1, each, -1, -1)
    if log_sigma is None:
        return rows.flatten(1, 2)
    n_layer, n_posterior, *entries = mean.shape
    if generators is None:
        shape = (n_layer, n_posterior * each, *entries)
        noise = torch.randn(shape, dtype=mean.dtype, device=mean.device)
    else:  # a generator's own device draws
        of_rows = [torch.randn(n_layer, *entries, generator=g, device=g.device) for g in generators]
        noise = torch.stack(of_rows, dim=1).to(mean)
    # Broadcast: means and deviations of a shared posterior are not copied for every utterance.
    noise = rearrange(noise, "layer (row each) n m -> layer row each n m", each=each)
    return torch.addcmul(rows, log_sigma.exp().unsqueeze(2), noise).flatten(1, 2)
