"""The cloud of training embeddings: far voices are adapted less, near ones in full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hyperasr.caution import CLOUD_FILE, CautionConfig, Cloud, cautious, shrink
from hyperasr.decode import decode
from hyperasr.errors import CheckpointMismatch, ConfigError, ShapeError
from hyperasr.lora import delta_weight
from hyperasr.model import HyperASR, SourceConfig
from hyperasr.search import SearchConfig
from hyperasr.speaker import SpeakerConfig
from hyperasr.types import Batch, LayerFactors, LoRAFactors

D = 12


def people(n: int, seed: int, spread: float = 1.0, at: float = 0.0) -> tuple[Tensor, list[str]]:
    """Embeddings of n people, ten utterances each, in a few directions more than in the others."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(3, D, generator=torch.Generator().manual_seed(99))
    voices = at + spread * torch.randn(n, 3, generator=generator) @ directions
    noise = 0.3 * torch.randn(n, 10, D, generator=generator)
    return (voices[:, None] + noise).flatten(0, 1), [
        f"{seed}-{i}" for i in range(n) for _ in "0" * 10
    ]


@pytest.fixture(scope="module")
def cloud() -> Cloud:
    return Cloud.fit(*people(60, 0))


def test_unseen_people_of_the_same_kind_are_trusted(cloud: Cloud) -> None:
    embs, _ = people(60, 1)
    trust = cloud.trust(embs)
    # 95 % by construction; people, not utterances, are what the quantile is made of.
    assert 0.85 < float((trust == 1).float().mean()) <= 1
    assert 0.5 < float(cloud.distance(embs).mean()) < 1.5, "about 1 inside"


def test_a_far_voice_is_not_trusted(cloud: Cloud) -> None:
    embs, _ = people(20, 2, at=30.0)
    assert cloud.trust(embs).max() == 0
    # In a direction in which training did not vary at all, little is already far.
    off = torch.zeros(1, D)
    off[0] = torch.linalg.svd(cloud.directions)[2][-1] * 3 * cloud.std
    along = cloud.mean + cloud.directions[:1] * 3 * cloud.std
    assert float(cloud.distance(cloud.mean + off)) > float(cloud.distance(along))


