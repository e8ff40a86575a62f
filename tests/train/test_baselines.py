"""Baselines: what each trains, what it leaves, how it is decoded; PEFT as the outside reference."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperasr.adapters import SourceConfig, lora
from hyperasr.adapters.objective import ObjectiveConfig
from hyperasr.adapters.residual import ResidualAdapters, ResidualConfig
from hyperasr.cohorts.cache import Cache, CacheConfig, build_cache
from hyperasr.cohorts.views import plan_views
from hyperasr.errors import ConfigError, ManifestError
from hyperasr.hub import HyperASR
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import TeacherTokens
from hyperasr.whisper.backbone import Backbone
from tests.test_decode import decode_rows
from train import baselines, individual, meta
from train.baselines import FineTuneConfig, TunedObjective, saver
from train.config import LoopConfig, MetaConfig
from train.individual import IndividualObjective, by_person, enrol, rows_of_batch
from train.loop.scoring import Rows, mel_only
from train.loop.state import read_head


@pytest.fixture(scope="module")
def cache(corpus: Path, random_backbone_folder: Path) -> Cache:
    """Typical and simulated views of three speakers' two recordings each."""
    from hyperasr.cohorts.manifest import read_manifest

    backbone = Backbone.from_pretrained(random_backbone_folder, offline=True)
    views = plan_views(
        read_manifest(corpus / "train.jsonl"), seed=individual.VIEW_SEED, severities=(0.5,)
    )
    config = CacheConfig(SpeakerConfig(), keep_mel=True)
    folder = build_cache(corpus / "cache", views, random_backbone_folder, config)
    return Cache([folder], backbone)


def tuned(folder: Path, method: str, **residual: Any) -> tuple[TunedObjective, FineTuneConfig]:
    config = FineTuneConfig(
        method=method,  # type: ignore[arg-type]
        data=MetaConfig(backbone=str(folder)),
        residual=ResidualConfig(**residual),
        out=folder,
    )
    backbone = Backbone.from_pretrained(folder, offline=True)
    return TunedObjective(backbone, config).train(), config


METHODS = {
    "decoder_ft": ({}, "backbone.whisper.model.decoder.layer"),
    "full_ft": ({}, "backbone.whisper.model."),
    "residual": ({}, "adapters.adapters.decoder."),
    "residual both": ({"parts": ("encoder", "decoder")}, "adapters.adapters."),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_its_own_weights_and_loads_again(
    name: str, cache: Cache, random_backbone_folder: Path, tmp_path: Path
) -> None:
    settings, prefix = METHODS[name]
    objective, config = tuned(random_backbone_folder, name.split()[0], **settings)
    config = replace(config, out=tmp_path)
    batch = cache.batch([0, 3, 5])
    before = {n: p.detach().clone() for n, p in objective.named_parameters()}
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.3)
    for _ in range(8):  # the second step reaches what is behind an `up` that starts at zero
        optimizer.zero_grad()
        losses = objective(batch)
        losses["total"].backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
    moved = {n for n, p in objective.named_parameters() if not torch.equal(p, before[n])}
    trained = {n for n, p in objective.named_parameters() if p.requires_grad}
    assert moved
    assert moved <= trained
    assert all(n.startswith(prefix) for n in trained)
    if "both" in name or name == "full_ft":
        assert any(".encoder." in n for n in moved)
        assert any(".decoder." in n for n in moved)
    assert not any("embed_positions" in n and "encoder" in n for n in trained)

    objective.eval()
    saver(config)(objective)
    if objective.adapters is not None:
        loaded = Backbone.from_pretrained(random_backbone_folder, offline=True)
        ResidualAdapters.from_pretrained(tmp_path / "best", loaded).attach(loaded.whisper)
    else:
        loaded = Backbone.from_pretrained(tmp_path / "best", offline=True)
        notes = json.loads((tmp_path / "best" / baselines.TRAINING_FILE).read_text())
        assert notes["training"]["config"]["method"] == config.method
    rows: Any = mel_only(cache) if config.adapts_encoder else cache
    texts = []
    for backbone, context in ((objective.backbone, objective.adapted()), (loaded, None)):
        model = HyperASR(backbone, SpeakerConfig(), SourceConfig()).eval()
        if context is None:
            texts.append(decode_rows(model, rows, range(6), adapt=False))
        else:
            with context:
                texts.append(decode_rows(model, rows, range(6), adapt=False))
    assert texts[0] == texts[1]
    frozen = Backbone.from_pretrained(random_backbone_folder, offline=True)
    plain = HyperASR(frozen, SpeakerConfig(), SourceConfig()).eval()
    assert decode_rows(plain, cache, range(6), adapt=False) != texts[0]


