"""Moments of hidden states: what they are, and that padding never changes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hyperasr.errors import ShapeError
from hyperasr.whisper.pooling import frame_weights, moments

D = 6


def pooled(states: Tensor, lengths: list[int]) -> Tensor:
    return moments(states, frame_weights(torch.tensor(lengths), states.shape[:2]))


def random_states(lengths: list[int], generator: torch.Generator, garbage: float = 7.0) -> Tensor:
    """Hidden states of several utterances, with garbage beyond the lengths."""
    states = torch.randn(len(lengths), max(lengths), D, generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return states.masked_fill(~mask[..., None], garbage)


def test_moments_by_hand() -> None:
    states = torch.tensor([[[1.0, 10.0], [3.0, 10.0], [99.0, 99.0]], [[2.0, 4.0]] * 3])
    expected = torch.tensor([[2.0, 10.0, 1.0, 0.0], [2.0, 4.0, 0.0, 0.0]])
    torch.testing.assert_close(pooled(states, [2, 3]), expected)


def test_moments_equal_a_loop_over_utterances(generator: torch.Generator) -> None:
    states = random_states([9, 1, 4], generator)
    found = pooled(states, [9, 1, 4])
    for row, own, n in zip(found, states.double(), [9, 1, 4], strict=True):
        slow = torch.cat([own[:n].mean(0), own[:n].std(0, correction=0)])
        torch.testing.assert_close(row.double(), slow, atol=1e-6, rtol=1e-5)


def test_the_deviation_survives_a_large_mean() -> None:
    # E[x^2] - E[x]^2 in float32 gives 0 or worse here.
    states = torch.tensor([1000.0, 1000.5, 1001.0])[None, :, None].expand(1, 3, 2)
    expected = torch.full((2,), float(np.std([0, 0.5, 1])))
    torch.testing.assert_close(pooled(states, [3])[0, 2:], expected)


def test_moments_of_half_precision_are_float32(generator: torch.Generator) -> None:
    half = random_states([30], generator).bfloat16()
    found = pooled(half, [30])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0, :D], half[0].float().mean(0))


def test_no_gradient_passes_and_the_states_stay(generator: torch.Generator) -> None:
    states = random_states([5, 3], generator).requires_grad_()
    before = states.detach().clone()
    assert not pooled(states, [5, 3]).requires_grad
    assert torch.equal(states.detach(), before)


@pytest.mark.parametrize("lengths", [[0, 3], [1], [4, 3]])
def test_impossible_lengths_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ShapeError, match=r"2 utterances of up to 3 frames.*\[1, 3\]"):
        frame_weights(torch.tensor(lengths), torch.Size([2, 3]))
