"""Angles, sparsity and calibration end to end: tiny models, one bench, every row read."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
import torch

from eval import calibration, sparsity, subspace_angles
from eval.lib.bench import BenchConfig
from hyperasr.adapters import SourceConfig
from hyperasr.cohorts.manifest import write_manifest
from hyperasr.hub import HyperASR
from hyperasr.metrics.calibration import CALIBRATION_FILE
from hyperasr.metrics.normalisers import normaliser
from hyperasr.model import decode
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch, Utterance
from hyperasr.util.config import to_dict
from tests.eval.running import run_program

pytestmark = pytest.mark.slow

COHORTS = ("dysarthria", "parkinson", "stuttering", "typical")


def save(folder: Path, backbone: Any, backbone_folder: Path, kind: str, **settings: Any) -> Path:
    """Save an untrained model whose factors are drawn at random, and do adapt."""
    config = SourceConfig(kind=kind, settings={"rank": 2, **settings})
    model = HyperASR(backbone, SpeakerConfig(), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.source.named_parameters():
            if "heads" in name or "bias_B" in name or name.startswith("B."):
                weight.normal_(0, 0.3, generator=generator)
    model.save_pretrained(folder, backbone=str(backbone_folder))
    return folder


@pytest.fixture(scope="module")
def bench_config(
    tmp_path_factory, random_backbone, random_backbone_folder, random_model_folder, voice
) -> BenchConfig:
    """Three speakers of two recordings; three kinds of system on a random backbone."""
    folder = tmp_path_factory.mktemp("analysis")
    small = {"d_hidden": 16, "d_layer_emb": 4, "n_hidden": 1}
    systems = {"hypernet": random_model_folder}
    for name, kind, settings in (
        ("bayes_hypernet", "bayes_hypernet", {**small, "sigma_start": 0.1}),
        ("global_lora", "static", {}),
    ):
        path = folder / name
        systems[name] = save(path, random_backbone, random_backbone_folder, kind, **settings)
    rows = []
    bayes = HyperASR.from_pretrained(systems["bayes_hypernet"], backbone=random_backbone)
    for number, speaker in enumerate("abc"):
        for k in range(2):
            wave = voice(0.8 + 0.1 * number, 110.0 + 37 * number + 11 * k)
            sf.write(folder / f"{speaker}{k}.wav", wave, 16_000)
            mel, n_frames = random_backbone.features([wave])
            # References that the model meets in part: its own words, the first one changed.
            decoded = decode(bayes, Batch(n_frames=n_frames, mel=mel))
            said = calibration.said(decoded, random_backbone, normaliser("spoken"))[0]
            text = " ".join(["changed", *said.words[1:]]) if said.words else "changed words"
            rows.append(Utterance(f"{speaker}{k}", f"{speaker}{k}.wav", text, speaker))
    write_manifest(folder / "test.jsonl", rows)
    return BenchConfig(
        systems=systems,
        test=folder / "test.jsonl",
        train=(),
        backbone=str(random_backbone_folder),
        cache=folder / "cache",
        store=folder / "store",
        looks=None,
        protocol="spoken",
        workers=1,
        controls_of=(),
    )


@pytest.fixture
def run(bench_config, tmp_path, monkeypatch) -> Any:
    """Run a program and return its rows."""

    def start(program: Any, folder: Path = tmp_path, **values: Any) -> list[dict[str, Any]]:
        rows: list = run_program(program, bench_config, folder, monkeypatch, **values)["rows"]
        return rows

    return start


def test_angles(run, capsys) -> None:
    angles = {
        "ranks": [1, 2, 5],
        "weight_ranks": [3],
        "n_null": 50,
        "n_splits": 2,
        "n_resamples": 20,
    }
    rows = run(subspace_angles, angles=angles, per_person=2)
    kinds = {(r["system"], r["part"], r["measure"]) for r in rows}
    assert ("hypernet", "deviation", "angle") in kinds
    assert ("global_lora", "whole", "weight_angle") in kinds
    assert ("global_lora", "whole", "angle") not in kinds  # one update has nobody to differ from
    found = [r for r in rows if r["measure"] == "angle"]
    relations = {(r["level"], r["relation"]) for r in found}
    assert relations == {
        *(("utterance", x) for x in ("same_person", "same_voice", "same_cohort", "other_cohort")),
        *(("cohort", x) for x in ("split_half", "other_cohort")),
    }
    assert all(0 <= r["value"] <= r["largest"] + 1e-9 <= 90 + 1e-6 for r in found)
    assert all(r["null"] > 45 for r in found)
    assert {r["rank"] for r in found} == {1, 2}  # 5 is above the rank of the updates
    whole = [r for r in found if r["part"] == "whole" and r["level"] == "utterance"]
    assert all(r["low"] <= r["value"] <= r["high"] for r in whole if r["low"] is not None)
    assert {r["cohort"] for r in rows if r["measure"] == "relative_norm"} == {"all", *COHORTS}
    assert "mean principal angle" in capsys.readouterr().out


def test_sparsity(run) -> None:
    rows = run(sparsity)
    by = {(r["system"], r["matrix"], r["layer"]): r for r in rows}
    assert len(by) == len(rows) == 3 * 3 * 2
    assert by["hypernet", "delta_weight", 0]["n_factors"] == 12
    assert by["global_lora", "A", 1]["n_factors"] == 1
    assert all(0 <= r["hoyer"] <= 1 and 1 <= r["effective_rank"] <= 2.001 for r in rows)


def test_calibration(run, tmp_path, monkeypatch) -> None:
    settings = {"n_samples": 3, "n_resamples": 20}
    rows = run(calibration, **settings)
    word = [r for r in rows if r.get("level") == "word" and r["cohort"] == "everybody"]
    scores = {(r["system"], r["score"]) for r in word}
    assert ("bayes_hypernet", "disagreement") in scores
    assert ("hypernet", "token_logprob") in scores
    assert ("hypernet", "disagreement") not in scores
    measures = {r["measure"] for r in word if r["system"] == "bayes_hypernet"}
    assert {
        "auroc",
        "nll",
        "brier",
        "ece_width",
        "ece_mass",
        "aurc",
        "auroc_difference",
    } == measures
    brier = [r["value"] for r in word if r["measure"] == "brier"]
    assert all(0 <= value <= 1 for value in brier)
    assert any(0 < r["value"] < 1 for r in word if r["measure"] == "auroc")
    systems = {r["system"] for r in rows if "errors" in r}
    assert systems == {"bayes_hypernet", "bayes_hypernet_consensus", "bayes_hypernet_sample"}
    # The second run decodes nothing and says the same.
    again = tmp_path / "again"
    again.mkdir()
    monkeypatch.setattr("eval.lib.bench.decode_tokens", None)
    assert run(calibration, again, **settings) == rows


def test_probabilities_are_fitted_on_development_speakers(
    bench_config, tmp_path, monkeypatch, capsys
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(bench_config.systems["global_lora"], folder)
    # Its notes name the development speakers: no leak where they are what is fitted on.
    head = json.loads((folder / "config.json").read_text())
    head["training"] = {"config": {"dev": str(bench_config.test)}}
    (folder / "config.json").write_text(json.dumps(head))
    bench = replace(bench_config, systems={"mine": folder}, simulate=())
    values = {"bench": to_dict(bench), "fit": bench_config.test}
    (tmp_path / "config.yaml").write_text(json.dumps(values, default=str))
    monkeypatch.setattr(sys, "argv", ["program", "--config", str(tmp_path / "config.yaml")])
    calibration.main()
    assert "mine: calibration error" in capsys.readouterr().out
    notes = json.loads((folder / CALIBRATION_FILE).read_text())
    assert (notes["fitted_on"], notes["n_speakers"]) == ("test.jsonl", 3)
    calibration_of = HyperASR.from_pretrained(folder).calibration
    assert calibration_of is not None
    # On a test, what the model ships stands beside the raw probabilities.
    opened = calibration.DevelopmentBench(bench)
    heard = calibration.hear(opened, "mine", 2)
    rows = calibration.confidence_rows(opened, "mine", *heard, 20, calibration_of)
    by = {(r["score"], r["measure"]): r["value"] for r in rows if r["cohort"] == "everybody"}
    raw = by["token_logprob", "auroc"]
    assert by["probability", "auroc"] in (pytest.approx(raw), pytest.approx(1 - raw))  # monotone
    assert by["probability", "nll"] < by["token_logprob", "nll"]
    assert not any(r["score"] == "probability_fitted" for r in rows)