def test_a_frozen_backbone_stays_in_evaluation_mode(random_backbone_folder: Path) -> None:
    objective, _ = tuned(random_backbone_folder, "residual")
    assert not objective.backbone.whisper.training
    assert objective.adapters is not None
    assert objective.adapters.training


def test_fine_tuning_weighs_text_and_teacher_as_adapters_do(
    cache: Cache, random_backbone_folder: Path
) -> None:
    goal = ObjectiveConfig(nll_weight=0.5, teacher=2.0)
    batch = cache.batch([0, 3, 5])
    assert batch.tokens is not None
    shape = (*batch.tokens.shape, 2)
    ids = torch.arange(2).expand(shape) + 300
    batch = replace(batch, teacher=TeacherTokens(ids, torch.full(shape, 0.3).log()))
    _, config = tuned(random_backbone_folder, "decoder_ft")
    data = replace(config.data, objective=goal, teacher=Path("lines.jsonl"))
    backbone = Backbone.from_pretrained(random_backbone_folder, offline=True)
    objective = TunedObjective(backbone, replace(config, data=data)).eval()
    # Untrained, a LoRA for everybody is the backbone.
    adapters = SourceConfig("static", settings={"rank": 1})
    model = HyperASR(backbone, SpeakerConfig(), adapters, objective=goal).eval()
    found, expected = objective(batch), model(batch).losses()
    for name in ("total", "nll", "teacher"):
        assert torch.allclose(found[name], expected[name], atol=1e-5), name
    assert found["teacher"] > 0


def test_what_is_trained_decides_whether_log_mel_is_kept() -> None:
    assert not FineTuneConfig().meta().keep_mel
    assert FineTuneConfig(method="full_ft").meta().keep_mel
    both = ResidualConfig(parts=("encoder", "decoder"))
    assert FineTuneConfig(method="residual", residual=both).meta().keep_mel


# Individual LoRA


def test_enrolment_is_nested_disjoint_and_alike_for_all() -> None:
    people = ["ann"] * 6 + ["bob"] * 4
    few, more = (enrol(people, k=k, held_out=1, seed=3) for k in (1, 3))
    everything = enrol(people, k=0, held_out=1, seed=3)
    for person, n in (("ann", 6), ("bob", 4)):
        assert few[person].enrolled == more[person].enrolled[:1]
        assert len(more[person].enrolled) == 3
        assert few[person].recognised == more[person].recognised == everything[person].recognised
        assert len(everything[person].enrolled) == n - 1
        for chosen in (few, more, everything):
            assert not set(chosen[person].enrolled) & set(chosen[person].recognised)
            assert all(people[row] == person for row in chosen[person].enrolled)
    rest = enrol(people, k=3, seed=3)
    assert sorted(rest["ann"].enrolled + rest["ann"].recognised) == list(range(6))
    assert enrol(people, k=3, seed=4) != rest


def test_people_enrol_in_a_given_order(cache: Cache, tmp_path: Path) -> None:
    people = by_person(cache)
    ids = people.meta["id"]
    drawn = enrol(people.meta["person"], k=1, held_out=1, seed=0)
    person = next(iter(drawn))
    rows = [row for row, name in enumerate(people.meta["person"]) if name == person]
    path = tmp_path / "order.json"
    path.write_text(json.dumps({person: [ids[row] for row in reversed(rows)]}))
    order = individual.read_order(path, people)
    chosen = enrol(people.meta["person"], k=1, held_out=1, order=order)
    assert chosen == {person: individual.Enrolment([rows[-1]], [rows[0]])}
    path.write_text(json.dumps({person: [ids[rows[0]]] * 2}))
    with pytest.raises(ConfigError, match=f"each utterance of '{person}' once"):
        individual.read_order(path, people)
    path.write_text("[")
    with pytest.raises(ConfigError, match=r"order.json: cannot be read as ids"):
        individual.read_order(path, people)


def test_people_with_too_few_utterances() -> None:
    people = ["ann"] * 6 + ["bob"] * 3
    assert set(enrol(people, k=2)) == {"ann", "bob"}
    with pytest.raises(ManifestError, match=r"'bob' has 3 utterances, 4 are needed .*1 of 2"):
        enrol(people, k=3)
    assert set(enrol(people, k=3, drop_short=True)) == {"ann"}
    with pytest.raises(ManifestError, match="2 of 2"):
        enrol(people, k=9, drop_short=True)
    with pytest.raises(ConfigError, match="nothing is left to recognise"):
        individual.IndividualConfig(k=0)


# A Gaussian so narrow that its noise changes far less than training does; its divergence weighs
# enough to be seen.
VI = {"prior": "fixed", "prior_sigma": 0.05, "sigma_start": 1e-5}
BOTH_KINDS = {
    "static": ({}, ObjectiveConfig()),
    "vi_lora": (VI, ObjectiveConfig(0.9, beta=5.0, kl_reduction="mean")),
}


