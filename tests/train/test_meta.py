"""Meta-training for a few steps: what it starts from, what is trained, what loads and goes on."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hyperasr.adapters import SourceConfig, lora
from hyperasr.audio.reading import load
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.errors import ConfigError
from hyperasr.hub import HyperASR
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch
from hyperasr.whisper.backbone import Backbone
from train import meta

pytestmark = pytest.mark.slow

HYPERNET = {"kind": "hypernet", "targets": ["decoder.fc1"], "settings": {"rank": 2}}
ENCODER = {
    "kind": "hypernet",
    "targets": ["encoder.fc1", "decoder.fc1"],
    "settings": {"rank": 1},
}


def run(monkeypatch, capsys, corpus: Path, backbone: Path, out: Path, **values) -> dict:
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
    config = {**config, **values}
    out.mkdir(exist_ok=True)
    path = out / "config.yaml"
    path.write_text(json.dumps({**config, "out": str(out), "loop": loop}))  # JSON is YAML
    monkeypatch.setattr(sys, "argv", ["program", "--config", str(path)])
    meta.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_an_encoder_is_adapted_on_30_s_where_that_is_asked_for(
    corpus, random_backbone_folder, tmp_path, monkeypatch, capsys
) -> None:
    run(
        monkeypatch,
        capsys,
        corpus,
        random_backbone_folder,
        tmp_path,
        source=ENCODER,
        audio_context="full",
        loop={"steps": 1},
    )
    assert Backbone.from_pretrained(random_backbone_folder).audio_context == "trimmed"
    model = HyperASR.from_pretrained(tmp_path / "best")
    assert model.backbone.audio_context == "full"
    wave = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    assert model.transcribe((wave, 16_000)).duration_s == 1.0


def test_a_trained_hypernetwork_goes_on(
    corpus, random_backbone_folder, tmp_path, monkeypatch, capsys, caplog
) -> None:
    caplog.set_level(logging.INFO)
    first, second = tmp_path / "first", tmp_path / "second"
    place = (monkeypatch, capsys, corpus, random_backbone_folder)
    run(*place, first, source=ENCODER, loop={"lr": 0.02})
    start = {"init_from": str(first / "best")}
    run(*place, second, source=ENCODER, **start, loop={"steps": 1, "lr": 1e-12})
    models = [HyperASR.from_pretrained(folder / "best") for folder in (first, second)]
    before, after = (model.source.state_dict() for model in models)
    # The same in fp16 but for one step of a rate that moves nothing, statistics included.
    assert all(torch.equal(after[name], value) for name, value in before.items())
    # Another audio context keeps the weights and has statistics of its own.
    run(
        *place,
        tmp_path / "full",
        source=ENCODER,
        audio_context="full",
        **start,
        loop={"steps": 1, "lr": 1e-12},
    )
    heard_30s = HyperASR.from_pretrained(tmp_path / "full" / "best").source.state_dict()
    differ = {name for name, value in before.items() if not torch.equal(heard_30s[name], value)}
    assert differ == {"emb_mean", "emb_std"}
    other = {**ENCODER, "settings": {"rank": 2}}
    with pytest.raises(ConfigError, match="other sizes"):
        run(*place, tmp_path / "third", source=other, **start)

    # Another embedding is read so that it says the same: with more dimensions than rows, nearly.
    third, stem = tmp_path / "third", {"layers": [0]}
    run(*place, third, source=ENCODER, speaker=stem, **start, loop={"steps": 1, "lr": 1e-12})
    said = re.search(r"(\d+) % of what the start reads", caplog.text)
    assert said
    assert int(said[1]) > 50
    model = HyperASR.from_pretrained(third / "best")
    anew = model.source.state_dict()
    differ = {name for name, value in before.items() if not torch.equal(anew[name], value)}
    assert differ == {"emb_mean", "emb_std", "speaker.0.weight", "speaker.0.bias"}
    read = []
    mel, n_frames = model.backbone.features(
        [load(row.path) for row in read_manifest(corpus / "train.jsonl")]
    )
    for each in (models[0], model):
        emb, encoded = each.embed(Batch(n_frames=n_frames, mel=mel))
        of: Any = each.source
        read.append(of.speaker[0]((emb - of.emb_mean) / of.emb_std).detach())
    assert encoded.states.shape[1] == 0  # one pass
    missed = (read[1] - read[0]).square().sum() / (read[0] - read[0].mean(0)).square().sum()
    assert missed < 0.5
    with pytest.raises(ConfigError, match="another speaker encoder"):
        run(*place, tmp_path / "fourth", source=HYPERNET, speaker=stem, **start)


def test_a_speaker_encoder_is_trained_together_with_the_hypernetwork(
    corpus, random_backbone_folder, tmp_path, monkeypatch, capsys
) -> None:
    speaker = {"kind": "ecapa", "d_spk": 8, "channels": 8}
    # The head is zero at the start, so the first step teaches the speaker encoder nothing yet.
    run(
        monkeypatch,
        capsys,
        corpus,
        random_backbone_folder,
        tmp_path,
        source=HYPERNET,
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
    # What pools layers, without weights of its own, goes on from it.
    place = (monkeypatch, capsys, corpus, random_backbone_folder)
    run(*place, tmp_path / "pooled", source=HYPERNET, init_from=str(tmp_path / "best"))
    assert HyperASR.from_pretrained(tmp_path / "pooled" / "best").speaker_config.kind == "pooled"


def test_a_hypernetwork_starts_as_a_global_lora_on_some_of_its_targets(
    random_backbone, random_backbone_folder, tmp_path, generator
) -> None:
    settings = {"by": "global", "rank": 2, "alpha": 4.0}
    static = HyperASR(
        random_backbone, SpeakerConfig(), SourceConfig("static", ("decoder.fc1",), settings)
    )
    with torch.no_grad():
        for weight in static.source.B.values():
            weight.normal_(0, 0.1, generator=generator)
    static.save_pretrained(tmp_path, backbone=str(random_backbone_folder))

    def started(*targets: str, rank: int = 2) -> HyperASR:
        source = SourceConfig(targets=targets, settings={"rank": rank, "alpha": 2.0})
        config = meta.MetaConfig(source=source, init_from=tmp_path)
        no_rows = SimpleNamespace(keeps_embeddings=False)
        return meta.new_model(config, random_backbone, no_rows).eval()

    model = started("encoder.fc1", "decoder.fc1")
    emb = torch.randn(3, model.speaker.d_spk, generator=generator)
    own, expected = model.factors(emb), static.factors(emb[:1])
    for layer in range(2):
        update = lora.delta_weight(own, "decoder.fc1", layer)
        whole = lora.delta_weight(expected, "decoder.fc1", layer).expand_as(update)
        torch.testing.assert_close(update, whole, rtol=1e-2, atol=1e-4)  # stored in fp16
        assert float(whole.detach().abs().max()) > 0.01
        assert not bool(lora.delta_weight(own, "encoder.fc1", layer).any())
    with pytest.raises(ConfigError, match=r"its rank 2 and targets decoder\.fc1 must be"):
        started("encoder.fc1")
    with pytest.raises(ConfigError, match="its rank 2"):
        started("decoder.fc1", rank=4)

    # What depends on the utterance has no factors for all.
    started("decoder.fc1").save_pretrained(tmp_path / "net", backbone=str(random_backbone_folder))
    source = SourceConfig("static", ("decoder.fc1",), settings)
    config = meta.MetaConfig(source=source, init_from=tmp_path / "net")
    with pytest.raises(ConfigError, match="holds no global LoRA"):
        meta.new_model(config, random_backbone, SimpleNamespace(keeps_embeddings=False))

    # So does a static LoRA, each of its groups.
    source = SourceConfig("static", ("encoder.fc1", "decoder.fc1"), {**settings, "alpha": 2.0})
    config = meta.MetaConfig(source=source, init_from=tmp_path)
    own = meta.new_model(config, random_backbone, SimpleNamespace(keeps_embeddings=False)).factors(
        emb
    )
    update = lora.delta_weight(own, "decoder.fc1", 0)
    whole = lora.delta_weight(expected, "decoder.fc1", 0).expand_as(update)
    torch.testing.assert_close(update, whole, rtol=1e-2, atol=1e-4)
    assert not bool(lora.delta_weight(own, "encoder.fc1", 0).any())


def test_a_hypernetwork_that_goes_on_keeps_the_prior_of_its_own_settings(
    random_backbone, random_backbone_folder, tmp_path
) -> None:
    def source(sigma: float) -> SourceConfig:
        return SourceConfig("bayes_hypernet", settings={"rank": 2, "prior_sigma": sigma})

    trained = HyperASR(random_backbone, SpeakerConfig(), source(0.5), seed=1)
    trained.save_pretrained(tmp_path, backbone=str(random_backbone_folder))
    config = meta.MetaConfig(source=source(0.01), init_from=tmp_path)
    model = meta.new_model(config, random_backbone, SimpleNamespace(keeps_embeddings=False))
    torch.testing.assert_close(
        model.source.join.weight, trained.source.join.weight, rtol=1e-2, atol=1e-4
    )
    sigma = model.source.prior["decoder.fc1"]
    torch.testing.assert_close(sigma, torch.full_like(sigma, 0.01))
