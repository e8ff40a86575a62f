"""What is minimised: cross-entropy, divergences and penalties, their weights, and their sum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperasr.adapters import lora
from hyperasr.adapters.posterior import KL_REDUCTIONS
from hyperasr.errors import ConfigError
from hyperasr.types import LoRAFactors, TeacherTokens

_LEAST = 1e-6  # probability of all tokens that a teacher does not name


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
    """

    nll: Tensor
    kl: Tensor
    beta: float = 0.0
    penalty: Tensor | float = 0.0
    nll_weight: float = 1.0
    teacher: Tensor | float = 0.0

    @property
    def total(self) -> Tensor:
        """nll_weight * nll + beta * kl + teacher + penalty, the number that is minimised."""
        return self.nll_weight * self.nll + self.beta * self.kl + self.teacher + self.penalty

    def losses(self) -> dict[str, Tensor]:
        """Return the parts by name, for the training loop and its log; scalars all."""
        names, like = ("total", "nll", "kl", "beta", "teacher", "penalty"), self.nll
        return {
            name: torch.as_tensor(getattr(self, name), dtype=like.dtype, device=like.device)
            for name in names
        }


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the objective: nll_weight nll + teacher KL + beta kl + penalties."""

    nll_weight: float = 1.0
    """Weight of the cross-entropy (nats a token), at least 0; 0.9 in VI LoRA."""

    teacher: float = 0.0
    """Weight of KL(teacher || model) over the next token (nats a token), at least 0: see
    `from_teacher`. It counts where a batch brings a teacher."""

    negatives: int = 0
    """Tokens drawn at random, at least 0, over which training normalises beside those of the batch
    and of its teacher; 0 is the whole vocabulary, which takes most of a step where Whisper is
    small. A sampled softmax (Jean et al., arXiv 1412.2007) without its correction: every token that
    anybody in the batch writes or might write is there. Evaluation never samples."""

    beta: float = 0.0
    """Weight of the divergence from the prior, at least 0; 0.1 in VI LoRA, 0.5 in BLoRA. The exact
    bound of a posterior that all share has 1 / training utterances here, and ``sum``."""

    kl_reduction: str = "mean_per_matrix"
    """``sum``, ``mean_per_matrix`` or ``mean``; see `hyperasr.adapters.posterior.KL_REDUCTIONS`."""

    kl_warmup: float = 0.0
    """Share of the steps in which the divergence's weight rises linearly to beta, in [0, 1]."""

    l2: float = 0.0
    """Weight of the mean squared entry of each matrix A and B, summed over matrices, at least 0:
    a maximum a posteriori LoRA. BLoRA without its noise is beta / (2 sigma_p^2)."""

    typical_penalty: float = 0.0
    """Weight of the relative size of the update on typical utterances, at least 0: do no harm; see
    `relative_size`."""

    def __post_init__(self) -> None:
        for name in ("nll_weight", "teacher", "negatives", "beta", "l2", "typical_penalty"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ConfigError(f"{name} is {value}; it must be a finite number of 0 or more")
        if not 0 <= self.kl_warmup <= 1:
            raise ConfigError(f"kl_warmup is {self.kl_warmup}; it must be in [0, 1]")
        if self.kl_reduction not in KL_REDUCTIONS:
            raise ConfigError(
                f"kl_reduction must be one of {KL_REDUCTIONS}, got {self.kl_reduction!r}"
            )

    def kl_share(self, step: int, n_steps: int) -> float:
        """Return which share of beta counts at a step (the first is 0) of `n_steps`, in (0, 1]."""
        warm = self.kl_warmup * n_steps
        return 1.0 if warm <= 0 else min(1.0, (step + 1) / warm)


def from_teacher(logprobs: Tensor, teacher: TeacherTokens, scored: Tensor) -> Tensor:
    """Return KL(teacher || model) over the next token, mean over the scored places, in nats.

    Knowledge distillation (Hinton et al., arXiv 1503.02531) with the teacher's k most probable
    tokens; all others together are one more class. Places at which the teacher says nothing count
    as 0.

    Args:
        logprobs: of the model (n_scored, n_vocab) float32, natural logarithms.
        teacher: ids and log-probabilities (n_utt, n_max, k).
        scored: which places (n_utt, n_max) bool the rows of `logprobs` are.
    Returns:
        Scalar.
    """
    taught = teacher.logprobs[scored]
    # exp(-inf) is 0, but 0 times what follows from -inf would be no number.
    is_named = torch.isfinite(taught)
    chance = taught.exp()
    model = logprobs.gather(1, teacher.ids[scored])
    named = torch.where(is_named, chance * (taught.nan_to_num(neginf=0.0) - model), 0.0).sum(1)
    rest = (1 - chance.sum(1)).clamp_min(_LEAST)
    model_rest = (1 - torch.where(is_named, model, -torch.inf).exp().sum(1)).clamp_min(_LEAST)
    others = torch.where(is_named.any(1), rest * (rest.log() - model_rest.log()), 0.0)
    return (named + others).mean()


def mean_squares(factors: LoRAFactors) -> Tensor:
    """Return the mean squared entry of each matrix, summed over matrices, mean over utterances.

    Args:
        factors: A (n_layer, n_utt, rank, d_in), B (n_layer, n_utt, d_out, rank) of each target.
    Returns:
        Scalar float32.
    """
    terms = [
        matrix.float().square().mean(dim=(1, 2, 3)).sum()
        for pair in factors.targets.values()
        for matrix in (pair.A, pair.B)
    ]
    return torch.stack(terms).sum()


def relative_size(factors: LoRAFactors, squared_norms: Mapping[str, Tensor]) -> Tensor:
    """Return ||delta W||^2 / ||W||^2 (Frobenius) of each utterance, mean over targets and layers.

    delta W = scaling * B A is never built, see `lora.squared_product_norm`.

    Args:
        factors: A (n_layer, n_utt, rank, d_in), B (n_layer, n_utt, d_out, rank) of each target.
        squared_norms: ||W||^2 of each target's layers (n_layer,), above 0.
    Returns:
        (n_utt,) float32.
    """
    ratios = []
    for name, pair in factors.targets.items():
        norms = squared_norms[name]
        squared = lora.squared_product_norm(pair.A.float(), pair.B.float())
        ratios.append(factors.scaling**2 * squared / norms.to(squared)[:, None])
    return torch.cat(ratios).mean(dim=0)
