"""The measurement of caution: whose cloud, which rows, and what is decoded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from eval import caution as program
from eval.bench import Bench
from hyperasr.backbone import Backbone
from hyperasr.caution import CLOUD_FILE, CautionConfig, Cloud
from hyperasr.errors import ConfigError
from train import cloud as fitting
from train.cloud import cloud_of


@pytest.fixture
def trained(world, systems, random_backbone_folder, tmp_path) -> Path:
    """A hypernetwork whose notes say what it was trained on: all cohorts but one."""
    folder = tmp_path / "without_parkinson"
    shutil.copytree(systems["hypernet"], folder)
    head = json.loads((folder / "config.json").read_text())
    head["backbone"] = str(random_backbone_folder)
    head["training"] = {
        "config": {
            "backbone": str(random_backbone_folder),
            "train": str(world.train),
            "cache": str(world.folder / "cache"),
            "cohorts": ["typical", "stuttering", "dysarthria"],
            "workers": 1,
        }
    }
    (folder / "config.json").write_text(json.dumps(head))
    return folder


def test_rows_of_typical_speech_and_of_an_unseen_cohort(
    world, systems, trained, random_backbone, random_backbone_folder, in_this_process
) -> None:
    config = world.config(random_backbone_folder, {"hypernet": trained}, controls_of=())
    bench = Bench(config, random_backbone)
    cloud = cloud_of(trained, random_backbone)
    careless = CautionConfig(far=1e6)
    groups = program.cohorts_of(bench)
    assert [(g.cohort, g.domain) for g in groups] == [
        *((cohort, "simulated") for cohort in ("stuttering", "dysarthria", "parkinson")),
        ("typical", "recorded"),
    ]
    group = groups[2]
    rows = program.measured(bench, "hypernet", group, False, cloud, careless)
    by_system = {r["system"]: r for r in rows if r["metric"] != "trust" and "against" not in r}
    assert set(by_system) == {"backbone", "hypernet", "hypernet_cautious"}
    # Nothing is far, so caution changes nothing.
    assert by_system["hypernet_cautious"]["errors"] == by_system["hypernet"]["errors"]
    difference = next(r for r in rows if r.get("against") == "hypernet")
    assert difference["value"] == 0
    # Everything is far: what is left is the backbone.
    nowhere = Cloud(**{**vars(cloud), "quantiles": 1e-6 * cloud.quantiles})
    rows = program.measured(bench, "hypernet", group, False, nowhere, CautionConfig())
    by_system = {r["system"]: r for r in rows if r["metric"] != "trust" and "against" not in r}
    assert by_system["hypernet_cautious"]["errors"] == by_system["backbone"]["errors"]
    trust = next(r for r in rows if r["metric"] == "trust")
    assert (trust["value"], trust["none"], trust["full"]) == (0, 1, 0)
    assert trust["n_utterances"] == sum(c == "parkinson" for c in bench.column("cohort"))


def test_the_cloud_is_of_the_models_own_cohorts(
    trained, random_backbone, random_backbone_folder, in_this_process, monkeypatch
) -> None:
    seen: list[Any] = []
    fit = Cloud.fit.__func__

    def recorded(cls: Any, embs: torch.Tensor, speakers: list[str]) -> Cloud:
        seen.append((len(embs), sorted(set(speakers))))
        return fit(cls, embs, speakers)

    monkeypatch.setattr(Cloud, "fit", classmethod(recorded))
    monkeypatch.setattr(
        "sys.argv", ["x", "--model", str(trained), "--backbone", str(random_backbone_folder)]
    )
    fitting.main()
    n_all, people = seen[0]
    loaded = Cloud.load(trained, random_backbone.fingerprint())
    assert loaded is not None
    assert (trained / CLOUD_FILE).is_file()
    head = json.loads((trained / "config.json").read_text())
    head["training"]["config"]["cohorts"] = []
    (trained / "config.json").write_text(json.dumps(head))
    cloud_of(trained, Backbone.from_pretrained(random_backbone_folder))
    assert seen[1][0] > n_all, "the cohort that was left out has rows too"
    assert people == ["a", "b"]


def test_models_without_notes(systems, random_backbone) -> None:
    with pytest.raises(ConfigError, match="does not say how it was trained"):
        cloud_of(systems["hypernet"], random_backbone)
    with pytest.raises(ConfigError, match="a system called 'hypernet'"):
        program.CautionEvalConfig()
