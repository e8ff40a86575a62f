"""Gaussian low-rank factors: a distribution over the adapter of each utterance.

A sample belongs to an utterance, is drawn once, and is kept over all tokens, steps and beams.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hyperasr.adapters.elbo import KL, KLTerm, matrix_kl, reduce_kl
from hyperasr.adapters.priors import FactorPrior
from hyperasr.errors import ConfigError, ShapeError
from hyperasr.types import LayerFactors, LoRAFactors

__all__ = [
    "NOISE_SCHEMES",
    "GaussianFactors",
    "Generators",
    "LogSigma",
    "utterance_generators",
]

NOISE_SCHEMES = ("plain", "flipout")
"""How training noise enters; see `hyperasr.adapters.noise`. ``plain`` draws the factors
themselves."""

Generators = torch.Generator | Sequence[torch.Generator] | None
"""One generator for all rows, one for each row of the result, or torch's own."""


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
        noise: how training noise enters, one of `NOISE_SCHEMES`.
    """

    mu: LoRAFactors
    log_sigma: Mapping[str, LogSigma]
    map_points: bool = False
    noise: str = "plain"

    def __post_init__(self) -> None:
        if set(self.log_sigma) != set(self.mu.targets):
            raise ShapeError(
                f"means are of {sorted(self.mu.targets)}, deviations of {sorted(self.log_sigma)}"
            )
        for name, pair in self.mu.targets.items():
            deviations = self.log_sigma[name]
            for matrix in ("A", "B"):
                mean, log_sigma = getattr(pair, matrix), getattr(deviations, matrix)
                if log_sigma is not None and log_sigma.shape != mean.shape:
                    raise ShapeError(
                        f"{matrix} of target {name!r} has means {tuple(mean.shape)} and "
                        f"deviations {tuple(log_sigma.shape)}"
                    )
            if deviations.A is None and deviations.B is None:
                raise ConfigError(f"target {name!r} has no Gaussian factor; use a point source")
        if self.noise not in NOISE_SCHEMES:
            raise ConfigError(f"noise must be one of {NOISE_SCHEMES}, got {self.noise!r}")
        if self.noise != "plain" and not self.mu.shared:
            raise ConfigError(
                f"noise {self.noise!r} needs one posterior for all utterances; use noise 'plain'"
            )

    @property
    def n_utt(self) -> int:
        """Number of posteriors (1 when shared)."""
        return self.mu.n_utt

    def mean(self) -> LoRAFactors:
        """Return the means as factors."""
        return self.mu

    def sample(
        self, generator: Generators = None, n_samples: int = 1, *, n_utt: int | None = None
    ) -> LoRAFactors:
        """Draw factors; gradients reach means and deviations.

        Args:
            generator: a sequence has a generator for each row of the result, and then a row
                depends on nothing but its own.
            n_samples: of each utterance, at least 1.
            n_utt: utterances of the batch, each with samples of its own; None takes one for each
                posterior. Only a shared posterior has another number.
        Returns:
            Factors of n_utt * n_samples rows, the samples of one utterance adjacent.
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
        if isinstance(generator, Sequence) and len(generator) != n_row:
            raise ShapeError(f"{len(generator)} generators for {n_row} rows; give one a row")
        each = n_row // self.n_utt  # rows of each posterior
        targets = {}
        for name, pair in self.mu.targets.items():
            deviations = self.log_sigma[name]
            a = _drawn(pair.A, deviations.A, each, generator)
            b = _drawn(pair.B, deviations.B, each, generator)
            targets[name] = LayerFactors(a, b)
        return replace(self.mu, targets=targets, shared=self.mu.shared and n_row == 1)

    def kl(self, prior: FactorPrior, reduction: str = "sum", n_tokens: float | Tensor = 1.0) -> KL:
        """Return the divergence from a prior, closed form.

        Args:
            prior: zero-mean Gaussians of every target.
            reduction: one of `hyperasr.adapters.elbo.KL_REDUCTIONS`.
            n_tokens: scored tokens of an average utterance, for ``per_utterance``.
        Raises:
            ConfigError: an unknown reduction, or a target without a prior.
        """
        return reduce_kl(self._kl_terms(prior), reduction, n_tokens)

    def _kl_terms(self, prior: FactorPrior) -> list[KLTerm]:
        terms = []
        for name, pair in self.mu.targets.items():
            log_prior, deviations = prior.log_sigma(name), self.log_sigma[name]
            for mean, log_sigma in ((pair.A, deviations.A), (pair.B, deviations.B)):
                if log_sigma is not None or self.map_points:
                    terms.append(matrix_kl(mean, log_sigma, log_prior))
        return terms


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


def _drawn(mean: Tensor, log_sigma: Tensor | None, each: int, generator: Generators) -> Tensor:
    """Draw `each` rows of every posterior (n_layer, n_row, n, m), adjacent."""
    rows = mean.unsqueeze(2).expand(-1, -1, each, -1, -1)
    if log_sigma is None:
        return rows.flatten(1, 2)
    noise = _noise((mean.shape[0], mean.shape[1] * each, *mean.shape[2:]), mean, generator)
    # Broadcast: means and deviations of a shared posterior are not copied for every utterance.
    noise = noise.unflatten(1, (mean.shape[1], each))
    return torch.addcmul(rows, log_sigma.exp().unsqueeze(2), noise).flatten(1, 2)


def _noise(shape: Sequence[int], like: Tensor, generator: Generators) -> Tensor:
    """Draw standard normal noise (n_layer, n_row, ...); a generator's own device draws it."""
    if generator is None:
        return torch.randn(tuple(shape), dtype=like.dtype, device=like.device)
    if isinstance(generator, torch.Generator):
        noise = torch.randn(tuple(shape), generator=generator, device=generator.device)
        return noise.to(like)
    row_shape = (shape[0], *shape[2:])
    rows = [torch.randn(row_shape, generator=g, device=g.device) for g in generator]
    return torch.stack(rows, dim=1).to(like)
