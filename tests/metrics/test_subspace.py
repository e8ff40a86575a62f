"""Angles against scipy on full matrices; the null model against plain draws; the update method."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from hyperasr.adapters.lora import delta_weight
from hyperasr.errors import ConfigError, ShapeError
from hyperasr.metrics.subspace import (
    TopSubspace,
    contrast,
    delta_svd,
    effective_rank,
    expected_overlap,
    group_basis,
    overlap,
    pairwise_angles,
    principal_angles,
    random_angles,
)
from hyperasr.types import LayerFactors, LoRAFactors


def draw(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def basis(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.linalg.qr(draw(generator, *shape))[0]


@pytest.mark.parametrize(("k", "l"), [(3, 3), (4, 2), (2, 5), (1, 1)])
def test_angles_are_those_of_scipy(generator, k, l) -> None:  # noqa: E741
    M, N = draw(generator, 7, 12, k), draw(generator, 7, 12, l)
    found = principal_angles(*(torch.linalg.qr(matrix)[0] for matrix in (M, N)))
    for m, n, angles in zip(M, N, found, strict=True):
        expected = scipy.linalg.subspace_angles(m.numpy(), n.numpy())
        np.testing.assert_allclose(angles.numpy(), expected, atol=1e-13)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-9, 1e-5, 0.1, math.pi / 4, 1.0, math.pi / 2])
def test_an_angle_put_in_comes_out(generator, angle) -> None:
    frame = basis(generator, 20, 4)
    X = frame[:, :2]
    turned = math.cos(angle) * frame[:, 1] + math.sin(angle) * frame[:, 2]
    Y = torch.stack([frame[:, 0], turned], dim=1) @ basis(generator, 2, 2)
    largest, smallest = principal_angles(X, Y).tolist()
    assert largest == pytest.approx(angle, rel=1e-5, abs=1e-15)
    assert smallest == pytest.approx(0.0, abs=1e-15)
    # The cosine alone cannot tell 1e-12 from 0.
    assert pairwise_angles(torch.stack([X, Y]))[2][0, 0] == pytest.approx(angle, abs=5e-8)


def full_svd_basis(delta: torch.Tensor, space: str, k: int) -> np.ndarray:
    u, _, vt = np.linalg.svd(delta.double().numpy())
    return u[:, :k] if space == "column" else vt[:k].T


@pytest.mark.parametrize("space", ["column", "row"])
@pytest.mark.parametrize("k", [1, 3, 4])
def test_updates_from_their_factors_are_those_of_the_full_matrices(generator, space, k) -> None:
    A, B = (draw(generator, 5, *s).float() for s in ((4, 15), (20, 4)))
    factors = LoRAFactors({"decoder.fc1": LayerFactors(A[None], B[None])}, scaling=0.5)
    delta = delta_weight(factors, "decoder.fc1", 0)
    svd = delta_svd(A, B, 0.5)
    whole = torch.linalg.svdvals(delta.double())[:, :4]
    torch.testing.assert_close(svd.values, whole, atol=1e-6, rtol=1e-6)
    pairs = torch.triu_indices(5, 5, 1).T.tolist()
    found = pairwise_angles(svd.basis(space, 4), [k])[k]
    for (i, j), angles in zip(pairs, found, strict=True):
        bases = [full_svd_basis(delta[n], space, k) for n in (i, j)]
        expected = scipy.linalg.subspace_angles(*bases)
        np.testing.assert_allclose(angles.numpy(), expected, atol=1e-6)
    one = principal_angles(svd.basis(space, k)[:1], svd.basis(space, k)[1:])
    np.testing.assert_allclose(one.numpy(), found[: len(one)].numpy(), atol=5e-8)


def test_nothing_depends_on_the_basis_of_the_factors(generator) -> None:
    A, B = draw(generator, 3, 4, 12), draw(generator, 3, 15, 4)
    M = draw(generator, 3, 4, 4)
    first, second = delta_svd(A, B), delta_svd(M @ A, B @ torch.linalg.inv(M))
    torch.testing.assert_close(first.values, second.values)
    torch.testing.assert_close(effective_rank(first.values), effective_rank(second.values))
    for space in ("column", "row"):
        same = principal_angles(first.basis(space, 2), second.basis(space, 2))
        assert float(same.max()) < 1e-10
        groups = [group_basis(svd, range(3), space, 3) for svd in (first, second)]
        assert float(principal_angles(*groups).max()) < 1e-7
    # The factors themselves do change their spaces' bases: the test can fail.
    assert not torch.allclose(A, M @ A, atol=0.1)


def test_pairs_are_in_the_order_of_the_triangle(generator) -> None:
    bases = basis(generator, 9, 14, 3)
    first, second = torch.triu_indices(9, 9, 1)
    for rank, angles in pairwise_angles(bases, [1, 3]).items():
        expected = principal_angles(bases[first, :, :rank], bases[second, :, :rank])
        torch.testing.assert_close(angles, expected, atol=1e-7, rtol=0)
    assert pairwise_angles(bases[:1])[3].shape == (0, 3)


@pytest.mark.parametrize(("d", "k", "l"), [(30, 4, 4), (30, 5, 2), (12, 1, 3), (6, 3, 3)])
def test_the_null_model_draws_what_random_subspaces_have(generator, d, k, l) -> None:  # noqa: E741
    n = 4000
    fast = random_angles(d, k, l, n, generator)
    slow = principal_angles(basis(generator, n, d, k), basis(generator, n, d, l))
    assert fast.shape == slow.shape == (n, min(k, l))
    for column in range(min(k, l)):
        p = scipy.stats.ks_2samp(fast[:, column].numpy(), slow[:, column].numpy()).pvalue
        assert p > 1e-3
    spread = float(overlap(fast).std()) / n**0.5
    assert float(overlap(fast).mean()) == pytest.approx(expected_overlap(d, k, l), abs=5 * spread)


def test_the_null_of_a_line_is_a_beta_distribution(generator) -> None:
    squares = random_angles(25, 3, 1, 5000, generator).cos().square()[:, 0].numpy()
    assert scipy.stats.kstest(squares, scipy.stats.beta(3 / 2, 22 / 2).cdf).pvalue > 1e-3


def test_effective_rank_by_hand() -> None:
    values = torch.tensor([[3.0, 0, 0], [2, 2, 0], [1, 1, 1], [2, 1, 1]])
    found = effective_rank(values).tolist()
    assert found == pytest.approx([1, 2, 3, math.exp(0.5 * math.log(2) + 0.5 * math.log(4))])
    assert effective_rank(10 * values).tolist() == pytest.approx(found)
    assert math.isnan(effective_rank(torch.zeros(2)))


def test_a_contrast_is_the_difference_of_the_updates(generator) -> None:
    def factors(n: int, rank: int, scaling: float) -> LoRAFactors:
        pair = LayerFactors(draw(generator, 2, n, rank, 9), draw(generator, 2, n, 11, rank))
        return LoRAFactors({"decoder.fc1": pair}, scaling=scaling)

    own, mean = factors(3, 2, 2.0), factors(1, 3, 0.5)
    for layer in range(2):
        expected = delta_weight(own, "decoder.fc1", layer) - delta_weight(
            mean, "decoder.fc1", layer
        )
        found = delta_weight(contrast(own, mean), "decoder.fc1", layer)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("n", [2, 12])  # spans less and more than the whole space
def test_a_group_is_what_holds_most_of_its_energy(generator, n) -> None:
    A, B = draw(generator, n, 2, 10), draw(generator, n, 13, 2)
    A[0] *= 100  # one loud utterance counts no more than the others
    svd = delta_svd(A, B)
    deltas = B @ A
    deltas = deltas / deltas.flatten(1).norm(dim=1)[:, None, None]
    moments = {"column": (deltas @ deltas.mT).sum(0), "row": (deltas.mT @ deltas).sum(0)}
    for space, moment in moments.items():
        expected = torch.linalg.eigh(moment)[1][:, -3:]
        angles = principal_angles(group_basis(svd, range(n), space, 3), expected)
        assert float(angles.max()) < 1e-6
    alone = group_basis(svd, [1], "row", 2)
    assert float(principal_angles(alone, svd.basis("row", 2)[1]).max()) < 1e-7


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (35, 35)])
@pytest.mark.parametrize("size", [1e-5, 0.1, 3.0])
def test_updated_weights_have_the_subspaces_of_their_full_svd(generator, shape, size) -> None:
    W = draw(generator, *shape)
    A, B = draw(generator, 3, shape[1]), size * draw(generator, shape[0], 3)
    top = TopSubspace(W, 4)
    found = top.angles(A, B, 0.5, [4])[4]
    for space, angles in found.items():
        bases = [full_svd_basis(w, space, 4) for w in (W, W + 0.5 * B @ A)]
        expected = scipy.linalg.subspace_angles(*bases)
        np.testing.assert_allclose(angles.numpy(), expected, rtol=1e-6, atol=1e-11)
    assert float(found["row"].max()) > 1e-7  # something moved
    fewer = TopSubspace(W, 2).angles(A, B, 0.5, [2])[2]
    again = top.angles(A, B, 0.5, [2, 4])
    torch.testing.assert_close(again[2]["column"], fewer["column"], rtol=1e-6, atol=1e-11)
    torch.testing.assert_close(again[4]["row"], found["row"])


def test_no_update_moves_nothing(generator) -> None:
    top = TopSubspace(draw(generator, 12, 9), 2)
    found = top.angles(torch.zeros(1, 9), torch.zeros(12, 1), 1.0, [2])[2]
    assert max(float(angles.max()) for angles in found.values()) < 1e-12


def broken(value: float) -> torch.Tensor:
    return torch.full((1, 5, 2), value)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: delta_svd(broken(float("nan")).mT, broken(1.0)), ConfigError, "NaN"),
        (lambda: delta_svd(torch.ones(1, 5, 4), torch.ones(1, 9, 5)), ShapeError, "rank 5"),
        (
            lambda: delta_svd(torch.ones(1, 2, 5), torch.zeros(1, 5, 2)).basis("row", 1),
            ConfigError,
            "utterance 0 has rank 0",
        ),
        (
            lambda: delta_svd(torch.ones(1, 2, 5), torch.ones(1, 5, 2)).basis("row", 2),
            ConfigError,
            "rank 1",
        ),
        (lambda: TopSubspace(torch.ones(4, 4), 4), ConfigError, "from 1 to 3"),
        (lambda: TopSubspace(broken(float("nan"))[0], 1), ConfigError, "NaN"),
        (
            lambda: TopSubspace(torch.eye(5), 1).angles(
                broken(float("nan"))[0].mT, broken(1.0)[0], 1.0, [1]
            ),
            ConfigError,
            "NaN",
        ),
    ],
)
def test_bad_input_is_one_clear_error(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
