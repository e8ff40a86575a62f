"""Top-k singular subspaces of a weight before and after a low-rank update, W and W + delta W.

The update has low rank, but the subspace of the sum mixes it with all of W: the low-rank form alone
does not suffice. The eigenvectors of W's smaller Gram matrix are computed once; in their basis the
Gram matrix of W + delta W is diagonal plus low rank, applied to a vector in O(d rank), and its
leading eigenvectors come from ARPACK. So one utterance costs milliseconds where an SVD of W + delta
W costs seconds, without truncating anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from hyperasr.errors import ConfigError, HyperASRError, ShapeError
from hyperasr.metrics.subspace import principal_angles

__all__ = ["TopSubspace", "UpdatedAngles"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class UpdatedAngles:
    """Angles between the top-k subspaces of W and W + delta W: (k,) radians, the largest first.

    Attributes:
        column, row: angles of the left and the right singular subspaces.
    """

    column: Tensor
    row: Tensor


class TopSubspace:
    """The leading singular vectors of one weight, ready to be compared with updated ones.

    Args:
        weight: W (d_out, d_in).
        k: dimension of the subspaces, at least 1 and below min(d_out, d_in).
    Raises:
        ConfigError: k out of range, or a weight that is not finite or of lower rank than k.

    Attributes:
        left: (d_out, k), the leading one first.
        right: (d_in, k).

    Eigenvectors are accurate to rounding over the gap between singular values k and k + 1
    (squared, relative to the first): where there is no gap the subspace is not defined, and the
    angles say so by being large.
    """

    def __init__(self, weight: Tensor, k: int) -> None:
        if weight.dim() != 2 or not 1 <= k < min(weight.shape):
            raise ConfigError(
                f"k is {k}; a weight {tuple(weight.shape)} has top-k subspaces for k from 1 to "
                f"{min(weight.shape) - 1}"
            )
        if not bool(torch.isfinite(weight).all()):
            raise ConfigError("the weight holds NaN or inf; load the backbone again")
        self.k = k
        # Worked on as tall, so that the Gram matrix is the smaller one.
        self.tall = weight.shape[0] >= weight.shape[1]
        full = weight.detach().to(torch.float64)
        self._weight: Tensor = full if self.tall else full.mT
        values, self._vectors = torch.linalg.eigh(self._weight.mT @ self._weight)
        self._values = values.clamp(min=0.0)
        if float(self._values[-k]) <= 1e-13 * float(self._values[-1]):
            raise ConfigError(f"the weight has a rank below {k}; choose a lower k")
        inner = self._vectors[:, -k:].flip(-1)
        outer = torch.linalg.qr(self._weight @ inner)[0]
        self.left, self.right = (outer, inner) if self.tall else (inner, outer)

    @property
    def norm(self) -> float:
        """Frobenius norm of W."""
        return float(self._values.sum().sqrt())

    def updated(self, A: Tensor, B: Tensor, scaling: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return the top-k left (d_out, k) and right (d_in, k) singular vectors of the sum.

        Args:
            A: (rank, d_in).
            B: (d_out, rank).
            scaling: alpha / rank.
        Raises:
            ShapeError: factors that do not fit the weight.
            ConfigError: factors that are not finite.
            HyperASRError: the eigenvectors could not be found.
        """
        out, inner = self._weight.shape if self.tall else self._weight.mT.shape
        if B.shape[:1] != (out,) or A.shape[1:] != (inner,) or A.shape[0] != B.shape[1]:
            raise ShapeError(
                f"A {tuple(A.shape)} and B {tuple(B.shape)} do not fit a weight ({out}, {inner})"
            )
        if not bool(torch.isfinite(A).all() and torch.isfinite(B).all()):
            raise ConfigError("the factors hold NaN or inf, so they span no subspace")
        A = A.detach().to(torch.float64)
        B = scaling * B.detach().to(torch.float64)
        tall_b, tall_a = (B, A) if self.tall else (A.mT, B.mT)
        vectors = self._vectors @ torch.from_numpy(self._leading(tall_a, tall_b))
        vectors = torch.linalg.qr(vectors)[0]
        others = torch.linalg.qr(self._weight @ vectors + tall_b @ (tall_a @ vectors))[0]
        return (others, vectors) if self.tall else (vectors, others)

    def angles(
        self, A: Tensor, B: Tensor, scaling: float = 1.0, ranks: Sequence[int] | None = None
    ) -> dict[int, UpdatedAngles]:
        """Return the angles between W and W + scaling * B @ A, by dimension of the subspaces.

        Args:
            A, B, scaling: as in `updated`.
            ranks: dimensions, each from 1 to k; None for k alone.
        Raises:
            ConfigError: a rank out of range; others as in `updated`.
        """
        ranks = [self.k] if ranks is None else list(ranks)
        if any(not 1 <= rank <= self.k for rank in ranks):
            raise ConfigError(f"ranks are {ranks}; this subspace has dimensions 1 to {self.k}")
        left, right = self.updated(A, B, scaling)
        return {
            k: UpdatedAngles(
                principal_angles(self.left[:, :k], left[:, :k]),
                principal_angles(self.right[:, :k], right[:, :k]),
            )
            for k in ranks
        }

    def _leading(self, A: Tensor, B: Tensor) -> Array:
        """Leading eigenvectors, in W's eigenbasis, of (W + B A)^T (W + B A)."""
        # (W + BA)^T (W + BA) = W^T W + C A + A^T C^T + A^T (B^T B) A with C = W^T B; with
        # D = C + A^T (B^T B) / 2 this is diag + D A + A^T D^T in the basis of W's eigenvectors.
        a = (A @ self._vectors).numpy()
        c = self._vectors.mT @ (self._weight.mT @ B)
        d = c.numpy() + 0.5 * a.T @ (B.mT @ B).numpy()
        diagonal = self._values.numpy()

        def apply(x: Any) -> Array:
            x = np.asarray(x).reshape(len(diagonal), -1)
            product: Array = diagonal[:, None] * x + d @ (a @ x) + a.T @ (d.T @ x)
            return product

        n = len(diagonal)
        operator = LinearOperator((n, n), matvec=apply, matmat=apply, dtype=np.float64)
        # Every direction is present, the leading ones of W most: ARPACK's random start would make
        # the last digits differ from call to call.
        start = np.sqrt(diagonal / diagonal.max()) + 1e-3
        try:
            values, vectors = eigsh(operator, k=self.k, which="LA", v0=start, tol=0)
        except ArpackNoConvergence as error:
            raise HyperASRError(
                f"the top-{self.k} subspace of W + delta W was not found (ARPACK: {error}); "
                "choose another k, at which the singular values have a gap"
            ) from error
        return np.ascontiguousarray(vectors[:, np.argsort(values)[::-1]])
