"""Principal angles between subspaces of low-rank updates, from their factors alone.

Angles are in radians, the largest first, as in `scipy.linalg.subspace_angles`. Everything is
computed in float64: angles between weights that hardly differ are lost in float32. Definition:
Björck and Golub 1973, Numerical Methods for Computing Angles Between Linear Subspaces, Math. Comp.
27; small angles from their sine: Knyazev and Argentati 2002, SIAM J. Sci. Comput. 23. Which
matrices and spaces arXiv 2406.04240 compared is not known to us; column and row space, whole
updates and differences of updates are our reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import torch
from einops import rearrange
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from hyperasr.errors import ConfigError, HyperASRError, ShapeError
from hyperasr.types import LayerFactors, LoRAFactors

SPACES = ("column", "row")
"""Column space: what an update writes into (d_out); row space: what it reads from (d_in)."""

Array = NDArray[np.float64]


# Utterances worked on at once, and bases in a block of a symmetric product.
_BLOCK = 20


@dataclass(frozen=True)
class DeltaSVD:
    """Singular value decomposition of n updates, delta_weight = left @ diag(values) @ right^T.

    Attributes:
        left: orthonormal columns (n, d_out, rank) float64, the column space.
        values: singular values (n, rank), the largest first.
        right: orthonormal columns (n, d_in, rank), the row space.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    def basis(self, space: str, k: int, what: str = "delta W") -> Tensor:
        """Return the top-k subspace of each update (n, d, k).

        Args:
            space: ``column`` or ``row``.
            k: dimension, at least 1.
            what: names the matrices in errors.
        Raises:
            ConfigError: an unknown space, or an update of lower rank than k, whose top-k subspace
                is not defined.
        """
        if space not in SPACES:
            raise ConfigError(f"the space is 'column' or 'row', not {space!r}")
        lowest, which = self.ranks().min(dim=0)
        if not 1 <= k <= int(lowest):
            raise ConfigError(
                f"{what} of utterance {int(which)} has rank {int(lowest)}, a subspace of "
                f"{k} dimensions was asked for; choose k from 1 to the rank (0: nothing learned)"
            )
        return (self.left if space == "column" else self.right)[..., :k]

    def ranks(self) -> Tensor:
        """Return the numerical rank of each update (n,) int64; 0 for an update that is zero."""
        size = max(self.left.shape[-2], self.right.shape[-2])
        smallest = torch.finfo(torch.float64).eps * size * self.values[..., :1]
        return (self.values > smallest).sum(-1)

    def norms(self) -> Tensor:
        """Return the Frobenius norm of each update (n,)."""
        return self.values.square().sum(-1).sqrt()


def delta_svd(A: Tensor, B: Tensor, scaling: float = 1.0, what: str = "delta W") -> DeltaSVD:
    """Decompose `scaling * B @ A` without building it: QR of the factors, SVD of a small core.

    The result depends on the product alone: (M A, B M^-1) gives the same for every invertible M.

    Args:
        A: down-projections (n, rank, d_in).
        B: up-projections (n, d_out, rank).
        scaling: alpha / rank.
        what: names the matrices in errors.
    Raises:
        ShapeError: shapes that do not fit, or a rank above d_in or d_out.
        ConfigError: factors that are not finite.
    """
    if A.dim() != 3 or B.dim() != 3 or A.shape[0] != B.shape[0] or A.shape[1] != B.shape[2]:
        raise ShapeError(
            f"{what}: A {tuple(A.shape)} and B {tuple(B.shape)} do not fit; expected "
            "(n, rank, d_in) and (n, d_out, rank)"
        )
    rank = A.shape[1]
    if rank > min(A.shape[2], B.shape[1]):
        raise ShapeError(f"{what}: rank {rank} is above d_in {A.shape[2]} or d_out {B.shape[1]}")
    n = A.shape[0]
    left = torch.empty(n, B.shape[1], rank, dtype=torch.float64)
    values = torch.empty(n, rank, dtype=torch.float64)
    right = torch.empty(n, A.shape[2], rank, dtype=torch.float64)
    # A few at a time: float64 copies of all factors would double the memory.
    for start in range(0, n, _BLOCK):
        here = slice(start, start + _BLOCK)
        q_left, r_left = torch.linalg.qr(B[here].detach().to("cpu", torch.float64))
        q_right, r_right = torch.linalg.qr(A[here].detach().to("cpu", torch.float64).mT)
        # What is not finite in a factor is not finite in its R, which is small.
        _require_finite(r_left, r_right, what=what)
        u, values[here], v_t = torch.linalg.svd(r_left @ r_right.mT)
        torch.matmul(q_left, u, out=left[here])
        torch.matmul(q_right, v_t.mT, out=right[here])
    return DeltaSVD(left, abs(scaling) * values, right)


