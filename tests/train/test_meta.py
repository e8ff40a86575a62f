"""Every kind of meta-training, for two steps: cache, train, save, load, go on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError
from hyperasr.hub import HyperASR
from hyperasr.whisper.backbone import Backbone
from train import meta

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


@pytest.mark.parametrize("kind", KINDS)
def test_two_steps_leave_a_model_that_loads(
    kind, corpus, random_backbone_folder, tmp_path, monkeypatch, capsys
) -> None:
    best = run(monkeypatch, capsys, corpus, random_backbone_folder, tmp_path, source=KINDS[kind])
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


def test_a_trained_hypernetwork_goes_on(
    corpus, random_backbone_folder, tmp_path, monkeypatch, capsys
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    place = (monkeypatch, capsys, corpus, random_backbone_folder)
    run(*place, first, source=KINDS["encoder"], loop={"lr": 0.02})
    start = {"init_from": str(first / "best")}
    run(*place, second, source=KINDS["encoder"], **start, loop={"steps": 1, "lr": 1e-12})
    models = [HyperASR.from_pretrained(folder / "best") for folder in (first, second)]
    before, after = (model.source.state_dict() for model in models)
    # The same in fp16 but for one step of a rate that moves nothing, statistics included.
    assert all(torch.equal(after[name], value) for name, value in before.items())
    other = {**KINDS["encoder"], "settings": {"rank": 2, "generate": "B"}}
    with pytest.raises(ConfigError, match="other sizes"):
        run(*place, tmp_path / "third", source=other, **start)


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
