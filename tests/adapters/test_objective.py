"""Weights of the objective, warm-up, and penalties against slow twins."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hyperasr.adapters import lora
from hyperasr.adapters.objective import (
    ELBO,
    ObjectiveConfig,
    from_teacher,
    mean_squares,
    relative_size,
)
from hyperasr.adapters.posterior import GaussianFactors, LogSigma
from hyperasr.errors import ConfigError
from hyperasr.types import LayerFactors, LoRAFactors, TeacherTokens


def random_factors(n_utt: int = 3, scaling: float = 0.7) -> LoRAFactors:
    g = torch.Generator().manual_seed(0)
    sizes = {"decoder.fc1": (2, 4, 32, 128), "encoder.q_proj": (2, 3, 32, 32)}
    return LoRAFactors(
        {
            name: LayerFactors(
                torch.randn(n_layer, n_utt, rank, d_in, generator=g),
                torch.randn(n_layer, n_utt, d_out, rank, generator=g),
            )
            for name, (n_layer, rank, d_in, d_out) in sizes.items()
        },
        scaling=scaling,
    )


def test_relative_size_is_that_of_delta_weight(tiny_whisper: Any) -> None:
    factors = random_factors()
    norms = lora.squared_norms(tiny_whisper, factors)
    found = relative_size(factors, norms)
    ratios = []
    for name, linears in lora.find_targets(tiny_whisper, factors).items():
        for layer, linear in enumerate(linears):
            delta = lora.delta_weight(factors, name, layer)
            ratios.append(delta.square().sum((1, 2)) / linear.weight.detach().square().sum())
    torch.testing.assert_close(found, torch.stack(ratios).mean(0))
    assert found.shape == (3,)


def test_mean_squares_by_hand() -> None:
    factors = random_factors()
    by_matrix = [
        sum(float(matrix[layer, u].square().mean()) for u in range(3)) / 3
        for pair in factors.targets.values()
        for matrix in (pair.A, pair.B)
        for layer in range(2)
    ]
    assert float(mean_squares(factors)) == pytest.approx(sum(by_matrix), rel=1e-5)


def test_l2_is_the_divergence_of_a_point() -> None:
    """MAP LoRA is BLoRA without noise: the same penalty at l2 = beta / (2 sigma_p^2)."""
    factors, sigma, beta = random_factors(1), 0.01, 0.5
    points = GaussianFactors(
        factors, dict.fromkeys(factors.targets, LogSigma(None, None)), map_points=True
    )
    kl = points.kl(dict.fromkeys(factors.targets, torch.full((2,), sigma)), "mean_per_matrix")
    l2 = beta / (2 * sigma**2)
    assert l2 * float(mean_squares(factors)) == pytest.approx(beta * float(kl), rel=1e-5)


def test_warm_up_is_linear_and_ends_at_one() -> None:
    config = ObjectiveConfig(kl_warmup=0.4)
    shares = [config.kl_share(step, 10) for step in range(10)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1])
    assert ObjectiveConfig().kl_share(0, 10) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -0.1}, "beta is -0.1; it must be a finite number of 0 or more"),
        ({"beta": math.nan}, "beta is nan"),
        ({"nll_weight": -1.0}, "nll_weight"),
        ({"l2": -1.0}, "l2"),
        ({"typical_penalty": math.inf}, "typical_penalty"),
        ({"kl_warmup": 1.5}, "kl_warmup"),
        ({"kl_reduction": "average"}, "kl_reduction must be one of"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        ObjectiveConfig(**settings)
    assert "\n" not in str(error.value)


def test_divergence_from_a_teacher_is_that_over_named_tokens_and_the_rest() -> None:
    g = torch.Generator().manual_seed(0)
    n_vocab, k = 30, 4
    scored = torch.tensor([[False, True, True, False], [False, True, True, True]])
    logprobs = torch.randn(5, n_vocab, generator=g).log_softmax(-1)
    whole = torch.randn(2, 4, n_vocab, generator=g).log_softmax(-1)
    top = whole.topk(k)
    told = top.values.clone()
    told[1, 3] = -math.inf  # here the teacher says nothing
    found = from_teacher(logprobs, TeacherTokens(top.indices, told), scored)
    expected = []
    for row, (utt, place) in enumerate([(0, 1), (0, 2), (1, 1), (1, 2), (1, 3)]):
        if (utt, place) == (1, 3):
            expected.append(0.0)
            continue
        p, q = whole[utt, place].exp(), logprobs[row].exp()
        named = top.indices[utt, place].tolist()
        terms = [float(p[i] * (p[i] / q[i]).log()) for i in named]
        p_rest, q_rest = (float(1 - sum(d[i] for i in named)) for d in (p, q))
        expected.append(sum(terms) + p_rest * math.log(p_rest / q_rest))
    assert float(found) == pytest.approx(sum(expected) / 5, rel=1e-5)


def test_a_model_has_nothing_to_learn_from_itself() -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 40, generator=g, requires_grad=True)
    logprobs = logits.log_softmax(-1)
    top = logprobs.detach().topk(20)
    teacher = TeacherTokens(top.indices, top.values)
    loss = from_teacher(logprobs[:, 0], teacher, torch.ones(3, 1, dtype=torch.bool))
    loss.backward()
    assert abs(float(loss)) < 1e-6
    assert float(logits.grad.abs().max()) < 1e-6


class TestObjectiveValue:
    def test_what_is_logged_is_what_is_optimised(self) -> None:
        nll, kl = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
        objective = ELBO(nll, kl, 0.5, torch.tensor(0.25), nll_weight=0.9)
        parts = {n: float(v.detach()) for n, v in objective.losses().items()}
        expected = {"nll": 2.0, "kl": 3.0, "beta": 0.5, "penalty": 0.25}
        expected |= {"total": pytest.approx(0.9 * 2 + 0.5 * 3 + 0.25), "teacher": 0.0}
        assert parts == expected
        objective.losses()["total"].backward()
        assert (float(nll.grad), float(kl.grad)) == (pytest.approx(0.9), 0.5)  # type: ignore[arg-type]

    def test_without_weights_it_is_the_cross_entropy_bit_for_bit(self) -> None:
        nll = torch.tensor(1.2345678)
        assert torch.equal(ELBO(nll, torch.tensor(0.0)).total, nll)

    def test_nan_is_not_hidden(self) -> None:
        assert ELBO(torch.tensor(math.nan), torch.tensor(0.0)).total.isnan()
        assert ELBO(torch.tensor(1.0), torch.tensor(math.nan), beta=0.0).total.isnan()
