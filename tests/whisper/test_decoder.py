"""Cached steps by parts against the published layers, and against the whole without a cache."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperasr.adapters import lora
from hyperasr.adapters.residual import ResidualAdapters, ResidualConfig
from hyperasr.types import EncoderOutput, LayerFactors, LoRAFactors
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.decoder import DecoderStep
from hyperasr.whisper.quantize import quantize_linears

N_UTT, N_STATES, N_VOCAB = 3, 9, 256


@pytest.fixture
def encoded(random_backbone: Backbone) -> EncoderOutput:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(N_UTT, N_STATES, random_backbone.d_model, generator=generator)
    return EncoderOutput(states, torch.tensor([9, 4, 6]))


def tokens(n_rows: int, n: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(N_VOCAB, (n_rows, n), generator=generator)


def factors(backbone: Backbone, names: tuple[str, ...], n_utt: int = N_UTT) -> LoRAFactors:
    generator = torch.Generator().manual_seed(2)
    pairs = {}
    for name, shape in lora.target_shapes(backbone.whisper, names).items():
        a = torch.randn(shape.n_layer, n_utt, 2, shape.d_in, generator=generator)
        b = torch.randn(shape.n_layer, n_utt, shape.d_out, 2, generator=generator)
        pairs[name] = LayerFactors(a, b)
    return LoRAFactors(pairs, scaling=0.3)


def both(backbone: Backbone, encoded: EncoderOutput, rows: int = 1) -> tuple[DecoderStep, ...]:
    """Return a step by parts, and one by whole layers, as it is where a hook sits on one."""
    whisper = backbone.whisper
    fast = DecoderStep(whisper, encoded, rows)
    handle = whisper.model.decoder.layers[0].register_forward_hook(lambda *_: None)
    slow = DecoderStep(whisper, encoded, rows)
    handle.remove()
    return fast, slow


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


DECODER = tuple(name for name in lora.TARGET_NAMES if name.startswith("decoder."))


@torch.no_grad()
@pytest.mark.parametrize("targets", [(), *((name,) for name in DECODER), DECODER])
def test_every_step_is_the_published_one(
    random_backbone: Backbone, encoded: EncoderOutput, targets: tuple[str, ...]
) -> None:
    fast, slow = both(random_backbone, encoded)
    plain = DecoderStep(random_backbone.whisper, encoded)
    n = 8 if len(targets) == 1 else 80  # more than there is room for at first
    given = tokens(N_UTT, n)
    model = random_backbone.whisper
    for start, end in [(0, 4), *((i, i + 1) for i in range(4, n))]:
        unadapted = plain(given[:, start:end])
        if targets:
            with lora.using(model, factors(random_backbone, targets)):
                found, expected = fast(given[:, start:end]), slow(given[:, start:end])
            assert not torch.allclose(found, unadapted, atol=1e-2)
        else:
            found, expected = fast(given[:, start:end]), slow(given[:, start:end])
        close(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("k", [1, 3])
def test_a_watched_step_is_the_published_one(
    random_backbone: Backbone, encoded: EncoderOutput, k: int
) -> None:
    whisper, n_rows = random_backbone.whisper, N_UTT * k
    watching = DecoderStep(whisper, encoded, k, watched={0: [1], 1: [0, 1]})
    _, slow = both(random_backbone, encoded, k)
    with lora.using(whisper, factors(random_backbone, DECODER)):
        for step, n_new in enumerate((3, 1, 1, 1)):
            new = tokens(n_rows, n_new, seed=step)
            close(watching(new), slow(new))
            assert watching.looked().shape == (n_rows,)


@torch.no_grad()
@pytest.mark.parametrize("targets", [(), ("decoder.fc1",), ("decoder.v_proj",)])
def test_in_8_bits_every_step_is_the_published_one(
    random_backbone: Backbone, encoded: EncoderOutput, targets: tuple[str, ...]
) -> None:
    backbone = copy.deepcopy(random_backbone)
    quantize_linears(backbone.whisper)
    fast, slow = both(backbone, encoded)
    made = factors(backbone, targets) if targets else None
    with lora.using(backbone.whisper, made) if made else nullcontext():
        for step in range(4):
            new = tokens(N_UTT, 1, seed=step)
            close(fast(new), slow(new))
    joined = [layer.joined is not None for layer in fast._layers]
    assert joined == [targets != ("decoder.v_proj",)] * len(joined)


@torch.no_grad()
def test_several_tokens_after_others_see_what_came_before(
    random_backbone: Backbone, encoded: EncoderOutput
) -> None:
    given = tokens(N_UTT, 12)
    whole = random_backbone.logits(encoded, given)
    step = DecoderStep(random_backbone.whisper, encoded)
    parts = [step.whisper.proj_out(step.hidden(part)) for part in given.split([3, 5, 1, 3], dim=1)]
    close(torch.cat(parts, dim=1), whole)


@torch.no_grad()
@pytest.mark.parametrize("targets", [("decoder.fc1",), ("decoder.cross_k_proj",)])
def test_beams_share_the_states_of_their_utterance(
    random_backbone: Backbone, encoded: EncoderOutput, targets: tuple[str, ...]
) -> None:
    k = 3
    fast, slow = both(random_backbone, encoded, k)
    generator = torch.Generator().manual_seed(3)
    with lora.using(random_backbone.whisper, factors(random_backbone, targets)):
        close(fast(tokens(N_UTT * k, 4)), slow(tokens(N_UTT * k, 4)))
        for index in range(6):
            # Within each utterance, with repetition.
            chosen = torch.randint(k, (N_UTT, k), generator=generator)
            rows = (chosen + k * torch.arange(N_UTT)[:, None]).flatten()
            for step in (fast, slow):
                step.reorder(rows)
            new = tokens(N_UTT * k, 1, seed=index)
            close(fast(new), slow(new))


@torch.no_grad()
def test_without_reordering_the_result_is_another(
    random_backbone: Backbone, encoded: EncoderOutput
) -> None:
    first, second = (DecoderStep(random_backbone.whisper, encoded, 2) for _ in range(2))
    given, new = tokens(N_UTT * 2, 4), tokens(N_UTT * 2, 1, seed=4)
    first(given), second(given)
    first.reorder(torch.tensor([1, 0, 3, 2, 5, 4]))
    assert not torch.allclose(first(new), second(new), atol=1e-2)


@torch.no_grad()
def test_padding_of_the_states_changes_nothing(
    random_backbone: Backbone, encoded: EncoderOutput
) -> None:
    given = tokens(N_UTT, 5)
    noisy = encoded.states.clone()
    noisy[1, 4:], noisy[2, 6:] = 1e3, -1e3
    close(
        DecoderStep(random_backbone.whisper, EncoderOutput(noisy, encoded.lengths))(given),
        DecoderStep(random_backbone.whisper, encoded)(given),
    )


@torch.no_grad()
def test_what_hangs_on_a_whole_layer_is_heard(
    random_backbone: Backbone, encoded: EncoderOutput
) -> None:
    whisper = random_backbone.whisper
    adapters = ResidualAdapters(ResidualConfig(parts=("decoder",)), whisper)
    generator = torch.Generator().manual_seed(5)
    for weight in adapters.parameters():
        weight.normal_(0, 0.5, generator=generator)
    given = tokens(N_UTT, 4)
    plain = DecoderStep(whisper, encoded)(given)
    with adapters.using(whisper):
        step = DecoderStep(whisper, encoded)
        found = torch.stack([step(given[:, :3]), step(given[:, 3:])], dim=1)
        close(found, random_backbone.logits(encoded, given)[:, 2:])
    assert not torch.allclose(found[:, 1], plain, atol=1e-2)


@torch.no_grad()
def test_half_precision_stays_half(tiny_whisper: Any) -> None:
    backbone = Backbone(tiny_whisper, None, "trimmed")
    backbone.reduced("bfloat16")
    states = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    encoded = EncoderOutput(states, torch.tensor([7, 5]))
    fast, slow = both(backbone, encoded)
    found, expected = fast(torch.tensor([[3, 4], [5, 6]])), slow(torch.tensor([[3, 4], [5, 6]]))
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
