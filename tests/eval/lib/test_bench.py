"""The bench: every kind of system against decoding it directly, the store, leaks and controls."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch

import eval.lib.bench as room
from eval.lib.bench import Bench, BenchConfig
from eval.lib.embedding_controls import CONTROLS
from eval.lib.scores import Group
from eval.lib.systems import BACKBONE, open_system, view_of
from eval.lib.testset import fixed_views
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.errors import CheckpointMismatch, ConfigError, ManifestError
from hyperasr.hub import HyperASR
from hyperasr.metrics.error_rates import error_rate, score
from hyperasr.metrics.normalisers import normaliser
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.search import SearchConfig, text_only
from tests.eval.running import save_people
from tests.test_decode import decode_rows
from train.baselines import TRAINING_FILE

pytestmark = pytest.mark.slow


def test_the_test_set_is_fixed(world) -> None:
    config = BenchConfig(test=world.test)
    views = fixed_views(config)
    assert [v.id for v in views] == [v.id for v in fixed_views(config)]
    stuttering = [v.severity for v in views if v.cohort == "stuttering"]
    assert stuttering == [0.25, 0.5] * 4  # in turn within a speaker
    assert {v.speed for v in views} == {1.0}
    fewer = fixed_views(BenchConfig(test=world.test, per_speaker=1))
    assert Counter(v.utterance.speaker for v in fewer if not v.simulates) == Counter(
        {v.utterance.speaker for v in views}
    )
    with pytest.raises(ConfigError, match="per_speaker is -1"):
        BenchConfig(test=world.test, per_speaker=-1)


def test_every_system_decodes_as_it_does_alone(bench, systems, random_backbone) -> None:
    """The slow twin: load the folder by hand and decode it without bench, store or wrapper."""
    rows = bench.rows
    alone = {}
    for name in ("hypernet", "global_lora", "cohort_lora"):
        model = HyperASR.from_pretrained(systems[name], backbone=random_backbone)
        alone[name] = decode_rows(model, rows)
    alone[BACKBONE] = decode_rows(model, rows, adapt=False)
    for name in ("decoder_ft", "full_ft"):
        tuned = Backbone.from_pretrained(systems[name])
        batch = rows.batch(range(len(rows)))
        heard = tuned.encode(batch.mel, batch.n_frames) if name == "full_ft" else batch.encoded
        limits = ((batch.n_frames + 1) // 2 * 0.6).long() + 8
        search = text_only(SearchConfig(), tuned.eos, tuned.whisper.config.vocab_size)
        made = tuned.generate(heard, search, max_tokens=limits)
        alone[name] = [tuned.text(tokens) for tokens in made.tokens]
    for name, texts in alone.items():
        assert bench.decode(name) == texts, name
    assert len({tuple(texts) for texts in alone.values()}) == len(alone), "two systems say the same"


def test_a_baseline_hears_what_it_was_trained_to_hear(bench, systems, tmp_path) -> None:
    backbone = bench.backbone
    margin_s = backbone.margin_s + 0.5
    folder = shutil.copytree(systems["decoder_ft"], tmp_path / "best")
    data = {"audio_context": "trimmed", "margin_s": margin_s}
    notes = {"training": {"config": {"data": data}}}
    (folder / TRAINING_FILE).write_text(json.dumps(notes))
    config = replace(bench.config, cache=tmp_path / "cache", store=tmp_path / "store")
    own = Bench(config, backbone).beside({"longer": folder})
    system = own.systems["longer"]
    assert system.training == notes["training"]
    assert system.model.backbone.margin_s == margin_s
    rows = own.cache_of(system)
    heard, before = (cache.batch([0]).encoded.lengths for cache in (rows, own.rows))
    assert (heard != before).all()
    assert own.decode("longer") == decode_rows(system.model, rows, adapt=False)


def test_residual_adapters_are_attached_to_a_copy(bench, random_backbone) -> None:
    from hyperasr.adapters.residual import ResidualAdapters

    system = bench.systems["residual"]
    assert system.own_encoder
    adapters = ResidualAdapters.from_pretrained(system.folder, random_backbone).eval()
    batch = bench.rows.batch([0, 1])
    with adapters.using(random_backbone.whisper), torch.no_grad():
        expected = random_backbone.encode(batch.mel, batch.n_frames).states
    own = system.model.backbone.encode(batch.mel, batch.n_frames).states
    torch.testing.assert_close(own, expected)
    plain = random_backbone.encode(batch.mel, batch.n_frames).states
    assert not torch.allclose(plain, expected)
    assert bench.decode("residual", [0, 1]) != bench.decode(BACKBONE, [0, 1])


def test_a_peft_adapter_is_merged(bench, random_backbone, tmp_path) -> None:
    peft = pytest.importorskip("peft")
    import copy

    config = peft.LoraConfig(r=2, target_modules=r".*decoder.*fc1", init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = peft.get_peft_model(copy.deepcopy(random_backbone.whisper), config)
    adapted.save_pretrained(tmp_path)
    system = open_system("peft", tmp_path, random_backbone)
    assert not system.own_encoder
    shape = random_backbone.whisper.model.decoder.layers[0].fc1.weight.shape
    assert system.n_trained == 2 * 2 * sum(shape)
    batch = bench.rows.batch([0, 1, 2])
    expected = Backbone(adapted.merge_and_unload(), random_backbone.tokenizer, "trimmed")
    with torch.no_grad():
        difference = expected.logits(batch.encoded, batch.tokens) - system.model.backbone.logits(
            batch.encoded, batch.tokens
        )
    assert difference.abs().max() < 1e-4
    assert decode_rows(system.model, view_of(system, bench.rows), [0], adapt=False)


def test_what_was_decoded_is_not_decoded_again(bench, monkeypatch, tmp_path) -> None:
    bench = Bench(replace(bench.config, store=tmp_path), bench.backbone)
    first = bench.decode("global_lora")
    samples = bench.decoded("global_lora", [3, 5])

    def refuse(*args, **kwargs):
        raise AssertionError("decoded again")

    monkeypatch.setattr(room, "decode_tokens", refuse)
    assert bench.decode("global_lora") == first
    assert bench.decode("global_lora", [5, 3]) == [first[5], first[3]]
    assert bench.decoded("global_lora", [3, 5]) == samples
    assert len(samples.logprobs[0]) == len(samples.tokens[0])
    with pytest.raises(AssertionError, match="decoded again"):
        bench.decode("cohort_lora", [0])


def test_an_interrupted_evaluation_goes_on(world, bench, monkeypatch, tmp_path) -> None:
    config, whole = replace(bench.config, store=tmp_path), bench.decode("hypernet")
    monkeypatch.setattr(room, "_SAVED_TOGETHER", 8)
    one, decode, n_decoded = Bench(config, bench.backbone), room.decode_tokens, []

    def interrupted(model, cache, rows, **options):
        n_decoded.append(len(rows))
        if len(n_decoded) == 3:
            raise KeyboardInterrupt
        return decode(model, cache, rows, **options)

    monkeypatch.setattr(room, "decode_tokens", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one.decode("hypernet")
    assert Bench(config, bench.backbone).decode("hypernet") == whole
    assert n_decoded == [8, 8, 8, 8, 8]  # two of the four parts were there
    # A file that was cut short is made again, not believed.
    (path,) = tmp_path.glob("*/*.json")
    path.write_text(path.read_text()[:50])
    assert Bench(config, bench.backbone).decode("hypernet") == whole


def test_other_weights_have_another_place_in_the_store(bench, systems, tmp_path) -> None:
    import shutil

    shutil.copytree(systems["global_lora"], tmp_path / "same")
    same = open_system("x", tmp_path / "same", bench.backbone)
    assert same.fingerprint == bench.systems["global_lora"].fingerprint
    assert len({s.fingerprint for s in bench.systems.values()}) == len(bench.systems)
    config = json.loads((tmp_path / "same" / "config.json").read_text())
    config["training"]["note"] = "other"
    (tmp_path / "same" / "config.json").write_text(json.dumps(config))
    assert open_system("x", tmp_path / "same", bench.backbone).fingerprint != same.fingerprint


def test_parameters_are_counted(bench) -> None:
    whisper = bench.backbone.whisper.model
    fc1 = whisper.decoder.layers[0].fc1.weight.shape
    counted = {name: system.n_trained for name, system in bench.systems.items()}
    assert counted[BACKBONE] == 0
    assert counted["global_lora"] == 2 * 2 * sum(fc1)
    assert counted["cohort_lora"] == 4 * counted["global_lora"]
    assert counted["decoder_ft"] == sum(p.numel() for p in whisper.decoder.layers.parameters())
    hypernet = bench.systems["hypernet"]
    assert hypernet.n_generated == counted["global_lora"]
    assert [n for n, s in bench.systems.items() if s.conditioned] == ["hypernet"]


def test_controls_change_what_the_hypernetwork_hears_and_nothing_else(bench) -> None:
    names = bench.names()
    assert names[1:6] == ["hypernet", *(f"hypernet_{control}" for control in CONTROLS)]
    assert "global_lora_mean" not in names
    system = bench.systems["hypernet"]
    embs = bench.embeddings(system)
    partner = [  # of each row another row of the same person, here the only other one
        next(
            (j for j, other in enumerate(bench.views) if i != j and other.person == view.person), i
        )
        for i, view in enumerate(bench.views)
    ]
    expected = {
        "hypernet_mean": system.model.source.emb_mean.expand_as(embs),
        "hypernet_same_speaker": embs[partner],
    }
    for name, changed in expected.items():
        direct = decode_rows(system.model, bench.rows, embeddings=changed)
        assert bench.decode(name) == direct
        assert direct != bench.decode("hypernet")
    for name in ("global_lora_mean", "hypernett"):
        with pytest.raises(ConfigError, match=f"no system is called '{name}'"):
            bench.decode(name)


def test_scores_are_those_of_scoring_by_hand(bench) -> None:
    scores = bench.scores([BACKBONE, "hypernet"], [0, 4, 9], metric="cer")
    texts = [bench.column("text")[i] for i in (0, 4, 9)]
    counts = score(texts, bench.decode("hypernet", [0, 4, 9]), normaliser("spoken"), "cer")
    assert scores.counts["hypernet"] == counts
    _, row = scores.rows(Group("typical", "recorded", (0, 1, 2)))
    assert row["value"] == error_rate(counts)
    assert row["protocol"] == "spoken"


def test_verbatim_references_are_what_is_heard(bench, world, random_backbone) -> None:
    heard = bench.verbatim()
    for view, text, clean in zip(bench.views, heard, bench.column("text"), strict=True):
        if view.cohort == "typical":
            assert text == clean
        else:  # what was meant is in what is heard, in this order
            words = iter(text.split())
            assert all(word in words for word in clean.split())
    assert any(text != clean for text, clean in zip(heard, bench.column("text"), strict=True))
    strict = Bench(replace(bench.config, protocol="sap2"), random_backbone)
    scores = strict.scores([BACKBONE])
    assert scores.metric == "cer"
    spoken = bench.scores([BACKBONE], metric="cer")
    pairs = zip(scores.counts[BACKBONE], spoken.counts[BACKBONE], strict=True)
    assert all(a.clipped / max(a.n_reference, 1) <= b.rate + 1e-9 for a, b in pairs)


def test_what_leaks_is_not_evaluated(world, bench, systems, tmp_path, random_backbone) -> None:
    rows = [replace(u, path=str(world.folder / f"{u.id}.wav")) for u in read_manifest(world.train)]
    leaking = tmp_path / "leaking.jsonl"
    write_manifest(leaking, [*rows, replace(rows[0], id="x", speaker="e")])
    with pytest.raises(ManifestError, match=r"have a speaker of leaking\.jsonl: 'e'"):
        Bench(replace(bench.config, train=(leaking,)), random_backbone)
    # Also where only the system's own notes name the manifest.
    model = HyperASR.from_pretrained(systems["global_lora"], backbone=random_backbone)
    notes = {"config": {"train": str(leaking)}}
    model.save_pretrained(tmp_path / "best", backbone=bench.config.backbone, training=notes)
    with pytest.raises(ManifestError, match=r"leaking\.jsonl"):
        bench.beside({"leaky": tmp_path / "best"})
    assert "leaky" not in bench.systems


def test_people_are_recognised_only_in_what_they_did_not_enrol_with(bench, tmp_path) -> None:
    rows = save_people(tmp_path, bench)
    own = bench.beside({"individual": tmp_path / "best"})
    recognised = {name for names in rows.values() for name in names[1:]}
    assert {own.views[row].id for row in own.rows_of("individual")} == recognised
    assert len(own.decode("individual")) == len(recognised)
    enrolled = next(i for i, view in enumerate(own.views) if view.id not in recognised)
    with pytest.raises(ConfigError, match="only what they did not enrol with"):
        own.decode("individual", [enrolled])
    for damaged in ("{", '{"people": {"p": {}}}'):
        (tmp_path / "people.json").write_text(damaged)
        with pytest.raises(ConfigError, match=r"people\.json is damaged"):
            bench.beside({"individual": tmp_path / "best"})
    (tmp_path / "people.json").unlink()
    with pytest.raises(ConfigError, match="who enrolled with what"):
        bench.beside({"individual": tmp_path / "best"})


def test_folders_that_hold_no_system_say_so(bench, systems, random_backbone, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"x: .* holds no model"):
        open_system("x", tmp_path / "nowhere", random_backbone)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="nothing that decodes speech"):
        open_system("x", tmp_path, random_backbone)
    with pytest.raises(CheckpointMismatch, match="nothing was trained"):
        open_system("x", bench.config.backbone, random_backbone)
    with pytest.raises(ConfigError, match="cannot be called 'backbone'"):
        replace(bench.config, systems={"backbone": tmp_path})
    with pytest.raises(ConfigError, match="no protocol is called"):
        replace(bench.config, protocol="wispr")
