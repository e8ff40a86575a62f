"""Adapters go into the package whole, small, of the embedded Whisper, and without folders."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hyperasr import hub
from hyperasr.adapters import SourceConfig
from hyperasr.errors import CheckpointMismatch, ConfigError
from hyperasr.hub import HyperASR
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.whisper.backbone import Backbone
from train import embed as program
from train.embed import embed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of tiny.en on trimmed context, untrained."""
    backbone = Backbone.from_pretrained("tiny.en", audio_context="trimmed", margin_s=1.0)
    settings = {"rank": 1, "d_hidden": 8, "d_layer_emb": 4, "n_hidden": 1}
    model = HyperASR(backbone, SpeakerConfig(), SourceConfig(settings=settings))
    notes = {"config": {"train": "/home/ann/patients/train.jsonl", "rank": 1}, "rows": 3}
    folder = tmp_path_factory.mktemp("trained") / "best"
    model.save_pretrained(folder, backbone="/home/ann/tiny", training=notes)
    (folder.parent / "worth.json").write_text('{"unadapted": {"typical": 0.1}}')
    return folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the folder in the package."""
    folder = tmp_path / "package" / "hypernet"
    monkeypatch.setitem(hub.EMBEDDED, "tiny.en", folder)
    return folder


def test_the_name_opens_the_plain_whisper_until_there_are_adapters(
    trained: Path, package: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert hub.model_folder("tiny.en")[1] == "whisper"
    plain = HyperASR.from_pretrained("tiny.en", offline=True)
    assert not plain.adapts
    assert plain.backbone.audio_context == "full"
    monkeypatch.setattr(sys, "argv", ["embed", "--hypernet", str(trained), "--out", str(package)])
    program.main()
    assert capsys.readouterr().out.endswith(" MB\n")
    assert hub.model_folder("tiny.en") == (package, "adapter")
    opened = HyperASR.from_pretrained("tiny.en", offline=True)
    assert opened.adapts
    assert opened.source_config.kind == "hypernet"
    assert (opened.folder, opened.backbone_name) == (package, "tiny.en")
    assert opened.backbone.margin_s == 1.0
    assert Backbone.from_pretrained("tiny.en").audio_context == "full", "the Whisper alone"
    head = json.loads((package / "config.json").read_text())
    kept = {"config": {"train": "train.jsonl", "rank": 1}, "rows": 3}
    assert head["training"] == {**kept, "worth": {"unadapted": {"typical": 0.1}}}
    assert "/home" not in json.dumps(head)


def test_what_does_not_belong_there_is_refused(
    trained: Path,
    random_model_folder: Path,
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    head = json.loads((trained / "config.json").read_text()) | {"margin_s": 0.5}
    (other / "config.json").write_text(json.dumps(head))
    (other / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes())
    for source in (random_model_folder, other):
        with pytest.raises(CheckpointMismatch, match="belongs to the backbone") as error:
            embed(source, package)
        assert "\n" not in str(error.value)
    monkeypatch.setattr(program, "LARGEST_BYTES", 1_000)
    with pytest.raises(ConfigError, match=r"the package takes adapters of up to 0\.001 MB"):
        embed(trained, package)
    with pytest.raises(ConfigError, match="no adapter model in"):
        embed(tmp_path / "absent", package)
    assert not package.parent.exists()


def test_another_whisper_does_not_replace_the_default_model() -> None:
    with pytest.raises(ConfigError, match="give --out"):
        program.EmbedConfig(Path("x"), backbone="base")