def contrast(factors: LoRAFactors, reference: LoRAFactors) -> LoRAFactors:
    """Return factors of delta_weight minus the reference's: rank is the sum of the ranks.

    With the update of the mean embedding as reference this is what conditioning changes: the part
    that all utterances share cancels, also where it dominates.

    Args:
        factors: A (n_layer, n_utt, rank, d_in), B (n_layer, n_utt, d_out, rank) of each target.
        reference: of the same targets, for as many utterances or one, of any rank.
    Raises:
        ShapeError: the reference has other targets, or neither one utterance nor as many.
    """
    if list(factors) != list(reference) or reference.n_utt not in (1, factors.n_utt):
        raise ShapeError(
            f"the reference is for {reference.n_utt} utterances of {', '.join(reference)}; the "
            f"factors for {factors.n_utt} of {', '.join(factors)}"
        )
    ratio = reference.scaling / factors.scaling
    targets = {}
    for name, pair in factors.targets.items():
        a = reference[name].A.expand(-1, factors.n_utt, -1, -1)
        b = -ratio * reference[name].B.expand(-1, factors.n_utt, -1, -1)
        targets[name] = LayerFactors(torch.cat([pair.A, a], dim=2), torch.cat([pair.B, b], dim=3))
    return LoRAFactors(targets, scaling=factors.scaling, shared=factors.shared)


def principal_angles(X: Tensor, Y: Tensor) -> Tensor:
    """Return the principal angles of pairs of subspaces given by orthonormal bases.

    Angles below 45 degrees come from their sine (singular values of what is left of one basis
    outside the other subspace), the others from their cosine, so that both 1e-12 and pi/2 are
    exact to rounding.

    Args:
        X: (..., d, k) orthonormal columns.
        Y: (..., d, l) orthonormal columns; leading dimensions broadcast.
    Returns:
        (..., min(k, l)) in [0, pi/2], the largest first.
    Raises:
        ShapeError: bases of spaces of different dimension d.
        ConfigError: a basis that is not finite.
    """
    if X.dim() < 2 or Y.dim() < 2 or X.shape[-2] != Y.shape[-2]:
        raise ShapeError(
            f"bases {tuple(X.shape)} and {tuple(Y.shape)} are not of one space; "
            "expected (..., d, k) and (..., d, l)"
        )
    _require_finite(X, Y, what="a basis")
    X, Y = X.to(torch.float64), Y.to(torch.float64)
    if X.shape[-1] < Y.shape[-1]:
        X, Y = Y, X
    product = X.mT @ Y
    cosines = torch.linalg.svdvals(product).flip(-1)
    outside = Y - X @ product
    # The R of a tall matrix has its singular values and is small.
    sines = torch.linalg.svdvals(torch.linalg.qr(outside, mode="r")[1])
    from_cosine = torch.acos(cosines.clamp(max=1.0))
    return torch.where(cosines.square() >= 0.5, torch.asin(sines.clamp(max=1.0)), from_cosine)


