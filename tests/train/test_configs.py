"""Every YAML is read by its program, and every one that trains makes two steps."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from hyperasr.adapters import SourceConfig
from hyperasr.adapters.residual import FORMAT
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.hub import HyperASR
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.util.config import parse
from hyperasr.whisper.backbone import Backbone
from train import baselines, individual, meta
from train.baselines import FineTuneConfig
from train.config import MetaConfig
from train.data import writing
from train.individual import IndividualConfig

ROOT = Path(__file__).parents[2]
FOR_ACCELERATE = "accelerate_fsdp"
# A YAML that is not here is one of `train.meta`.
PROGRAMS: dict[str, tuple[Any, Any]] = {
    "decoder_ft": (baselines, FineTuneConfig),
    "full_ft": (baselines, FineTuneConfig),
    "individual": (individual, IndividualConfig),
    "individual_vi_lora": (individual, IndividualConfig),
    "peft_reference": (baselines, FineTuneConfig),
    "residual": (baselines, FineTuneConfig),
}
TRAIN = sorted(p for p in ROOT.glob("train/configs/*.yaml") if p.stem != FOR_ACCELERATE)
# Those that differ from another one in numbers alone need not run.
ALIKE = {"loco_global_lora", "lora_all", "loco_hypernet", "lora_qkv", "vi_lora_single_prior"}
RUN = [p for p in TRAIN if p.stem not in ALIKE]


@pytest.mark.parametrize("path", TRAIN, ids=lambda p: p.stem)
def test_config_is_valid(path: Path) -> None:
    _, kind = PROGRAMS.get(path.stem, (meta, MetaConfig))
    parse(kind, ["--config", str(path)])  # or it raises


def test_accelerates_own_config_is_read_by_accelerate() -> None:
    config = load_config_from_file(str(ROOT / "train" / "configs" / f"{FOR_ACCELERATE}.yaml"))
    assert config.distributed_type == "FSDP"
    assert config.fsdp_config["fsdp_version"] == 2
    from transformers.models.whisper import modeling_whisper

    for name in config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(","):
        assert hasattr(modeling_whisper, name)


def test_slurm_example_names_what_exists() -> None:
    text = (ROOT / "train" / "slurm_example.sbatch").read_text()
    assert "-m train.meta" in text
    configs = re.findall(r"train/configs/\w+\.yaml", text)
    assert configs
    assert all((ROOT / name).exists() for name in configs)


@dataclass(frozen=True)
class Place:
    """Where the tiny data and models are."""

    corpus: Path
    backbone: Path
    written: Path
    start: Path


@pytest.fixture(scope="module")
def place(
    corpus: Path, shipped_shape_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Place:
    """Recordings, a random backbone, texts in its writing and its lines, and run folders."""
    folder = tmp_path_factory.mktemp("smoke")
    rows = read_manifest(corpus / "train.jsonl")
    teacher = Backbone.from_pretrained(shipped_shape_folder, audio_context="full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_MOST_ERRORS", 1e9)  # a random Whisper finds no word
        writing.write(rows, folder / "written.jsonl", teacher)
    return Place(corpus, shipped_shape_folder, folder / "written.jsonl", folder)


def overrides(path: Path, place: Place, out: Path) -> dict[str, Any]:
    """Return what a YAML is run with here: our data, the tiny backbone, two steps."""
    values = yaml.safe_load(path.read_text())
    loop = {"loop.steps": 2, "loop.eval_every": 2, "loop.save_every": 2, "loop.log_every": 1}
    own: dict[str, Any] = {**loop, "out": out}
    data = {
        "backbone": place.backbone,
        "train": place.written,
        "dev": place.corpus / "dev.jsonl",
        "cache": place.corpus / "cache",
        "batch_size": 4,
        "workers": 1,
        "must_help": "false",
    }
    if (values.get("data") or values).get("teacher"):
        data["teacher"] = writing.lines_beside(place.written)
    if values.get("words"):  # other recordings, as pieces of the same have other ids
        data["words"] = place.corpus / "dev.jsonl"
    if path.stem.startswith("individual"):
        own |= {"manifest": place.corpus / "train.jsonl", "k": 1, "held_out": 1}
        own |= {name: data[name] for name in ("backbone", "cache", "workers")}
    elif path.stem in PROGRAMS and PROGRAMS[path.stem][1] is FineTuneConfig:
        own |= {f"data.{name}": value for name, value in data.items()}
    else:
        own |= data
    if values.get("init_from"):
        own["init_from"] = static_start(path, place, out)
    return own


def static_start(path: Path, place: Place, out: Path) -> Path:
    """Write a random global LoRA with the targets, rank and hearing of the YAML."""
    values = yaml.safe_load(path.read_text())
    settings = values.get("source", {}).get("settings", values)
    targets = tuple(values.get("source", values)["targets"])
    source = SourceConfig("static", targets, {"by": "global", "rank": settings["rank"]})
    heard = {name: values.get(name) for name in ("audio_context", "margin_s")}
    backbone = Backbone.from_pretrained(place.backbone, **heard)
    model = HyperASR(backbone, SpeakerConfig(), source)
    with torch.no_grad():
        for weight in model.source.B.values():
            weight.fill_(0.01)
    model.save_pretrained(out / "start", backbone=str(place.backbone))
    return out / "start"


def check_what_was_left(path: Path, out: Path, best: dict[str, Any]) -> None:
    """Check that the best model of a run loads and was trained."""
    if path.stem.startswith("individual"):
        people = json.loads((out / "k-01" / "people.json").read_text())
        assert people["people"]
        HyperASR.from_pretrained(out / "k-01" / "best")
        return
    assert best["score"] >= 0
    if path.stem in ("decoder_ft", "full_ft"):
        Backbone.from_pretrained(out / "best")
    elif path.stem == "residual":
        assert json.loads((out / "best" / "config.json").read_text())["format"] == FORMAT
    elif path.stem == "peft_reference":
        assert (out / "best" / "adapter_model.safetensors").exists()
    else:
        model = HyperASR.from_pretrained(out / "best")
        groups = (model.source_config.settings or {}).get("groups", ["typical"])
        factors = model.factors(torch.zeros(1, model.speaker.d_spk), groups[:1])
        assert any(bool(f.B.abs().sum() > 0) for f in factors.targets.values())


@pytest.mark.slow
@pytest.mark.parametrize("path", RUN, ids=lambda p: p.stem)
def test_two_steps(
    path: Path,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = PROGRAMS.get(path.stem, (meta, None))[0]
    out = place.start / path.stem
    out.mkdir()
    arguments = ["--config", str(path)]
    for name, value in overrides(path, place, out).items():
        arguments += [f"--{name}", str(value)]
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    program.main()
    best = json.loads(capsys.readouterr().out.splitlines()[-1])
    check_what_was_left(path, out, best)