def trained_factors(
    cache: Cache, people: Rows, chosen: dict, steps: int, kind: str = "static"
) -> dict[str, Tensor]:
    """Train people's LoRA by gradient descent; B of each person."""
    more, goal = BOTH_KINDS[kind]
    settings = {"by": "speaker", "groups": list(chosen), "rank": 2, **more}
    source = SourceConfig(kind, ("decoder.fc1",), settings)
    model = HyperASR(cache.backbone, SpeakerConfig(), source, objective=goal)
    with torch.no_grad():  # everybody starts from the same A
        for a in model.source.A.values():
            a.copy_(a[:, :1].expand_as(a) * 0 + torch.linspace(-0.2, 0.2, a.shape[-1]))
    objective = IndividualObjective(model).train()
    # Not Adam, which makes full steps of gradients that are hardly there.
    optimizer = torch.optim.SGD(model.source.parameters(), lr=0.1)
    for number in range(steps):
        optimizer.zero_grad()
        objective(people.batch(rows_of_batch(chosen, number)))["total"].backward()
        optimizer.step()
    (b,) = model.source.B.values()
    return {person: b[:, i].detach().clone() for i, person in enumerate(chosen)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOTH_KINDS)
def test_training_everybody_at_once_is_training_each_alone(cache: Cache, kind: str) -> None:
    people = by_person(cache)
    chosen = enrol(people.meta["person"], k=1, seed=0)
    assert len(chosen) >= 4
    together = trained_factors(cache, people, chosen, 3, kind)
    for person in list(chosen)[:3]:
        alone = trained_factors(cache, people, {person: chosen[person]}, 3, kind)
        torch.testing.assert_close(together[person], alone[person], rtol=0, atol=2e-5)
    first, second, *_ = together.values()
    assert float((first - second).abs().max()) > 1e-3


def test_a_gaussian_of_each_person_pays_for_its_divergence(cache: Cache) -> None:
    people = by_person(cache)
    chosen = enrol(people.meta["person"], k=1)
    settings = {"by": "speaker", "groups": list(chosen), "rank": 2, **VI}
    source, goal = SourceConfig("vi_lora", ("decoder.fc1",), settings), BOTH_KINDS["vi_lora"][1]
    model = HyperASR(cache.backbone, SpeakerConfig(), source, objective=goal)
    losses = IndividualObjective(model)(people.batch(rows_of_batch(chosen, 0)))
    # By hand: every entry's divergence, its mean over all entries of everybody.
    entries = []
    for name in ("A", "B"):
        (mu,), (log_sigma,) = (
            getattr(model.source, key).values() for key in (name, f"log_sigma_{name}")
        )
        posterior = torch.distributions.Normal(mu, log_sigma.exp())
        prior = torch.distributions.Normal(torch.zeros_like(mu), VI["prior_sigma"])
        entries.append(torch.distributions.kl_divergence(posterior, prior).mean())
    assert losses["kl"].item() == pytest.approx(sum(entries).item() / 2, rel=1e-4)
    expected = len(chosen) * (0.9 * losses["nll"] + 5.0 * losses["kl"])
    torch.testing.assert_close(losses["total"], expected)
    for unused in ({"l2": 1.0}, {"kl_warmup": 0.5}):
        with pytest.raises(ConfigError, match=f"objective.{next(iter(unused))} has no effect"):
            individual.IndividualConfig(objective=ObjectiveConfig(**unused))
    with pytest.raises(ConfigError, match=r"source.kind is 'hypernet'"):
        individual.IndividualConfig(source=SourceConfig("hypernet"))


def test_everybodys_utterances_come_equally_often(cache: Cache) -> None:
    people = by_person(cache)
    chosen = enrol(people.meta["person"], k=1, held_out=1)
    assert people.batch(rows_of_batch(chosen, 4)).speakers == tuple(chosen)
    rows = [row for number in range(6) for row in rows_of_batch(chosen, number)]
    assert {rows.count(e.enrolled[0]) for e in chosen.values()} == {6}
    assert not set(rows) & {row for e in chosen.values() for row in e.recognised}


