"""The step of fixed size: the tokens of the ordinary one, and no compilation for other speakers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperasr import lora
from hyperasr.backbone import Backbone
from hyperasr.compiled import CompiledStep
from hyperasr.errors import ShapeError
from hyperasr.model import HyperASR
from hyperasr.search import SearchConfig, greedy
from hyperasr.types import Batch, EncoderOutput, LayerFactors, LoRAFactors

N_TOKENS = 6


@pytest.fixture(scope="module")
def backbone(random_backbone_folder: Path) -> Backbone:
    return Backbone.from_pretrained(random_backbone_folder, offline=True)


def speakers(backbone: Backbone, seed: int, n_utt: int = 3) -> tuple[EncoderOutput, LoRAFactors]:
    """States of other lengths, and factors of every kind of matrix in the decoder."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 30, (n_utt,), generator=generator)
    states = torch.randn(n_utt, int(lengths.max()), 32, generator=generator)
    names = [name for name in lora.TARGET_NAMES if name.startswith("decoder.")]
    shapes = lora.target_shapes(backbone.whisper, names)
    factors = {
        n: LayerFactors(
            0.3 * torch.randn(s.n_layer, n_utt, 2, s.d_in, generator=generator),
            0.3 * torch.randn(s.n_layer, n_utt, s.d_out, 2, generator=generator),
        )
        for n, s in shapes.items()
    }
    return EncoderOutput(states, lengths), LoRAFactors(factors, scaling=0.5)


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch.compiler.set_stance("default")


def test_other_speakers_are_not_compiled_again(backbone: Backbone) -> None:
    whisper, config = backbone.whisper, SearchConfig(max_tokens=N_TOKENS)
    prompt = backbone.prompts("en", "transcribe", 3)
    found = []
    made = CompiledStep(
        whisper, speakers(backbone, 0)[1], n_states=40, n_positions=16, backend="aot_eager"
    )
    with made as step:
        for seed in range(4):
            step.load(*speakers(backbone, seed))
            found.append(greedy(step, prompt, eos=backbone.eos, config=config))
            # Whatever would have to be compiled after the first batch is an error.
            torch.compiler.set_stance("fail_on_recompile")
    assert not any(m._forward_hooks for m in whisper.modules()), "the model is as it was"
    for seed, decoded in enumerate(found):
        encoded, factors = speakers(backbone, seed)
        with torch.no_grad(), lora.using(whisper, factors):
            expected = backbone.generate(encoded, config)
        assert decoded.tokens == expected.tokens
        for ours, theirs in zip(decoded.logprobs, expected.logprobs, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-4)
    assert len({decoded.tokens for decoded in found}) == 4, "the speakers must matter"


def test_a_change_of_shape_would_be_seen(backbone: Backbone) -> None:
    """Or the test above could not fail."""
    encoded, factors = speakers(backbone, 0)
    made = CompiledStep(backbone.whisper, factors, n_states=40, n_positions=16, backend="aot_eager")
    with made as step:
        step.load(encoded, factors)
        step(torch.full((3, 1), 5))
        torch.compiler.set_stance("fail_on_recompile")
        with pytest.raises(RuntimeError, match="recompile"):
            step._compiled(torch.full((2, 1), 5))


def test_what_does_not_fit(backbone: Backbone) -> None:
    encoded, factors = speakers(backbone, 0)
    sizes: dict[str, Any] = {"n_states": 40, "n_positions": 4, "backend": "eager"}
    with CompiledStep(backbone.whisper, factors, **sizes) as step:
        with pytest.raises(ShapeError, match=r"2 utterances of .* do not fit into a step"):
            step.load(*speakers(backbone, 0, n_utt=2))
        with pytest.raises(ShapeError, match="the step was made for"):
            step.load(encoded, factors.map(lambda t: t[:1]))
        step.load(encoded, factors)
        with pytest.raises(ShapeError, match="there is room for 4 tokens"):
            step(torch.full((3, 5), 5))
    shared = LoRAFactors({n: f for n, f in _one(factors).targets.items()}, shared=True)
    with pytest.raises(ShapeError, match="shared factors have no rows"):
        CompiledStep(backbone.whisper, shared, **sizes)


def _one(factors: LoRAFactors) -> LoRAFactors:
    return factors.map(lambda t: t[:, :1])


def test_factors_of_a_model(random_model_folder: Path, backbone: Backbone) -> None:
    model = HyperASR.from_pretrained(random_model_folder, backbone=backbone)
    mel = torch.randn(2, 80, 60, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        emb, encoded = model.embed(Batch(n_frames=torch.tensor([60, 31]), mel=mel))
        factors = model.factors(emb)
    config, prompt = SearchConfig(max_tokens=N_TOKENS), backbone.prompts("en", "transcribe", 2)
    sizes: dict[str, Any] = {"n_states": 30, "n_positions": 12, "backend": "eager"}
    with CompiledStep(backbone.whisper, factors, **sizes) as step:
        step.load(encoded, factors)
        found = greedy(step, prompt, eos=backbone.eos, config=config)
    with lora.using(backbone.whisper, factors):
        assert found.tokens == backbone.generate(encoded, config).tokens
