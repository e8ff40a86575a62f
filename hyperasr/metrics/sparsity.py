"""How much of what was learned is nothing: sparsity of updates and of their factors.

The names are those of BLoRA (arXiv 2510.18723), whose text and code define none of them; what is
below is our reading. Of these numbers the shares below a threshold mix size with sparsity; Hoyer's
index, top energy and effective rank do not change when a matrix is scaled.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperasr.adapters.lora import delta_weight
from hyperasr.errors import ConfigError
from hyperasr.metrics.subspace import delta_svd, effective_rank
from hyperasr.types import LoRAFactors

THRESHOLD = 1e-3
_ADAPTIVE = 0.5
_TOP_SHARE = 0.01


@dataclass(frozen=True)
class Sparsity:
    """Sparsity of one matrix; fractions but for the effective rank.

    nan stands where an all-zero matrix leaves a number without meaning.
    """

    below: float
    """Share of entries smaller than 1e-3 in size (Thresh@1e-3)."""
    adaptive: float
    """Share of entries smaller than half the matrix's own standard deviation (Adaptive@0.5)."""
    top_energy: float
    """Share of the squared norm that the largest 1 % of the entries hold (Top-1 % energy)."""
    hoyer: float
    """Hoyer's index: 0 all entries equal in size, 1 a single one is not zero."""
    effective_rank: float
    """Exponential of the entropy of the normalised singular values."""


def share_below(matrix: Tensor, threshold: float = THRESHOLD) -> float:
    """Return the share of entries with absolute value below `threshold`; any shape."""
    return float((matrix.abs() < threshold).double().mean())


def adaptive_share(matrix: Tensor) -> float:
    """Return the share of entries below half the standard deviation of all entries.

    What "Adaptive@0.5" means is not published; this reading compares each matrix with itself
    (population standard deviation). A normal distribution gives 0.383, a Laplace one 0.507; nan
    for a constant matrix, which has no deviation.
    """
    values = matrix.double()
    deviation = float(values.std(correction=0))
    return share_below(values, _ADAPTIVE * deviation) if deviation > 0 else math.nan


def top_energy(matrix: Tensor) -> float:
    """Return what part of the sum of squares the largest 1 % of the entries hold.

    The number of entries is rounded up, so that there is at least one; nan for a zero matrix.
    """
    squares = matrix.double().square().flatten()
    total = float(squares.sum())
    # Rounded first: 0.01 * 700 is a hair above 7.
    n_top = max(1, math.ceil(round(_TOP_SHARE * squares.numel(), 6)))
    return float(squares.topk(n_top).values.sum()) / total if total > 0 else math.nan


def hoyer(matrix: Tensor) -> float:
    """Return (sqrt(n) - |x|_1 / |x|_2) / (sqrt(n) - 1) over the n entries; nan for zeros.

    Source: Hoyer 2004, Non-negative matrix factorization with sparseness constraints, JMLR 5.
    """
    values = matrix.double().flatten()
    norm, root = float(values.norm()), math.sqrt(values.numel())
    if norm == 0 or root == 1:
        return math.nan
    return (root - float(values.abs().sum()) / norm) / (root - 1)


def delta_sparsity(factors: LoRAFactors, name: str, layer: int) -> list[Sparsity]:
    """Return the sparsity of delta_weight (d_out, d_in) of one layer, one value an utterance.

    The matrices are built one utterance at a time; singular values come from the factors.

    Raises:
        ConfigError: factors that are not finite.
    """
    return [_delta_sparsity(factors, name, layer, utt) for utt in range(factors.n_utt)]


def _delta_sparsity(factors: LoRAFactors, name: str, layer: int, utt: int) -> Sparsity:
    one = factors.map(lambda t: t[:, utt : utt + 1])
    delta = delta_weight(one, name, layer)[0].detach()
    pair = one[name]
    svd = delta_svd(pair.A[layer], pair.B[layer], factors.scaling, f"{name}, layer {layer}")
    return _sparsity(delta, svd.values[0])


def factor_sparsity(factors: LoRAFactors, name: str, layer: int, factor: str) -> list[Sparsity]:
    """Return the sparsity of A (rank, d_in) or B (d_out, rank) of one layer, one an utterance.

    Unlike those of delta_weight these numbers depend on the basis: (M A, B M^-1) has others.

    Raises:
        ConfigError: factors that are not finite.
    """
    matrices = getattr(factors[name], factor)[layer].detach().double()
    if not bool(torch.isfinite(matrices).all()):
        raise ConfigError(f"factor {factor} of {name}, layer {layer} holds NaN or inf")
    return [_sparsity(m, torch.linalg.svdvals(m)) for m in matrices]


def mean_sparsity(values: Sequence[Sparsity]) -> Sparsity:
    """Return the mean of each number over several matrices, those without a meaning left out."""
    means = {}
    for field in dataclasses.fields(Sparsity):
        numbers = [x for x in (getattr(v, field.name) for v in values) if not math.isnan(x)]
        means[field.name] = sum(numbers) / len(numbers) if numbers else math.nan
    return Sparsity(**means)


def _sparsity(matrix: Tensor, singular_values: Tensor) -> Sparsity:
    return Sparsity(
        share_below(matrix),
        adaptive_share(matrix),
        top_energy(matrix),
        hoyer(matrix),
        float(effective_rank(singular_values)),
    )