@pytest.mark.slow
def test_individual_program_starts_from_a_global_lora_and_says_who_did_what(
    corpus: Path, random_backbone_folder: Path, tmp_path: Path, cache: Cache, monkeypatch: Any
) -> None:
    monkeypatch.setattr(individual, "SEVERITIES", (0.5,))
    source = SourceConfig("static", ("decoder.fc1",), {"by": "global", "rank": 2, "alpha": 2.0})
    start = HyperASR(cache.backbone, SpeakerConfig(), source)
    with torch.no_grad():
        for b in start.source.B.values():
            b.fill_(0.05)
    start.save_pretrained(tmp_path / "global", backbone=str(random_backbone_folder))
    config = individual.IndividualConfig(
        backbone=str(random_backbone_folder),
        manifest=corpus / "train.jsonl",
        k=1,
        init_from=tmp_path / "global",
        source=SourceConfig("static", settings={"rank": 2, "alpha": 4.0}),
        cache=corpus / "cache",
        out=tmp_path / "out",
        workers=1,
        loop=LoopConfig(steps=1, lr=1e-6, warmup=0.0, clip_norm=1e9, tracker="none"),
    )
    individual.run(config)
    record = json.loads((tmp_path / "out" / "k-01" / "people.json").read_text())
    assert len(record["people"]) == 12  # three speakers, three cohorts and typical
    for person in record["people"].values():
        assert len(person["enrolled"]) == 1
        assert not set(person["enrolled"]) & set(person["recognised"])
    trained = HyperASR.from_pretrained(tmp_path / "out" / "k-01" / "best", backbone=cache.backbone)
    # The same update as the global one (alpha differs, so B does), but for a step of 1e-6.
    own = trained.factors(torch.zeros(1, trained.speaker.d_spk), [next(iter(record["people"]))])
    expected = lora.delta_weight(
        start.factors(torch.zeros(1, start.speaker.d_spk)), "decoder.fc1", 1
    )
    found = lora.delta_weight(own, "decoder.fc1", 1)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-4)
    assert float(expected.detach().abs().max()) > 0.01


# The outside reference


@pytest.mark.slow
def test_pefts_lora_comes_to_our_weights(
    corpus: Path, random_backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peft = pytest.importorskip("peft")
    source = SourceConfig("static", ("decoder.fc1",), {"by": "global", "rank": 2, "alpha": 4.0})
    loop = LoopConfig(steps=3, lr=0.01, eval_every=3, log_every=1, clip_norm=0.5, tracker="none")
    data = MetaConfig(
        backbone=str(random_backbone_folder),
        train=corpus / "train.jsonl",
        dev=corpus / "dev.jsonl",
        must_help=False,
        cache=corpus / "cache",
        out=tmp_path / "ours",
        source=source,
        batch_size=4,
        workers=1,
        loop=loop,
    )
    new_model = meta.new_model
    starts: dict[str, Tensor] = {}

    def remembered(*args: Any) -> HyperASR:
        model = new_model(*args)
        starts["A"] = model.source.A["decoder_fc1"].detach().clone()
        return model

    peft_lora = baselines.peft_lora

    def same_start(*args: Any) -> Any:
        model = peft_lora(*args)
        weights = [p for n, p in model.named_parameters() if "lora_A" in n]
        with torch.no_grad():
            for weight, own in zip(weights, starts["A"][:, 0], strict=True):
                weight.copy_(own)
        return model

    monkeypatch.setattr(meta, "new_model", remembered)
    monkeypatch.setattr(baselines, "peft_lora", same_start)
    monkeypatch.setattr(
        baselines,
        "read_config",
        lambda kind: kind("peft", data, out=tmp_path / "theirs", loop=loop),
    )
    ours_best = meta.run(data)
    baselines.main()
    ours = HyperASR.from_pretrained(tmp_path / "ours" / "best")
    factors = ours.factors(torch.zeros(1, ours.speaker.d_spk))
    reference = Backbone.from_pretrained(random_backbone_folder, offline=True).whisper
    before = [
        m.weight.detach().clone()
        for m in lora.find_targets(reference, source.targets)["decoder.fc1"]
    ]
    folder = str(tmp_path / "theirs" / "best")
    merged = peft.PeftModel.from_pretrained(reference, folder).merge_and_unload()
    after = lora.find_targets(merged, source.targets)["decoder.fc1"]
    for layer, (old, new) in enumerate(zip(before, after, strict=True)):
        delta = lora.delta_weight(factors, "decoder.fc1", layer)[0]
        assert float(delta.detach().abs().max()) > 1e-3
        # Ours is stored in fp16.
        torch.testing.assert_close(new.weight - old, delta, rtol=1e-2, atol=2e-5)
    heads = [read_head(tmp_path / name)["best"] for name in ("ours", "theirs")]
    assert heads[0] == pytest.approx(ours_best)
    assert heads[1] == pytest.approx(ours_best)


def test_the_outside_reference_is_of_a_global_lora() -> None:
    for source in (SourceConfig("hypernet"), SourceConfig("static", settings={"by": "cohort"})):
        with pytest.raises(ConfigError, match="LoRA is a global one"):
            FineTuneConfig("peft", MetaConfig(source=source))
