"""Fixtures of the evaluation programs: a corpus of buzzing speakers and one system of each kind."""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
import torch

from eval.lib import results
from eval.lib.bench import Bench, BenchConfig
from hyperasr.cohorts.manifest import write_manifest
from hyperasr.types import Utterance
from tests.in_this_process import InThisProcess

SOURCES = {"e": "synthetic", "f": "synthetic", "g": "an4", "h": "fsdd"}
# Speaker, cohort, severity, corpus of recorded test speakers, two recordings each.
PATIENTS = (
    ("p", "als", 0.25, "clinic"),
    ("q", "als", 0.75, "clinic"),
    ("r", "als", None, "clinic"),
    ("s", "cerebral_palsy", None, "home"),
    ("t", "typical", None, "home"),
    ("u", "typical", None, "home"),
)


@pytest.fixture(autouse=True, scope="session")
def looks_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep looks at the speakers of tests out of the file of real ones."""
    folder = tmp_path_factory.mktemp("looks")

    note_look = results.note_look

    def note(looks: Path | None, *rest: Any) -> None:
        note_look(looks if looks is None or looks.is_absolute() else folder / looks, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "note_look", note)
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_new_interpreters() -> Iterator[None]:
    """Make caches and simulate here: an interpreter takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hyperasr.cohorts.cache.WorkerPool", InThisProcess)
        patch.setattr("eval.lib.testset.WorkerPool", InThisProcess)
        yield


