"""The training objective as one value: what is optimised is what is logged."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["ELBO"]


@dataclass(frozen=True)
class ELBO:
    """Negative evidence lower bound of a batch, in nats.

    Attributes:
        nll: cross-entropy, mean over the scored tokens; scalar.
        kl: divergence of the factors' posterior from its prior; 0 for a point source.
        beta: weight of the divergence.
    """

    nll: Tensor
    kl: Tensor
    beta: float = 0.0

    @property
    def total(self) -> Tensor:
        """nll + beta * kl, the number that is minimised."""
        return self.nll + self.beta * self.kl

    def losses(self) -> dict[str, Tensor]:
        """Return the parts by name, for the training loop and its log."""
        return {"total": self.total, "nll": self.nll, "kl": self.kl}
