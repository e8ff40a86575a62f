"""Every kind of meta-training, for two steps: cache, train, save, load, go on."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperasr.adapters import SourceConfig
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError
from hyperasr.hub import HyperASR
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.whisper.backbone import Backbone
from train import baselines, meta
from train.data.augment import FeatureVariety

pytestmark = pytest.mark.slow

KINDS = {
    "hypernet": {"kind": "hypernet", "targets": ["decoder.fc1"], "settings": {"rank": 2}},
    "global": {
        "kind": "static",
        "targets": ["decoder.fc1"],
        "settings": {"by": "global", "rank": 2},
    },
    "cohort": {"kind": "static", "targets": ["decoder.fc1"], "settings": {"by": "cohort"}},
    "encoder": {
        "kind": "hypernet",
        "targets": ["encoder.fc1", "decoder.fc1"],
        "settings": {"rank": 1, "generate": "B"},
    },
}


def run(program, monkeypatch, capsys, corpus: Path, backbone: Path, out: Path, **values) -> dict:
    config = {
        "backbone": str(backbone),
        "train": str(corpus / "train.jsonl"),
        "dev": str(corpus / "dev.jsonl"),
        "must_help": False,
        "cache": str(corpus / "cache"),
        "batch_size": 4,
        "workers": 1,
        "keep_mel": True,
        "typical_share": 1.0,
    }
    loop = {"steps": 2, "eval_every": 1, "log_every": 1, "save_every": 1, **values.pop("loop", {})}
    if program is baselines:
        config = {"data": {**config, "features": values.pop("features", {})}}
    config = {**config, **values}
    out.mkdir(exist_ok=True)
    path = out / "config.yaml"
    path.write_text(json.dumps({**config, "out": str(out), "loop": loop}))  # JSON is YAML
    monkeypatch.setattr(sys, "argv", ["program", "--config", str(path)])
    program.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def config_of(corpus: Path, backbone: Path, **values) -> meta.MetaConfig:
    """Return a configuration whose views are drawn without training."""
    return meta.MetaConfig(
        backbone=str(backbone),
        train=corpus / "train.jsonl",
        cache=corpus / "cache",
        batch_size=8,
        workers=1,
        keep_mel=True,
        typical_share=1.0,
        **values,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_two_steps_leave_a_model_that_loads(
    kind, corpus, random_backbone_folder, tmp_path, monkeypatch, capsys
) -> None:
    best = run(
        meta, monkeypatch, capsys, corpus, random_backbone_folder, tmp_path, source=KINDS[kind]
    )
    assert set(best) == {"stuttering", "dysarthria", "parkinson", TYPICAL, "score", "step"}
    model = HyperASR.from_pretrained(tmp_path / "best")
    emb = torch.zeros(2, model.speaker.d_spk)
    factors = model.factors(emb, ["stuttering", TYPICAL])
    assert list(factors) == list(KINDS[kind]["targets"])
    assert any(bool(f.B.abs().sum() > 0) for f in factors.targets.values()), "nothing was learned"


def test_an_encoder_is_adapted_on_30_s_where_that_is_asked_for(
    corpus, random_backbone_folder, tmp_path, monkeypatch, capsys
) -> None:
    run(
        meta,
        monkeypatch,
        capsys,
        corpus,
        random_backbone_folder,
        tmp_path,
        source=KINDS["encoder"],
        audio_context="full",
        loop={"steps": 1},
    )
    assert Backbone.from_pretrained(random_backbone_folder).audio_context == "trimmed"
    model = HyperASR.from_pretrained(tmp_path / "best")
    assert model.backbone.audio_context == "full"
    wave = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    assert model.transcribe((wave, 16_000)).duration_s == 1.0


def test_a_trained_hypernetwork_goes_on_with_embeddings_of_what_is_heard(
    corpus, random_backbone_folder, tmp_path, monkeypatch, capsys
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    place = (meta, monkeypatch, capsys, corpus, random_backbone_folder)
    run(*place, first, source=KINDS["encoder"], loop={"lr": 0.02})
    start = {"init_from": str(first / "best"), "features": {"warp": 0.1, "embed": True}}
    run(*place, second, source=KINDS["encoder"], **start, loop={"steps": 1, "lr": 1e-12})
    models = [HyperASR.from_pretrained(folder / "best") for folder in (first, second)]
    before, after = (model.source.state_dict() for model in models)
    # The same in fp16 but for one step of a rate that moves nothing, statistics included.
    assert all(torch.equal(after[name], value) for name, value in before.items())
    other = {**KINDS["encoder"], "settings": {"rank": 2, "generate": "B"}}
    with pytest.raises(ConfigError, match="other sizes"):
        run(*place, tmp_path / "third", source=other, **start)


def test_embeddings_of_what_is_heard_follow_it(corpus, random_backbone_folder) -> None:
    config = config_of(
        corpus,
        random_backbone_folder,
        source=SourceConfig(targets=("encoder.fc1",)),
        features=FeatureVariety(rate=0.2),
    )
    backbone = Backbone.from_pretrained(random_backbone_folder)
    plain = meta.Views(config, backbone)
    heard = meta.Views(replace(config, features=FeatureVariety(rate=0.2, embed=True)), backbone)
    still = meta.Views(replace(config, features=FeatureVariety(noise=1e-9, embed=True)), backbone)
    layers = config.speaker.layers or (1, 2)
    for number in range(2):
        batch, same = heard(number), still(number)
        assert torch.equal(batch.mel, plain(number).mel), "what is heard is the same"
        # Cached embeddings are kept as float16, of batches that were padded otherwise.
        torch.testing.assert_close(same.speaker_emb, plain(number).speaker_emb, atol=5e-3, rtol=0)
        for row, n in enumerate(batch.n_frames.tolist()):
            alone = backbone.encode(
                batch.mel[row : row + 1, :, :n], batch.n_frames[row : row + 1], layers
            )
            own = torch.cat([alone.moments[layer] for layer in layers], dim=1)[0]
            torch.testing.assert_close(batch.speaker_emb[row], own, atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match="'pooled'"):
        meta.Views(replace(heard.config, speaker=SpeakerConfig("ecapa")), backbone)


def test_decoder_targets_hear_what_is_changed(corpus, random_backbone_folder) -> None:
    config = config_of(corpus, random_backbone_folder, features=FeatureVariety(rate=0.2))
    assert not config.adapts_encoder
    assert replace(config, keep_mel=False).needs_mel
    backbone = Backbone.from_pretrained(random_backbone_folder)
    batch = meta.Views(config, backbone)(0)
    model = HyperASR(backbone, config.speaker, config.source)
    states = model.encode(batch)
    for row, n in enumerate(batch.n_frames.tolist()):
        n_frames = batch.n_frames[row : row + 1]
        alone = backbone.encode(batch.mel[row : row + 1, :, :n], n_frames)
        own = states.states[row, : int(states.lengths[row])]
        torch.testing.assert_close(own, alone.states[0], atol=1e-4, rtol=1e-4)
    # An encoder target encodes with its own weights: the model is spared a pass of the frozen ones.
    targets = SourceConfig(targets=("encoder.fc1",))
    assert meta.Views(replace(config, source=targets), backbone)(0).encoded is not None


@pytest.mark.parametrize("program", [meta, baselines])
def test_decoders_are_trained_on_changed_features(
    program, corpus, random_backbone_folder, tmp_path, monkeypatch, capsys
) -> None:
    place = (program, monkeypatch, capsys, corpus, random_backbone_folder)
    run(*place, tmp_path / "as-they-are")
    run(*place, tmp_path / "changed", features={"mask": True, "rate": 0.2})
    folders = (tmp_path / "as-they-are", tmp_path / "changed")
    losses = [json.loads((folder / "log.jsonl").read_text().splitlines()[0]) for folder in folders]
    assert losses[0]["nll"] != losses[1]["nll"]


def test_a_speaker_encoder_is_trained_together_with_the_hypernetwork(
    corpus, random_backbone_folder, tmp_path, monkeypatch, capsys
) -> None:
    speaker = {"kind": "ecapa", "d_spk": 8, "channels": 8}
    # The head is zero at the start, so the first step teaches the speaker encoder nothing yet.
    run(
        meta,
        monkeypatch,
        capsys,
        corpus,
        random_backbone_folder,
        tmp_path,
        source=KINDS["hypernet"],
        speaker=speaker,
        loop={"steps": 3, "lr": 0.02, "eval_every": 3},
    )
    trained = HyperASR.from_pretrained(tmp_path / "best")
    fresh = HyperASR(trained.backbone, trained.speaker_config, trained.source_config)
    weights = dict(fresh.speaker.named_parameters())
    moved = [
        float((p - weights[name]).detach().abs().max())
        for name, p in trained.speaker.named_parameters()
    ]
    assert max(moved) > 5e-3  # storing in fp16 alone moves them by less than 1e-3


def test_fine_tuning_changes_the_decoder_and_nothing_else(
    corpus, random_backbone_folder, tmp_path, monkeypatch, capsys
) -> None:
    run(baselines, monkeypatch, capsys, corpus, random_backbone_folder, tmp_path, loop={"lr": 0.01})
    before = Backbone.from_pretrained(random_backbone_folder).whisper.state_dict()
    after = Backbone.from_pretrained(tmp_path / "best").whisper.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("model.decoder.layer") for name in changed)