def pairwise_angles(bases: Tensor, ranks: Sequence[int] | None = None) -> dict[int, Tensor]:
    """Return the angles of every pair among n subspaces, for several numbers of leading columns.

    One product of all bases serves every pair and rank. Angles come from cosines alone, which
    float64 keeps to 5e-8 radians everywhere; `principal_angles` goes below that.

    Args:
        bases: (n, d, k) orthonormal columns, the most important first.
        ranks: how many leading columns count; None for all k.
    Returns:
        For each rank r: (n_pairs, r), the largest angle first; pairs in the order of
        ``torch.triu_indices(n, n, 1)``.
    Raises:
        ShapeError: a rank outside 1..k.
        ConfigError: a basis that is not finite.
    """
    n, _, k = bases.shape
    ranks = [k] if ranks is None else list(ranks)
    if any(not 1 <= rank <= k for rank in ranks):
        raise ShapeError(f"ranks are {ranks}; the bases have {k} columns")
    _require_finite(bases, what="a basis")
    # Angles of the whole matrix of pairs first; what is wanted of it lies above the diagonal.
    angles = {rank: torch.zeros(n, n, rank, dtype=torch.float64) for rank in ranks}
    for i in range(0, n, _BLOCK):
        rows = _side_by_side(bases[i : i + _BLOCK])
        for j in range(i, n, _BLOCK):
            product = rows.mT @ _side_by_side(bases[j : j + _BLOCK])
            block = rearrange(product, "(p k) (q l) -> p q k l", k=k, l=k)
            p, q = (torch.ones(block.shape[:2]).triu(1 - (j - i))).nonzero(as_tuple=True)
            pairs = block[p, q]
            for rank, found in angles.items():
                found[p + i, q + j] = _angles_of(pairs[:, :rank, :rank])
    first, second = torch.triu_indices(n, n, 1).unbind(0)
    return {rank: found[first, second] for rank, found in angles.items()}


def _side_by_side(bases: Tensor) -> Tensor:
    """Put bases (n, d, k) beside each other: (d, n * k) float64."""
    return bases.to(torch.float64).transpose(0, 1).reshape(bases.shape[1], -1)


def _angles_of(products: Tensor) -> Tensor:
    """Angles (n, k) of products of bases (n, k, k), through the eigenvalues of cosines squared."""
    squares = torch.linalg.eigvalsh(products.mT @ products)
    return torch.acos(squares.clamp(0.0, 1.0).sqrt())


def overlap(angles: Tensor) -> Tensor:
    """Return the mean squared cosine of angles (..., k), radians: 1 same subspace, 0 orthogonal."""
    return angles.cos().square().mean(-1)


def random_angles(d: int, k: int, l: int, n: int, generator: torch.Generator) -> Tensor:  # noqa: E741
    """Draw the angles of independent, uniformly distributed subspaces: the null model.

    Only the k rows of one basis that lie in the other matter, and what the d - k others add to the
    Gram matrix is Wishart, drawn by Bartlett's decomposition: the cost does not depend on d.

    Args:
        d: dimension of the space, at least k + l.
        k, l: dimensions of the subspaces, at least 1.
        n: pairs to draw.
        generator: of the random numbers.
    Returns:
        (n, min(k, l)), the largest angle first.
    Raises:
        ConfigError: a dimension out of range.
    Source: Bartlett 1933; Absil, Edelman and Koev 2006, On the largest principal angle between
        random subspaces, Linear Algebra Appl. 414, for the distribution.
    """
    k, small = max(k, l), min(k, l)
    if small < 1 or n < 1 or d < k + l:
        raise ConfigError(
            f"random subspaces of {k} and {l} dimensions need a space of at least {k + l}, not {d}"
        )
    # numpy draws chi-squared numbers, torch does not.
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    inside = torch.from_numpy(rng.standard_normal((n, k, small)))
    lower = np.tril(rng.standard_normal((n, small, small)), -1)
    diagonal = np.arange(small)
    lower[:, diagonal, diagonal] = np.sqrt(rng.chisquare(d - k - diagonal, (n, small)))
    outside = torch.from_numpy(lower)
    total = torch.linalg.cholesky(inside.mT @ inside + outside @ outside.mT)
    cosines = torch.linalg.solve_triangular(total, inside.mT, upper=False)
    return torch.acos(torch.linalg.svdvals(cosines).clamp(max=1.0)).flip(-1)


def expected_overlap(d: int, k: int, l: int) -> float:  # noqa: E741
    """Return the expected `overlap` of random subspaces of dimensions k and l: max(k, l) / d.

    The expectation of a random projector of rank k is k/d times the identity.
    """
    return max(k, l) / d


