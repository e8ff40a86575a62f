"""Models of single voices on the server: trained, used, deleted, and nothing else kept."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from hyperasr.errors import ConfigError
from hyperasr.hub import HyperASR, load
from hyperasr.service import voices
from hyperasr.service.server import Server
from hyperasr.service.voices import Voices
from hyperasr.whisper.backbone import Backbone
from tests.service.serving import Voice, error_of, post, running, until, wav


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of voices; temporary files lie beside it."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "voices").mkdir()
    return tmp_path / "voices"


@pytest.fixture
def server(model: HyperASR, random_model_folder: Path, folder: Path) -> Iterator[Server]:
    with running(model, name=str(random_model_folder), voices=str(folder)) as started:
        yield started


def train(server: Server, name: str, clips: list[bytes], texts: list[str], **how: Any) -> Any:
    files = [("clips", (f"{i}.wav", content)) for i, content in enumerate(clips)]
    address = f"{server.address}v1/hyperasr/voices/{name}"
    return httpx.post(address, files=files, data={"texts": texts}, **{"timeout": 200, **how})


def trainings() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if is_training(child)]


def is_training(process: psutil.Process) -> bool:
    try:
        return "enrol" in process.cmdline()
    except psutil.NoSuchProcess:  # it ended meanwhile (`ZombieProcess` is one of these)
        return False


@pytest.mark.slow
def test_a_voice_is_trained_used_and_deleted(server: Server, folder: Path, voice: Voice) -> None:
    clips = [wav(voice(0.6 + 0.2 * i, 100.0 + 40 * i)) for i in range(3)]
    made = train(server, "anna-2", clips, ["Turn on the light."] * 3)
    assert made.status_code == 200, made.text
    assert made.json()["written"] is True
    assert made.json()["told"][0] == "3 clips, 3 with a text"
    assert [path.name for path in folder.iterdir()] == ["anna-2"]
    assert {path.suffix for path in (folder / "anna-2").iterdir()} == {".json", ".safetensors"}
    assert list((folder.parent / "scratch").iterdir()) == [], "no clip is kept"
    address = f"{server.address}v1/"
    assert httpx.get(f"{address}hyperasr/voices").json() == {"voices": ["anna-2"]}
    assert "anna-2" in [m["id"] for m in httpx.get(f"{address}models").json()["data"]]
    own = load(folder / "anna-2", offline=True)

    def texts(**fields: Any) -> list[str]:
        route = "hyperasr/transcriptions"
        answers = [post(server, route, clip, loop_guard="false", **fields) for clip in clips]
        return [answer.json()["text"] for answer in answers]

    expected = [own.transcribe(clip, loop_guard=False).text for clip in clips]
    assert texts(model="anna-2") == expected
    assert texts() != expected, "the served model itself has not changed"
    assert httpx.delete(f"{address}hyperasr/voices/anna-2").json() == {"voices": []}
    assert list(folder.iterdir()) == []
    gone = post(server, "audio/transcriptions", clips[0], model="anna-2")
    assert (gone.status_code, error_of(gone)["code"]) == (404, "model_not_found")


@pytest.mark.slow
def test_who_leaves_ends_the_training_and_one_goes_on_at_a_time(
    server: Server, folder: Path, voice: Voice
) -> None:
    clips = [wav(voice(25.0, 100.0))] * 8  # a long training

    def leaves() -> None:
        with pytest.raises(httpx.ReadTimeout):
            train(server, "bob", clips, [], timeout=5)

    first = threading.Thread(target=leaves)
    first.start()
    until(lambda: trainings())
    busy = train(server, "carl", clips[:1], [])
    assert (busy.status_code, busy.headers["Retry-After"]) == (503, "1")
    first.join()
    until(lambda: not trainings())
    until(lambda: not list((folder.parent / "scratch").iterdir()))
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_clips_that_cannot_be_used_are_told_of(server: Server, folder: Path) -> None:
    bad = train(server, "anna", [b"no sound at all"], ["go on"])
    assert bad.status_code == 400
    message = error_of(bad)["message"]
    assert message.startswith("clip 1")
    assert str(folder.parent) not in message
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "status"), [("Anna", 404), ("..%2Fout", 405), ("a" * 41, 404), ("whisper-1", 400)]
)
def test_names_that_are_none(server: Server, folder: Path, name: str, status: int) -> None:
    assert train(server, name, [b"RIFF"], []).status_code == status
    removed = httpx.delete(f"{server.address}v1/hyperasr/voices/{name}")
    assert removed.status_code in (404, 405)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("said", "status", "written"),
    [
        ("1 clip, 0 with a text\n{out}: use it with --model {out}\n", 200, True),
        ("not clearly better, so nothing is written; give more clips\n", 200, False),
        ("", 500, None),
    ],
)
def test_a_training_that_crashes_has_written_nothing(
    server: Server,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    status: int,
    written: bool | None,
) -> None:
    async def run(arguments: Any) -> tuple[int, str, str]:
        return 1, said.format(out=folder / "anna"), "Traceback\nRuntimeError: /a/path\n"

    monkeypatch.setattr(voices, "_run", run)
    made = train(server, "anna", [b"RIFF"], [])
    assert (made.status_code, made.json().get("written")) == (status, written)
    assert str(folder.parent) not in made.text
    assert "/a/path" not in made.text


def test_clips_and_texts_belong_together(server: Server) -> None:
    for clips, texts in (([], ["a"]), ([b"RIFF"], ["a", "b"])):
        refused = train(server, "anna", clips, texts)
        assert (refused.status_code, error_of(refused)["code"]) == (400, "invalid_request")


def test_nothing_of_it_without_a_folder(model: HyperASR, tmp_path: Path) -> None:
    with running(model) as server:
        health = httpx.get(f"{server.address}health").json()
        assert (health["voices"], health["token"]) == (False, False)
        assert train(server, "anna", [b"RIFF"], []).status_code == 405
        assert httpx.get(f"{server.address}v1/hyperasr/voices").status_code == 404
    with pytest.raises(ConfigError, match="is no folder; make it first"):
        Voices(tmp_path / "absent", model, "random")
    plain = HyperASR.unadapted(Backbone.from_pretrained(model.backbone_name, offline=True))
    with pytest.raises(ConfigError, match="learns no voice; leave --voices out"):
        Voices(tmp_path, plain, "plain")
