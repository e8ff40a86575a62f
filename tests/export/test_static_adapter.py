"""One adapter of several clips, against updates that are built in full."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hyperasr.adapters import SourceConfig
from hyperasr.adapters.lora import delta_weight
from hyperasr.errors import ConfigError
from hyperasr.export.static_adapter import average, build_static_adapter
from hyperasr.hub import HyperASR
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch, LayerFactors, LoRAFactors


def factors(n_utt: int, rank: int = 2, d_in: int = 9, d_out: int = 7, seed: int = 0) -> LoRAFactors:
    generator = torch.Generator().manual_seed(seed)
    pairs = {
        name: LayerFactors(
            torch.randn(2, n_utt, rank, d_in, generator=generator),
            torch.randn(2, n_utt, d_out, rank, generator=generator),
        )
        for name in ("decoder.fc1", "decoder.fc2")
    }
    return LoRAFactors(pairs, scaling=0.5)


@pytest.mark.parametrize("n_utt", [1, 2, 6])  # 6 * 2 is more than either side of the matrix
@pytest.mark.parametrize("rank", [1, 3, 7])
def test_the_average_is_the_best_of_its_rank(n_utt: int, rank: int) -> None:
    made, found = factors(n_utt), average(factors(n_utt), rank)
    total = held = apart = 0.0
    for name in made:
        assert found.factors[name].A.shape == (2, 1, rank, 9)
        assert found.factors[name].B.shape == (2, 1, 7, rank)
        for layer in (0, 1):
            each = delta_weight(made, name, layer).double()
            mean = each.mean(0)
            u, s, vt = torch.linalg.svd(mean, full_matrices=False)
            best = u[:, :rank] * s[:rank] @ vt[:rank]
            ours = delta_weight(found.factors, name, layer)[0].double()
            torch.testing.assert_close(ours, best, rtol=1e-4, atol=1e-5)
            total += float(s.square().sum())
            held += float(s[:rank].square().sum())
            apart += float((each - mean).square().sum((1, 2)).mean())
    assert found.kept == pytest.approx(held / total)
    assert found.spread == pytest.approx((apart / total) ** 0.5, abs=1e-5)
    assert found.factors.shared


def test_equal_clips_have_no_spread() -> None:
    made = factors(1).map(lambda t: t.expand(-1, 3, -1, -1))
    found = average(made, 2)
    assert found.kept == pytest.approx(1)
    assert found.spread == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("rank", [0, 8])
def test_rank_out_of_range(rank: int) -> None:
    with pytest.raises(ConfigError, match=f"rank is {rank}; target 'decoder.fc1' allows 1 to 7"):
        average(factors(2), rank)


@pytest.fixture(scope="module")
def clips(voice: Callable[..., np.ndarray]) -> list[np.ndarray]:
    return [voice(1.5, 110.0), voice(0.7, 130.0), voice(2.0, 120.0)]


@torch.no_grad()
def test_both_methods_on_a_model(model: HyperASR, clips: list[np.ndarray]) -> None:
    mel, n_frames = model.backbone.features(clips)
    emb, _ = model.embed(Batch(n_frames=n_frames, mel=mel, waveforms=tuple(clips)))
    mean = model.factors(emb.mean(0, keepdim=True))
    found = build_static_adapter(model, clips)
    torch.testing.assert_close(
        delta_weight(found.factors, "decoder.fc1", 1),
        delta_weight(mean, "decoder.fc1", 1),
        rtol=1e-4,
        atol=1e-5,
    )
    assert found.spread > 0.01, "clips of three pitches differ"
    averaged = build_static_adapter(model, clips, method="average", rank=6)
    whole = torch.stack([delta_weight(model.factors(emb), "decoder.fc1", 0)]).mean(1)
    torch.testing.assert_close(
        delta_weight(averaged.factors, "decoder.fc1", 0), whole, rtol=1e-3, atol=1e-4
    )
    assert averaged.kept == pytest.approx(1), "three clips of rank 2 fit into rank 6"


def test_a_cohort_of_a_static_source(model: HyperASR, clips: list[np.ndarray]) -> None:
    settings = {"rank": 2, "by": "cohort", "groups": ["stuttering", "typical"]}
    static = HyperASR(model.backbone, SpeakerConfig(), SourceConfig("static", settings=settings))
    with torch.no_grad():
        for weight in static.source.B.values():
            weight.normal_(generator=torch.Generator().manual_seed(1))
    found = build_static_adapter(static.eval(), clips, group="stuttering")
    expected = static.factors(None, ["stuttering"])
    assert torch.equal(found.factors["decoder.fc1"].B, expected["decoder.fc1"].B)
    assert found.spread == pytest.approx(0, abs=1e-3)
    with pytest.raises(ConfigError, match="factors by cohort need groups"):
        build_static_adapter(static, clips)


def test_bad_calls(model: HyperASR, clips: list[np.ndarray]) -> None:
    with pytest.raises(ConfigError, match="at least one clip"):
        build_static_adapter(model, [])
    with pytest.raises(ConfigError, match="another rank needs the method average"):
        build_static_adapter(model, clips, rank=1)