@pytest.fixture
def train_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `eval.lib.runs` train one after the other in this process."""
    really = subprocess.run

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        if command[0] != sys.executable:  # git
            return really(command, **options)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", command[2:])
            importlib.import_module(command[2]).main()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("eval.lib.runs.subprocess.run", run)


@dataclass(frozen=True)
class World:
    """Manifests of a small corpus, and folders for caches and hypotheses."""

    folder: Path
    train: Path
    test: Path

    def config(self, backbone: Path, systems: dict[str, Path], **more: Any) -> BenchConfig:
        """Return the settings of a bench in this world."""
        values = {
            "test": self.test,
            "train": (self.train,),
            "backbone": str(backbone),
            "cache": self.folder / "cache",
            "store": self.folder / "store",
            "looks": self.folder / "test_looks.jsonl",
            "protocol": "spoken",
            "workers": 1,
        }
        return BenchConfig(systems=systems, **{**values, **more})


@pytest.fixture(scope="session")
def world(tmp_path_factory, voice) -> World:
    """Two training speakers; four test speakers of two recordings each, from three sources."""
    folder = tmp_path_factory.mktemp("world")
    texts = iter("go stop seven two light music kitchen on off up down left".split())
    rows = []
    for number, speaker in enumerate("abefgh"):
        for k in range(2):
            name = f"{speaker}{k}"
            sf.write(folder / f"{name}.wav", voice(0.5 + 0.1 * k, 100.0 + 13 * number + k), 16_000)
            source = SOURCES.get(speaker, "synthetic")
            rows.append(Utterance(name, f"{name}.wav", next(texts), speaker, source=source))
    write_manifest(folder / "train.jsonl", rows[:4])
    write_manifest(folder / "test.jsonl", rows[4:])
    return World(folder, folder / "train.jsonl", folder / "test.jsonl")


@pytest.fixture(scope="session")
def patients(tmp_path_factory, voice) -> World:
    """Recorded cohorts of free names in training and test, one of a single speaker in the test.

    Severities of some are known; nothing is simulated unless a test asks for it.
    """
    folder = tmp_path_factory.mktemp("patients")
    texts = ("go home now", "please write to the doctor")
    manifests: dict[str, list[Utterance]] = {"train": [], "test": []}
    for number, (speaker, cohort, severity, source) in enumerate(PATIENTS):
        for split, rows in manifests.items():
            for k, text in enumerate(texts):
                name = f"{split}-{speaker}{k}"
                pitch = 95.0 + 11 * number + k + 3 * len(split)
                sf.write(folder / f"{name}.wav", voice(0.5 + 0.1 * k, pitch), 16_000)
                said = f"{text} {speaker}" if split == "train" else text
                who = {"speaker": f"{split}-{speaker}", "cohort": cohort, "severity": severity}
                rows.append(Utterance(name, f"{name}.wav", said, **who, split=split, source=source))
    for split, rows in manifests.items():
        write_manifest(folder / f"{split}.jsonl", rows)
    return World(folder, folder / "train.jsonl", folder / "test.jsonl")


@pytest.fixture(scope="session")
def systems(world, random_backbone, random_backbone_folder, random_model_folder) -> dict[str, Path]:
    """A folder of each kind of system, trained by a random number generator."""
    from hyperasr.adapters import SourceConfig
    from hyperasr.adapters.residual import ResidualAdapters, ResidualConfig
    from hyperasr.hub import HyperASR
    from hyperasr.speaker.encoder import SpeakerConfig
    from hyperasr.whisper.backbone import Backbone

    made = {"hypernet": random_model_folder}
    generator = torch.Generator().manual_seed(1)

    def shake(parameters: Any, size: float) -> None:
        with torch.no_grad():
            for weight in parameters:
                weight.add_(torch.randn(weight.shape, generator=generator) * size)

    cohorts = ("dysarthria", "parkinson", "stuttering", "typical")
    for name, settings in (
        ("global_lora", {"by": "global", "rank": 2}),
        ("cohort_lora", {"by": "cohort", "rank": 2, "groups": cohorts}),
    ):
        model = HyperASR(
            random_backbone, SpeakerConfig(), SourceConfig("static", settings=settings)
        )
        shake(model.source.B.parameters(), 0.3)
        made[name] = world.folder / name / "best"
        notes = {"config": {"train": str(world.train), "cohorts": []}}
        model.save_pretrained(made[name], backbone=str(random_backbone_folder), training=notes)
    for name, part in (("decoder_ft", "decoder"), ("full_ft", "encoder")):
        tuned = Backbone.from_pretrained(random_backbone_folder)
        tuned.whisper = copy.deepcopy(tuned.whisper)
        shake(getattr(tuned.whisper.model, part).layers.parameters(), 0.1)
        made[name] = world.folder / name / "best"
        made[name].mkdir(parents=True)
        tuned.save_pretrained(made[name])
    adapters = ResidualAdapters(ResidualConfig(parts=("encoder",)), random_backbone.whisper)
    shake(adapters.parameters(), 0.3)
    made["residual"] = world.folder / "residual" / "best"
    adapters.save_pretrained(
        made["residual"],
        backbone=str(random_backbone_folder),
        fingerprint=random_backbone.fingerprint(),
    )
    return made


@pytest.fixture(scope="session")
def bench(world, systems, random_backbone, random_backbone_folder) -> Bench:
    """A bench with all of `systems`; do not change it."""
    made = Bench(world.config(random_backbone_folder, systems), backbone=random_backbone)
    assert len(made.rows) == len(made.views) == 32
    return made


@pytest.fixture(scope="session")
def short_meta(tmp_path_factory, random_backbone_folder, voice) -> Path:
    """A configuration of `train.meta` on two speakers and one held out, two recordings each."""
    folder = tmp_path_factory.mktemp("short")
    for split, speakers in (("train", "ab"), ("dev", "c")):
        rows = []
        for s in speakers:
            sf.write(folder / f"{s}.wav", voice(0.8, 90.0 + 20 * ord(s) % 100), 16_000)
            rows.append(Utterance(s, f"{s}.wav", "turn it on", s, split=split))
        write_manifest(folder / f"{split}.jsonl", rows)
    values = {
        "backbone": str(random_backbone_folder),
        "train": str(folder / "train.jsonl"),
        "dev": str(folder / "dev.jsonl"),
        "must_help": False,
        "cache": str(folder / "cache"),
        "out": str(folder / "unused"),
        "batch_size": 2,
        "workers": 1,
        "loop": {"log_every": 1},
    }
    (folder / "meta.yaml").write_text(json.dumps(values))
    return folder / "meta.yaml"