def effective_rank(values: Tensor) -> Tensor:
    """Return exp of the entropy of the normalised singular values, over the last dimension.

    1 for one non-zero value, r for r equal ones; nan where all are zero, which has no shape.

    Source: Roy and Vetterli 2007, The effective rank: a measure of effective dimensionality,
        EUSIPCO.
    """
    values = values.to(torch.float64)
    shares = values / values.sum(-1, keepdim=True)
    entropy: Tensor = torch.special.entr(shares).sum(-1)
    return entropy.exp()


def group_basis(svd: DeltaSVD, rows: Sequence[int], space: str, k: int) -> Tensor:
    """Return the top-k subspace of a group of updates (d, k), such as those of one cohort.

    It holds most of the group's energy: the leading eigenvectors of the mean of
    delta_W delta_W^T (row space: delta_W^T delta_W), each update first scaled to norm 1, so that
    every utterance counts the same. Our choice; it does not depend on the A, B basis, and unlike
    the mean of the updates it does not vanish where they point in opposite directions.

    Args:
        svd: of all updates.
        rows: which of them are the group, at least one.
        space: ``column`` or ``row``.
        k: dimension.
    Raises:
        ConfigError: an empty group, one of lower rank than k, or an update that is zero.
    """
    if space not in SPACES:
        raise ConfigError(f"the space is 'column' or 'row', not {space!r}")
    norms = svd.norms()[list(rows)]
    if not len(norms) or not bool((norms > 0).all()):
        raise ConfigError("a group needs at least one update, and none that is zero")
    side = (svd.left if space == "column" else svd.right)[list(rows)]
    weighted = side * (svd.values[list(rows)] / norms[:, None])[:, None, :]
    stacked = weighted.permute(1, 0, 2).reshape(side.shape[1], -1).numpy()
    d, m = stacked.shape
    if k > min(d, m):
        raise ConfigError(f"a group of {len(norms)} updates spans at most {min(d, m)}, not {k}")
    # The smaller of the two Gram matrices; only its leading eigenvectors are computed.
    gram = stacked @ stacked.T if d <= m else stacked.T @ stacked
    size = min(d, m)
    values, vectors = scipy.linalg.eigh(gram, subset_by_index=[size - k, size - 1])
    if values[0] <= 1e-13 * values[-1]:
        raise ConfigError(f"the group's updates span fewer than {k} dimensions; choose a lower k")
    basis = vectors if d <= m else stacked @ vectors
    return torch.from_numpy(np.linalg.qr(np.ascontiguousarray(basis[:, ::-1]))[0])


class TopSubspace:
    """The leading singular vectors of one weight W, ready to be compared with those of W + delta W.

    The update has low rank, but the subspace of the sum mixes it with all of W. The eigenvectors of
    W's smaller Gram matrix are computed once; in their basis the Gram matrix of W + delta W is
    diagonal plus low rank, applied to a vector in O(d rank), and its leading eigenvectors come from
    ARPACK: milliseconds an utterance where an SVD of the sum takes seconds, without truncation.

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
    ) -> dict[int, dict[str, Tensor]]:
        """Return the angles between the top-k subspaces of W and W + scaling * B @ A.

        Args:
            A, B, scaling: as in `updated`.
            ranks: dimensions, each from 1 to k; None for k alone.
        Returns:
            By dimension r and space (``column``, ``row``): (r,) radians, the largest first.
        Raises:
            ConfigError: a rank out of range; others as in `updated`.
        """
        ranks = [self.k] if ranks is None else list(ranks)
        if any(not 1 <= rank <= self.k for rank in ranks):
            raise ConfigError(f"ranks are {ranks}; this subspace has dimensions 1 to {self.k}")
        left, right = self.updated(A, B, scaling)
        return {
            k: {
                "column": principal_angles(self.left[:, :k], left[:, :k]),
                "row": principal_angles(self.right[:, :k], right[:, :k]),
            }
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


def _require_finite(*tensors: Tensor, what: str) -> None:
    for tensor in tensors:
        if not bool(torch.isfinite(tensor).all()):
            raise ConfigError(
                f"{what} holds NaN or inf, so it spans no subspace; find out which training step "
                "or checkpoint brought it in"
            )
