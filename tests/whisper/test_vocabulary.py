"""Logits exact where it matters: the same tokens as the whole product, in every row."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyperasr.audio.reading import load
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.hub import HyperASR
from hyperasr.model import decode
from hyperasr.types import Batch, Decoded
from hyperasr.whisper.quantize import input_levels
from hyperasr.whisper.vocabulary import ScreenedLogits, can_screen
from hyperasr.whisper.weights import ASSETS

pytestmark = pytest.mark.skipif(not input_levels(), reason="torch has no 8-bit kernel here")
NOBODY = torch.tensor([], dtype=torch.int64)


@pytest.fixture
def weight(generator: torch.Generator) -> Tensor:
    return 0.1 * torch.randn(9_000, 64, generator=generator)


@pytest.fixture
def gain(generator: torch.Generator) -> Tensor:
    """Of a normalisation with dimensions that stand out."""
    gain = torch.rand(64, generator=generator) + 1.0
    gain[:3] = 12.0
    return gain


def test_the_most_probable_tokens_are_exact_and_the_others_near(
    weight: Tensor, gain: Tensor, generator: torch.Generator
) -> None:
    states = gain * torch.randn(200, 64, generator=generator)
    screen = ScreenedLogits(weight, gain)
    found, whole = screen(states, NOBODY), states @ weight.mT
    assert torch.equal(found.argmax(1), whole.argmax(1))
    best = whole.topk(8).indices
    torch.testing.assert_close(found.gather(1, best), whole.gather(1, best))
    errors = found - whole
    deviation = screen.deviation(states / screen.smooth)
    rounded = errors.abs().amax(1) > 1e-3
    assert bool(rounded.any()), "some rows are screened"
    assert bool((errors.abs() <= 8 * deviation[:, None]).all())
    assert 0.3 < float((errors[rounded].std(1) / deviation[rounded]).mean()) < 1.2
    change = found.log_softmax(1).gather(1, best) - whole.log_softmax(1).gather(1, best)
    assert float(change.abs().max()) < 0.05


def test_rows_without_a_clear_best_token_are_computed_whole(weight: Tensor, gain: Tensor) -> None:
    twin = weight.clone()
    twin[1:40] = weight[0]  # more of the best than are computed again
    states = torch.stack([100 * weight[0], torch.zeros(64), 100 * weight[50]])
    found = ScreenedLogits(twin, gain)(states, NOBODY)
    torch.testing.assert_close(found[:2], states[:2] @ twin.mT)
    assert not torch.allclose(found[2], states[2] @ twin.mT)


def test_what_nobody_takes_is_ruled_out(weight: Tensor, gain: Tensor) -> None:
    states = 50 * weight[:5]
    ruled_out = (states @ weight.mT).topk(60).indices.unique()
    found = ScreenedLogits(weight, gain)(states, ruled_out)
    assert bool((found[:, ruled_out] == -torch.inf).all())
    whole = (states @ weight.mT).index_fill(1, ruled_out, -torch.inf)
    assert torch.equal(found.argmax(1), whole.argmax(1))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so_in_its_row(value: float, weight: Tensor, gain: Tensor) -> None:
    states = 50 * weight[:3]
    screen = ScreenedLogits(weight, gain)
    whole = screen(states, NOBODY)
    states[1, 7] = value
    found = screen(states, NOBODY)
    assert not bool(found[1].isfinite().any())
    assert torch.equal(found[[0, 2]], whole[[0, 2]])


def test_a_row_does_not_depend_on_its_batch_mates(
    weight: Tensor, gain: Tensor, generator: torch.Generator
) -> None:
    states = 9 * torch.randn(6, 64, generator=generator)
    screen = ScreenedLogits(weight, gain)
    torch.testing.assert_close(screen(states, NOBODY)[2:4], screen(states[2:4], NOBODY))


@pytest.fixture(scope="module")
def model() -> HyperASR:
    return HyperASR.from_pretrained("tiny.en", offline=True)


@pytest.fixture(scope="module")
def batch(model: HyperASR) -> Batch:
    clips = read_manifest(ASSETS / "demo" / "manifest.jsonl")
    mel, n_frames = model.backbone.features([load(clip.path) for clip in clips[::3]])
    return Batch(n_frames=n_frames, mel=mel)


@pytest.mark.slow
@pytest.mark.parametrize("adapt", [True, False])
def test_texts_are_those_of_the_whole_product(
    model: HyperASR, batch: Batch, adapt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded() -> Decoded:
        return decode(model, batch, adapt=adapt)

    calls = []
    call = ScreenedLogits.__call__

    def counted(self: Any, *inputs: Any) -> Tensor:
        calls.append(1)
        return call(self, *inputs)

    monkeypatch.setattr(ScreenedLogits, "__call__", counted)
    fast = decoded()
    assert len(calls) > 20
    monkeypatch.setattr("hyperasr.whisper.backbone.can_screen", lambda whisper: False)
    slow = decoded()
    assert fast.tokens == slow.tokens
    pairs = [
        (a, b)
        for x, y in zip(fast.logprobs, slow.logprobs, strict=True)
        for a, b in zip(x, y, strict=True)
    ]
    difference = torch.tensor(pairs).diff(dim=1).abs()
    assert float(difference.max()) < 0.1
    assert float(difference.mean()) < 0.01


def test_weights_that_have_changed_are_screened_anew(model: HyperASR) -> None:
    backbone = copy.deepcopy(model.backbone)
    states = torch.randn(2, backbone.d_model)
    first = backbone._screen([])
    assert first is not None
    before = first(states)
    with torch.no_grad():
        backbone.whisper.proj_out.weight.mul_(2.0)
    again = backbone._screen([])
    assert again is not None
    torch.testing.assert_close(again(states), 2 * before, rtol=0.05, atol=0.5)
    unchanged = model.backbone._screen([])
    assert unchanged is not None
    torch.testing.assert_close(unchanged(states), before)


def test_when_the_product_is_called_as_it_is(model: HyperASR, random_backbone: Any) -> None:
    assert can_screen(model.backbone.whisper)
    assert not can_screen(random_backbone.whisper), "its vocabulary is small"
    whisper = copy.deepcopy(model.backbone.whisper)
    handle = whisper.proj_out.register_forward_hook(lambda *_: None)
    assert not can_screen(whisper)
    handle.remove()
    assert can_screen(whisper)
    whisper.proj_out = nn.Linear(384, 51_864, bias=True)
    assert not can_screen(whisper)
    assert not can_screen(copy.deepcopy(model.backbone.whisper).bfloat16())
