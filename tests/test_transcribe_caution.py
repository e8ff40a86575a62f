"""Caution on the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hyperasr.caution import Cloud
from hyperasr.cli import main
from hyperasr.model import HyperASR

RATE = 16_000
Voice = Callable[..., np.ndarray]
LENGTHS = (2.0, 0.7, 3.1, 1.4, 1.0, 2.6)


@pytest.fixture(scope="module")
def model(random_model_folder: Path) -> HyperASR:
    return HyperASR.from_pretrained(random_model_folder, offline=True)


@pytest.fixture(scope="module")
def talk(voice: Voice, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Recordings of very different lengths."""
    folder = tmp_path_factory.mktemp("talk")
    paths = []
    for number, seconds in enumerate(LENGTHS):
        paths.append(folder / f"{number}.wav")
        soundfile.write(paths[-1], voice(seconds, 100 + 40 * number), RATE)
    return paths


class Call:
    """The command line on recordings, with a folder of its own for the model."""

    def __init__(self, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.model, self.capsys = model, capsys

    def __call__(self, *argv: Any) -> tuple[int, str, str]:
        self.capsys.readouterr()
        more = ("--model", self.model, "--offline")
        status = main(["transcribe", *(str(a) for a in (*argv, *more))])
        seen = self.capsys.readouterr()
        return status, seen.out, seen.err


@pytest.fixture
def call(
    random_model_folder: Path,
    random_backbone_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Call:
    folder = tmp_path / "model"
    shutil.copytree(random_model_folder, folder)
    head = json.loads((folder / "config.json").read_text())
    head["backbone"] = str(random_backbone_folder)
    (folder / "config.json").write_text(json.dumps(head))
    return Call(folder, capsys)


def test_caution_on_the_command_line(call: Call, model: HyperASR, talk: list[Path]) -> None:
    adapted, plain = call(*talk)[1], call(*talk, "--no-adapt")[1]
    assert adapted != plain
    status, out, err = call(*talk, "--caution")
    assert (status, out) == (2, "")
    assert "has no cloud of its training" in err
    generator = torch.Generator().manual_seed(0)
    d_spk = model.speaker.d_spk
    names = [f"s{i % 6}" for i in range(60)]
    for centre, expected in ((1e4, plain), (0.0, adapted)):
        spread = 1.0 if centre else 100.0
        embs = centre + spread * torch.randn(60, d_spk, generator=generator)
        Cloud.fit(embs, names).save(call.model, model.backbone.fingerprint())
        assert call(*talk, "--caution")[1] == expected
        assert call(*talk)[1] == adapted, "caution is off unless asked for"


def test_a_plain_whisper_has_none(
    call: Call, talk: list[Path], random_backbone_folder: Path
) -> None:
    call.model = random_backbone_folder
    status, out, err = call(talk[0], "--caution")
    assert (status, out) == (2, "")
    assert "--caution is about adapting to a voice" in err