def test_trust_falls_in_a_straight_line_between_near_and_far(cloud: Cloud) -> None:
    config = CautionConfig(near=0.9, far=2.0)
    near = float(cloud.quantiles[90])
    direction = torch.randn(D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    unit = direction / float(cloud.distance((cloud.mean + direction)[None]))
    steps = torch.tensor([0.0, 0.5, 1.0, 1.25, 1.5, 2.0, 5.0], dtype=torch.float64)
    trust = cloud.trust(cloud.mean + steps[:, None] * near * unit, config)
    expected = torch.tensor([1, 1, 1, 0.75, 0.5, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(trust, expected, rtol=0, atol=1e-6)
    assert cloud.trust(torch.full((1, D), torch.nan)).item() == 0


def test_the_distance_is_mahalanobis(cloud: Cloud) -> None:
    embs, _ = people(5, 4)
    eye = torch.eye(D, dtype=torch.float64)
    v = cloud.directions
    covariance = v.mT @ (cloud.variances[:, None] * v) + cloud.rest * (eye - v.mT @ v)
    z = (embs.double() - cloud.mean) / cloud.std
    slow = (z * torch.linalg.solve(covariance, z.mT).mT).sum(1)
    torch.testing.assert_close(cloud.distance(embs).square() * D, slow, rtol=1e-6, atol=1e-9)


def test_people_are_left_out_whole() -> None:
    # Left out in part, a person would be near: the rest of the utterances are where they are.
    embs, speakers = people(30, 5)
    cloud = Cloud.fit(embs, speakers)
    leaky = Cloud.fit(embs, [str(i) for i in range(len(embs))])
    assert cloud.quantiles[95] > leaky.quantiles[95]


def test_a_value_that_never_varies_does_no_harm() -> None:
    embs, speakers = people(20, 6)
    embs[:, 4] = 7.0
    assert bool(torch.isfinite(Cloud.fit(embs, speakers).distance(embs)).all())


def test_on_disk(cloud: Cloud, tmp_path: Path) -> None:
    assert Cloud.load(tmp_path, "abc") is None
    cloud.save(tmp_path, "abc")
    embs, _ = people(8, 7)
    loaded = Cloud.load(tmp_path, "abc")
    assert loaded is not None
    torch.testing.assert_close(loaded.trust(embs), cloud.trust(embs), rtol=0, atol=1e-5)
    with pytest.raises(CheckpointMismatch, match="belongs to the backbone abc"):
        Cloud.load(tmp_path, "xyz")
    (tmp_path / CLOUD_FILE).write_bytes(b"nothing")
    with pytest.raises(CheckpointMismatch, match="is damaged"):
        Cloud.load(tmp_path, "abc")


def test_bad_input(cloud: Cloud) -> None:
    embs, speakers = people(4, 8)
    with pytest.raises(ShapeError, match="do not fit"):
        Cloud.fit(embs, speakers[:-1])
    with pytest.raises(ConfigError, match="at least two people"):
        Cloud.fit(embs, ["a"] * len(embs))
    with pytest.raises(ConfigError, match="not finite"):
        Cloud.fit(embs * torch.nan, speakers)
    with pytest.raises(ShapeError, match=f"a cloud of {D} values"):
        cloud.distance(embs[:, 1:])
    for bad in ({"near": 1.0}, {"near": 0.0}, {"far": 1.0}):
        with pytest.raises(ConfigError):
            CautionConfig(**bad)


def factors(n_utt: int, shared: bool = False) -> LoRAFactors:
    generator = torch.Generator().manual_seed(n_utt)
    pair = LayerFactors(
        torch.randn(2, n_utt, 3, 5, generator=generator),
        torch.randn(2, n_utt, 4, 3, generator=generator),
    )
    return LoRAFactors({"decoder.fc1": pair}, 0.5, shared)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_the_update_shrinks_in_proportion(trust: list[float]) -> None:
    made = factors(len(trust))
    for layer in (0, 1):
        found = delta_weight(shrink(made, torch.tensor(trust)), "decoder.fc1", layer)
        expected = torch.tensor(trust)[:, None, None] * delta_weight(made, "decoder.fc1", layer)
        torch.testing.assert_close(found, expected)


def test_shared_factors_become_each_utterances_own() -> None:
    made = shrink(factors(1, shared=True), torch.tensor([1.0, 0.0]))
    assert (made.n_utt, made.shared) == (2, False)
    whole, none = delta_weight(made, "decoder.fc1", 0)
    assert torch.equal(whole, delta_weight(factors(1), "decoder.fc1", 0)[0])
    assert not none.any()
    with pytest.raises(ShapeError, match="factors of 3 utterances"):
        shrink(factors(3), torch.ones(2))


def test_a_cautious_model_is_the_backbone_for_a_far_voice(
    random_model_folder: Path, generator: torch.Generator
) -> None:
    model = HyperASR.from_pretrained(random_model_folder, offline=True)
    d_spk = model.speaker.d_spk
    embs = torch.randn(200, d_spk, generator=generator)
    cloud = Cloud.fit(embs, [str(i % 20) for i in range(200)])
    careful = cautious(model, cloud)
    near, far = embs[:1], 100 + embs[:1]
    both = torch.cat([near, far])
    plain, found = model.factors(both), careful.factors(both)
    assert cloud.trust(both).tolist() == [1, 0]
    assert torch.equal(found["decoder.fc1"].B[:, 0], plain["decoder.fc1"].B[:, 0])
    assert plain["decoder.fc1"].B[:, 1].abs().max() > 0.01
    assert not found["decoder.fc1"].B[:, 1].any()
    assert careful.backbone is model.backbone
    assert torch.equal(model.factors(both)["decoder.fc1"].B, plain["decoder.fc1"].B), "as it was"
    # Through the door that decoding uses.
    batch = Batch(
        n_frames=torch.tensor([130, 130]),
        mel=torch.randn(2, 80, 130, generator=generator),
        speaker_emb=both,
    )
    search = SearchConfig(max_tokens=12)
    adapted, careful_too = (decode(m, batch, search).tokens for m in (model, careful))
    unadapted = decode(model, batch, search, adapt=False).tokens
    assert careful_too == (adapted[0], unadapted[1])
    assert adapted[1] != unadapted[1]


def test_posterior_samples_are_trusted_alike(random_backbone: Any) -> None:
    settings = {"rank": 2, "d_hidden": 8, "d_layer_emb": 4, "n_hidden": 1}
    source = SourceConfig("bayes_hypernet", settings=settings)
    model = HyperASR(random_backbone, SpeakerConfig(), source).eval()
    for weight in model.source.parameters():
        weight.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    d_spk = model.speaker.d_spk
    generator = torch.Generator().manual_seed(1)
    cloud = Cloud.fit(torch.randn(60, d_spk, generator=generator), [str(i % 6) for i in range(60)])
    embs = torch.cat([cloud.mean[None], cloud.mean[None] + 100]).float()
    with torch.no_grad():
        found = cautious(model, cloud).factors(embs, n_samples=3)
    sizes = found["decoder.fc1"].B.abs().amax((0, 2, 3))
    assert (sizes > 0).tolist() == [True] * 3 + [False] * 3


def test_caution_that_cannot_be(random_model_folder: Path, random_backbone: Any) -> None:
    model = HyperASR.from_pretrained(random_model_folder, offline=True)
    with pytest.raises(ShapeError, match="a cloud of 12 values does not belong to embeddings"):
        cautious(model, Cloud.fit(*people(5, 0)))
    static = HyperASR(random_backbone, SpeakerConfig(), SourceConfig("static"))
    with pytest.raises(ConfigError, match="a source that listens to the voice"):
        cautious(static, Cloud.fit(*people(5, 0)))
