"""HyperASR with every kind of source: targets, objective, samples, checkpoints of posteriors."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hyperasr.adapters import SourceConfig, lora
from hyperasr.adapters.objective import ObjectiveConfig
from hyperasr.adapters.posterior import utterance_generators
from hyperasr.errors import ShapeError
from hyperasr.hub import HyperASR
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch
from hyperasr.whisper.backbone import Backbone
from tests.test_model import COHORTS, backbone_loss, make_batch

NET = {"rank": 2, "d_hidden": 8, "d_layer_emb": 4, "n_hidden": 1}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "hypernet": ("hypernet", NET),
    "bayes_A": ("bayes_hypernet", {**NET, "bayesian": "A"}),
    "bayes_B": ("bayes_hypernet", {**NET, "bayesian": "B"}),
    "bayes_both": ("bayes_hypernet", {**NET, "bayesian": "both"}),
    "static": ("static", {"rank": 2}),
    "vi_lora": ("vi_lora", {"rank": 2, "prior": "single"}),
    "vi_lora_flipout": ("vi_lora", {"rank": 2, "prior": "single", "noise": "flipout"}),
    "vi_lora_speaker": (
        "vi_lora",
        {"rank": 2, "prior": "single", "by": "speaker", "groups": ["anna", "ben"]},
    ),
    "blora": ("blora", {"rank": 2, "alpha": 4.0}),
    "blora_plain": ("blora", {"rank": 2, "alpha": 4.0, "noise": "plain"}),
}
GAUSSIAN = [name for name in SETTINGS if name not in ("hypernet", "static")]


@pytest.fixture(scope="module")
def batch(random_backbone: Backbone) -> Batch:
    return make_batch(random_backbone)


def build(
    backbone: Backbone, name: str, targets: tuple[str, ...] = ("decoder.fc1",), **goal: Any
) -> HyperASR:
    kind, settings = SETTINGS[name]
    source = SourceConfig(kind, targets, settings)
    return HyperASR(backbone, SpeakerConfig(), source, objective=ObjectiveConfig(**goal))


def stir(model: HyperASR) -> HyperASR:
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.source.parameters():
            weight.add_(torch.randn(weight.shape, generator=g), alpha=0.3)
    return model


@pytest.mark.parametrize("name", GAUSSIAN)
def test_step_0_is_the_backbone_bit_for_bit_in_the_mean(
    name: str, random_backbone: Backbone, batch: Batch
) -> None:
    model = build(random_backbone, name).eval()
    with torch.no_grad():
        expected = backbone_loss(model, batch)
        assert torch.equal(model(batch).total, expected)
        with torch.random.fork_rng():  # noise this small is lost in rounding for some draws
            torch.manual_seed(1)
            sampled = model.train()(batch).nll
    if name == "bayes_A" or name.startswith("blora"):
        assert torch.equal(sampled, expected), "without noise in B, B A is zero"
    else:
        assert not torch.equal(sampled, expected)
        assert torch.isclose(sampled, expected, rtol=0.05), "small noise"


@pytest.mark.parametrize("half", ["encoder", "decoder"])
@pytest.mark.parametrize("name", ["hypernet", "bayes_both", "static", "vi_lora", "blora"])
def test_every_source_adapts_every_matrix(
    name: str, half: str, random_backbone: Backbone, batch: Batch
) -> None:
    targets = tuple(t for t in lora.TARGET_NAMES if t.startswith(half))
    model = stir(build(random_backbone, name, targets, beta=0.1)).train()
    assert model.adapts_encoder == (half == "encoder")
    assert ("encoded again" in model.budget()) == model.adapts_encoder
    objective = model(batch)
    assert bool(objective.total.isfinite())
    assert not torch.isclose(objective.nll, backbone_loss(model, batch), rtol=1e-5)
    objective.nll.backward()
    silent = {n for n, p in model.source.named_parameters() if p.grad is None or not p.grad.any()}
    assert not silent
    assert all(p.grad is None for p in random_backbone.parameters())


@pytest.mark.parametrize("name", GAUSSIAN)
def test_every_parameter_gets_a_gradient_through_forward(
    name: str, random_backbone: Backbone, batch: Batch
) -> None:
    model = stir(build(random_backbone, name, beta=0.1)).train()
    model(batch).total.backward()
    assert [
        n for n, p in model.source.named_parameters() if p.grad is None or not p.grad.any()
    ] == []


@pytest.mark.parametrize("name", GAUSSIAN)
def test_objective_is_the_sum_of_its_parts(
    name: str, random_backbone: Backbone, batch: Batch
) -> None:
    goal = {"nll_weight": 0.9, "beta": 0.1, "l2": 0.01, "typical_penalty": 0.3}
    model = stir(build(random_backbone, name, **goal)).eval()
    with torch.no_grad():
        found = model(batch)
        emb, _ = model.embed(batch)
        posterior = model.source(emb, groups=model.groups(batch))
        kl = posterior.kl(model.source.prior, "mean_per_matrix")
        means = model.factors(emb, model.groups(batch))
        squares = [
            t.square().mean((1, 2, 3)).sum() for p in means.targets.values() for t in (p.A, p.B)
        ]
        row = 0 if means.shared else COHORTS.index("typical")
        sizes = []
        for layer, linear in enumerate(lora.find_targets(random_backbone, means)["decoder.fc1"]):
            delta = lora.delta_weight(means, "decoder.fc1", layer)[row]
            sizes.append(delta.square().sum() / linear.weight.square().sum())
        penalty = 0.01 * sum(squares) + 0.3 * torch.stack(sizes).mean()
    assert float(found.kl) == pytest.approx(float(kl), rel=1e-5)
    assert float(found.penalty) == pytest.approx(float(penalty), rel=1e-4)
    total = 0.9 * float(found.nll) + 0.1 * float(kl) + float(penalty)
    assert float(found.total) == pytest.approx(total, rel=1e-5)
    assert float(found.losses()["total"]) == float(found.total)


def test_warm_up(random_backbone: Backbone, batch: Batch) -> None:
    model = stir(build(random_backbone, "blora", beta=0.5, kl_warmup=0.5)).eval()
    with torch.no_grad():
        assert model(batch).beta == 0.5
        model.at_step(0, 20)
        assert model(batch).beta == pytest.approx(0.05)
        model.at_step(10, 20)
        assert model(batch).beta == 0.5


def test_typical_utterances_only(random_backbone: Backbone, batch: Batch) -> None:
    model = stir(build(random_backbone, "hypernet", typical_penalty=1.0)).eval()
    with torch.no_grad():
        assert float(model(batch).penalty) > 0
        assert float(model(replace(batch, cohorts=("stuttering",) * 3)).penalty) == 0
    with pytest.raises(ShapeError, match="typical_penalty needs the cohort of each of 3"):
        model(replace(batch, cohorts=()))


def test_nan_is_not_hidden(random_backbone: Backbone, batch: Batch) -> None:
    model = stir(build(random_backbone, "vi_lora", beta=0.1)).train()
    with torch.no_grad():
        model.source.A["decoder_fc1"][0, 0, 0, 0] = float("nan")
    found = model(batch)
    assert found.total.isnan()
    assert found.nll.isnan()
    assert found.kl.isnan()


class TestFactors:
    def test_mean_and_samples(self, random_backbone: Backbone, batch: Batch) -> None:
        model = stir(build(random_backbone, "bayes_both")).eval()
        emb, _ = model.embed(batch)
        mean = model.factors(emb)
        generators = utterance_generators(0, ["x", "y", "z"], 3)
        drawn = model.factors(emb, n_samples=3, generators=generators)
        assert (mean.n_utt, drawn.n_utt) == (3, 9)
        posterior = model.source(emb)
        again = posterior.sample(utterance_generators(0, ["x", "y", "z"], 3), 3)
        assert torch.equal(drawn["decoder.fc1"].A, again["decoder.fc1"].A)

    def test_a_shared_posterior_has_samples_for_each_utterance(
        self, random_backbone: Backbone, batch: Batch
    ) -> None:
        model = stir(build(random_backbone, "blora")).eval()
        emb, _ = model.embed(batch)
        assert model.factors(emb).shared
        drawn = model.factors(emb, n_samples=2)
        assert drawn.n_utt == 6
        assert not drawn.shared
        assert model.factors(n_samples=2).n_utt == 2

    def test_blora_merges_its_mean(self, random_backbone: Backbone, batch: Batch) -> None:
        model = stir(build(random_backbone, "blora", ("decoder.q_proj", "decoder.k_proj"))).eval()
        with torch.no_grad():
            adapted = float(model(batch).nll)
            with lora.merged(random_backbone.whisper, model.factors()):
                assert float(backbone_loss(model, batch)) == pytest.approx(adapted, rel=1e-5)


class TestCheckpoints:
    @pytest.mark.parametrize("name", GAUSSIAN)
    def test_round_trip(
        self, name: str, random_backbone: Backbone, batch: Batch, tmp_path: Path
    ) -> None:
        model = stir(build(random_backbone, name)).eval()
        model.save_pretrained(tmp_path / "m", backbone="unused")
        loaded = HyperASR.from_pretrained(tmp_path / "m", backbone=random_backbone)
        emb, _ = model.embed(batch)
        own, other = (m.source(emb, groups=m.groups(batch)) for m in (model, loaded))
        pair, saved = own.mean()["decoder.fc1"], other.mean()["decoder.fc1"]
        torch.testing.assert_close(pair.A, saved.A, atol=5e-3, rtol=5e-3)
        for mine, theirs in zip(_sigmas(own), _sigmas(other), strict=True):
            torch.testing.assert_close(mine, theirs, atol=2e-2, rtol=5e-3)
        prior, again = model.source.prior, loaded.source.prior
        assert torch.equal(prior["decoder.fc1"], again["decoder.fc1"])

    def test_a_dual_prior_is_loaded_without_scikit_learn(
        self, random_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = SourceConfig("vi_lora", ("decoder.fc1", "encoder.v_proj"), {"rank": 2})
        model = HyperASR(random_backbone, SpeakerConfig(), source)
        with torch.no_grad():
            model.source.prior_sigma.decoder_fc1[0] = 0.77  # what no backbone gives
        model.save_pretrained(tmp_path / "m", backbone="unused")
        for module in [m for m in sys.modules if m.split(".")[0] == "sklearn"]:
            monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
        loaded = HyperASR.from_pretrained(tmp_path / "m", backbone=random_backbone)
        assert float(loaded.source.prior["decoder.fc1"][0]) == pytest.approx(0.77)
        stored = load_file(tmp_path / "m" / "model.safetensors")
        assert stored["source.prior_sigma.decoder_fc1"].dtype == torch.float32


def _sigmas(posterior: Any) -> list[Tensor]:
    return [s for d in posterior.log_sigma.values() for s in (d.A, d.B) if s is not None]
