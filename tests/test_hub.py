"""Cards are made of a model's own files; uploads go to a small hub on this machine."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyperasr import hub
from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.export.card import model_card
from hyperasr.hub import HyperASR, model_folder, push_to_hub
from hyperasr.whisper.weights import ASSETS


@pytest.fixture
def folder(random_model_folder: Path, tmp_path: Path) -> Path:
    """A model whose backbone is one of the hub, with a private path among its training notes."""
    target = tmp_path / "model"
    shutil.copytree(random_model_folder, target)
    head = json.loads((target / "config.json").read_text())
    head["backbone"] = "openai/whisper-small"
    head["training"] = {"rows": 12, "config": {"train": "/home/ann/patients/train.jsonl"}}
    (target / "config.json").write_text(json.dumps(head))
    (target / "patients.txt").write_text("nobody else's business")
    return target


def test_the_card_says_what_the_files_say(folder: Path) -> None:
    card = model_card(folder, license="apache-2.0")
    front, body = card.split("---\n", 2)[1:]
    data = yaml.safe_load(front)
    assert data["base_model"] == "openai/whisper-small"
    assert data["license"] == "apache-2.0"
    assert data["pipeline_tag"] == "automatic-speech-recognition"
    head = json.loads((folder / "config.json").read_text())
    for part in (head["backbone_fingerprint"], "decoder.fc1", "`rank=2`", '"rows": 12'):
        assert part in body
    for part in ("**simulated**", "Not a medical device", "no diagnosis", "biometric"):
        assert part in body
    for part in ("/home", "patients/"):
        assert part not in body, "no path of the maker's machine"
    assert "train.jsonl" in body


@pytest.mark.parametrize(
    ("kind", "targets", "said"),
    [
        ("hypernet", ["decoder.fc1"], "whose decoder is adapted to every utterance: a"),
        (
            "bayes_hypernet",
            ["encoder.fc1", "decoder.fc1"],
            "whose encoder and decoder are adapted to every utterance: a",
        ),
        ("static", ["encoder.fc1"], "whose encoder is adapted: this model holds"),
    ],
)
def test_the_card_says_what_is_adapted(
    folder: Path, kind: str, targets: list[str], said: str
) -> None:
    head = json.loads((folder / "config.json").read_text())
    head["source"] |= {"kind": kind, "targets": targets}
    (folder / "config.json").write_text(json.dumps(head))
    assert f"A frozen Whisper {said}" in model_card(folder)


def test_the_card_of_adapters_of_the_embedded_whisper(folder: Path) -> None:
    head = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**head, "backbone": "tiny.en"}))
    data = yaml.safe_load(model_card(folder).split("---\n", 2)[1])
    assert data["base_model"] == "openai/whisper-tiny.en"
    assert "license" not in data, "nobody said which"
    with pytest.raises(ConfigError, match="no adapter model in"):
        model_card(ASSETS / "demo")


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files needs."""

    seen: list[tuple[str, Any]]
    refuses = False

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.seen.append((self.path, data))
        host = f"http://{self.headers['Host']}"
        if self.refuses:
            return self.answer({"error": "you may not"}, 403)
        if self.path.endswith("/repos/create"):
            return self.answer({"url": f"{host}/me/model", "name": "me/model"})
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(data)["files"]
            ]
            return self.answer({"files": files})
        return self.answer(
            {"success": True, "commitOid": "c" * 40, "commitUrl": f"{host}/me/model/commit/ccc"}
        )

    def do_GET(self) -> None:
        self.seen.append((self.path, None))
        self.answer({"id": "me/model", "sha": "b" * 40, "siblings": []})

    def answer(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[_Hub]]]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    handler = type("Handler", (_Hub,), {"seen": []})
    found = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_address[1]}", handler
    found.shutdown()


def test_an_upload(folder: Path, server: tuple[str, type[_Hub]]) -> None:
    endpoint, handler = server
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    address = push_to_hub(folder, "me/model", token="hf_x", endpoint=endpoint)
    assert address.endswith("/commit/ccc")
    created = next(json.loads(d) for path, d in handler.seen if path.endswith("/repos/create"))
    assert created["name"] == "model"
    assert created.get("private", created.get("visibility")) in (True, "private")
    commit = next(d for path, d in handler.seen if "/commit/" in path)
    lines = [json.loads(line) for line in commit.splitlines()]
    files = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"])
        for line in lines
        if line["key"] == "file"
    }
    assert set(files) == {"config.json", "model.safetensors", "README.md"}
    assert files["model.safetensors"] == before["model.safetensors"]
    assert files["README.md"].decode() == model_card(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before, "nothing in it changed"


def test_uploads_that_fail(
    folder: Path, server: tuple[str, type[_Hub]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    endpoint, handler = server
    handler.refuses = True
    with pytest.raises(HyperASRError, match="cannot upload to 'me/model'") as error:
        push_to_hub(folder, "me/model", token="hf_x", endpoint=endpoint)
    assert "\n" not in str(error.value)
    n_seen = len(handler.seen)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="the network is switched off"):
        push_to_hub(folder, "me/model", token="hf_x", endpoint=endpoint)
    head = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**head, "backbone": "/home/ann/whisper"}))
    with pytest.raises(ConfigError, match="names its backbone by a path of this machine"):
        push_to_hub(folder, "me/model", token="hf_x", endpoint=endpoint)
    assert len(handler.seen) == n_seen


@pytest.mark.parametrize(
    "backbone", ["runs/whisper", "checkpoints/my/whisper", "~/whisper", "whisper", "./whisper"]
)
def test_a_backbone_that_others_do_not_find(
    folder: Path, tmp_path: Path, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "whisper").mkdir(parents=True)
    head = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**head, "backbone": backbone}))
    with pytest.raises(ConfigError, match="names its backbone by a path of this machine"):
        push_to_hub(folder, "me/model")


def test_a_model_in_the_local_cache(
    folder: Path, tmp_path: Path, random_backbone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    # As huggingface_hub lays it out.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repo = tmp_path / "cache" / "models--me--model"
    commit = "a" * 40
    shutil.copytree(folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    found, kind = model_folder("me/model", offline=True)
    assert kind == "adapter"
    assert (found / "model.safetensors").is_file()
    with pytest.raises(ConfigError, match="not in the local cache, and --offline is set"):
        model_folder("me/other", offline=True)
    with pytest.raises(ConfigError, match=r"no model folder at \./here"):
        model_folder("./here", offline=True)
    for name, own in hub.EMBEDDED.items():
        assert hub.model_folder(name)[1] == ("adapter" if own.is_dir() else "whisper")
    model = HyperASR.from_pretrained("me/model", backbone=random_backbone, offline=True)
    assert model.source_config.settings["rank"] == 2  # type: ignore[index]
    with pytest.raises(ConfigError, match="not in the local cache, and --offline is set"):
        HyperASR.from_pretrained("me/other", offline=True)
