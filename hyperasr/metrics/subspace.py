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

import numpy as np
import scipy.linalg
import torch
from einops import rearrange
from torch import Tensor

from hyperasr.errors import ConfigError, ShapeError
from hyperasr.types import LayerFactors, LoRAFactors

SPACES = ("column", "row")
"""Column space: what an update writes into (d_out); row space: what it reads from (d_in)."""


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
            ConfigError: an update of lower rank than k, whose top-k subspace is not defined.
        """
        lowest, which = self.ranks().min(dim=0)
        if not 1 <= k <= int(lowest):
            raise ConfigError(
                f"{what} of utterance {int(which)} has rank {int(lowest)}, a subspace of "
                f"{k} dimensions was asked for; choose k from 1 to the rank (0: nothing learned)"
            )
        return self.side(space)[..., :k]

    def side(self, space: str) -> Tensor:
        """Return the orthonormal columns (n, d, rank) of a space."""
        return {"column": self.left, "row": self.right}[space]

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
        ShapeError: a rank above d_in or d_out.
        ConfigError: factors that are not finite.
    """
    rank = A.shape[1]
    if rank > min(A.shape[2], B.shape[1]):
        raise ShapeError(f"{what}: rank {rank} is above d_in {A.shape[2]} or d_out {B.shape[1]}")
    q_left, r_left = torch.linalg.qr(B.detach().to("cpu", torch.float64))
    q_right, r_right = torch.linalg.qr(A.detach().to("cpu", torch.float64).mT)
    # What is not finite in a factor is not finite in its R, which is small.
    _require_finite(r_left, r_right, what=what)
    u, values, v_t = torch.linalg.svd(r_left @ r_right.mT)
    return DeltaSVD(q_left @ u, abs(scaling) * values, q_right @ v_t.mT)


def contrast(factors: LoRAFactors, reference: LoRAFactors) -> LoRAFactors:
    """Return factors of delta_weight minus the reference's: rank is the sum of the ranks.

    With the update of the mean embedding as reference this is what conditioning changes: the part
    that all utterances share cancels, also where it dominates.

    Args:
        factors: A (n_layer, n_utt, rank, d_in), B (n_layer, n_utt, d_out, rank) of each target.
        reference: of the same targets, for as many utterances or one, of any rank.
    """
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
    """
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

    Angles come from cosines alone, which float64 keeps to 5e-8 radians everywhere;
    `principal_angles` goes below that.

    Args:
        bases: (n, d, k) orthonormal columns, the most important first.
        ranks: how many leading columns count; None for all k.
    Returns:
        For each rank r: (n_pairs, r), the largest angle first; pairs in the order of
        ``torch.triu_indices(n, n, 1)``.
    """
    n, d, k = bases.shape
    side_by_side = bases.to(torch.float64).transpose(0, 1).reshape(d, n * k)
    found: dict[int, list[Tensor]] = {rank: [] for rank in ([k] if ranks is None else ranks)}
    for i in range(n):
        product = side_by_side[:, i * k : (i + 1) * k].mT @ side_by_side[:, (i + 1) * k :]
        pairs = rearrange(product, "k (others l) -> others k l", l=k)
        for rank, angles in found.items():
            angles.append(_angles_of(pairs[:, :rank, :rank]))
    return {rank: torch.cat(angles) for rank, angles in found.items()}


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
    Source: Bartlett 1933; Absil, Edelman and Koev 2006, On the largest principal angle between
        random subspaces, Linear Algebra Appl. 414, for the distribution.
    """
    k, small = max(k, l), min(k, l)
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
        k: dimension, up to the lowest rank of the updates.
    """
    rows = list(rows)
    side, values = svd.side(space)[rows], svd.values[rows]
    weighted = side * (values / svd.norms()[rows, None])[:, None, :]
    stacked = weighted.permute(1, 0, 2).reshape(side.shape[1], -1)
    return _leading(stacked, k)[0].contiguous()


def _leading(matrix: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the top-k left (d_out, k) and right (d_in, k) singular vectors of a float64 matrix.

    From the leading eigenvectors of the smaller Gram matrix: accurate to rounding over the gap
    between the singular values k and k + 1 (squared, relative to the first). Without a gap there is
    no such subspace, and its angles are large.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT
    size = tall.shape[1]
    gram = (tall.mT @ tall).numpy()
    vectors = scipy.linalg.eigh(gram, subset_by_index=[size - k, size - 1])[1]
    inner = torch.from_numpy(vectors[:, ::-1].copy())
    outer = torch.linalg.qr(tall @ inner)[0]
    return (outer, inner) if tall is matrix else (inner, outer)


class TopSubspace:
    """The leading singular vectors of one weight W, ready to be compared with those of W + delta W.

    Args:
        weight: W (d_out, d_in).
        k: dimension of the subspaces, at least 1 and below min(d_out, d_in).
    Raises:
        ConfigError: k out of range, or a weight that is not finite.
    """

    def __init__(self, weight: Tensor, k: int) -> None:
        if not 1 <= k < min(weight.shape):
            raise ConfigError(
                f"k is {k}; a weight {tuple(weight.shape)} has top-k subspaces for k from 1 to "
                f"{min(weight.shape) - 1}"
            )
        _require_finite(weight, what="the weight")
        self.k, self._weight = k, weight.detach().to("cpu", torch.float64)
        self._bases = _leading(self._weight, k)

    def angles(
        self, A: Tensor, B: Tensor, scaling: float, ranks: Sequence[int]
    ) -> dict[int, dict[str, Tensor]]:
        """Return the angles between the top-k subspaces of W and W + scaling * B @ A.

        Args:
            A: (rank, d_in).
            B: (d_out, rank).
            scaling: alpha / rank.
            ranks: dimensions, each from 1 to k.
        Returns:
            By dimension r and space (``column``, ``row``): (r,) radians, the largest first.
        Raises:
            ConfigError: factors that are not finite.
        """
        _require_finite(A, B, what="a factor")
        A, B = (factor.detach().to("cpu", torch.float64) for factor in (A, B))
        moved = _leading(self._weight + scaling * B @ A, self.k)
        both = list(zip(SPACES, self._bases, moved, strict=True))
        return {
            r: {space: principal_angles(old[:, :r], new[:, :r]) for space, old, new in both}
            for r in ranks
        }


def _require_finite(*tensors: Tensor, what: str) -> None:
    for tensor in tensors:
        if not bool(torch.isfinite(tensor).all()):
            raise ConfigError(
                f"{what} holds NaN or inf, so it spans no subspace; find out which training step "
                "or checkpoint brought it in"
            )
