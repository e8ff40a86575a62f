"""`hyperasr enrol`: from a folder of clips to a model that the other commands take."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import soundfile

from hyperasr.cli import enrol as command
from hyperasr.hub import load
from hyperasr.metrics.calibration import PlattScaling
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.transcription import enrolment
from hyperasr.transcription.enrolment import Worth
from tests.cli.calling import RATE, Cli, Voice, fails


@pytest.fixture
def clips(tmp_path: Path, voice: Voice, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three clips, two with what was said in them."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for i, name in enumerate("abc"):
        soundfile.write(folder / f"{name}.wav", voice(0.5 + 0.1 * i, 90.0 + 30 * i), RATE)
    (folder / "a.txt").write_text("TURN ON  THE LIGHT\n")
    (folder / "b.txt").write_bytes("\ufeffIs it McCoy?\r\n".encode())
    monkeypatch.setattr(enrolment, "_BEAMS", 1)
    return folder


def test_a_voice_is_a_model_like_others(
    cli: Cli, clips: Path, tmp_path: Path, random_model_folder: Path, monkeypatch
) -> None:
    learned = []
    train = enrolment.enrol

    def noting(*arguments, **options):
        learned.extend(train(*arguments, **(options | {"steps": 1, "lr": 0.1})))

    monkeypatch.setattr(enrolment, "enrol", noting)
    models = shutil.copytree(random_model_folder.parent, tmp_path / "models")
    first = models / random_model_folder.name
    PlattScaling(0.5, 0.1).write(first / "calibration.json", {})
    outcome = cli("enrol", clips, "--out", tmp_path / "v", "--model", first)
    assert outcome.status == 0, outcome
    counted, unchecked, where = outcome.out.splitlines()
    assert counted == "3 clips, 2 with a text"
    assert unchecked == "not checked, which takes 4 clips with a text"
    assert where == f"{tmp_path / 'v'}: use it with --model {tmp_path / 'v'}"
    assert learned[:2] == ["Turn on the light.", "Is it McCoy?"]
    head = json.loads((tmp_path / "v" / "config.json").read_text())
    assert head["training"]["enrolment"] == {"clips": 3, "with_text": 2}
    voice, before = load(tmp_path / "v", offline=True), load(first, offline=True)
    assert voice.calibration == PlattScaling(0.5, 0.1)
    own, other = (next(iter(m.source.bias_A.values())) for m in (voice, before))
    assert (own - other).abs().max() > 0.05
    assert cli("transcribe", clips / "a.wav", "--model", tmp_path / "v").status == 0


@pytest.mark.parametrize(("after", "status"), [(3, 1), (2, 1), (1, 0)])
def test_a_voice_that_is_worth_nothing_is_not_written(
    cli: Cli, clips: Path, tmp_path: Path, random_model_folder: Path, monkeypatch, after, status
) -> None:
    worth = Worth(EditCounts(2, 2), {1: EditCounts(4 - after, after)})
    monkeypatch.setattr(enrolment, "checked", lambda *_, **__: worth)
    outcome = cli("enrol", clips, "--out", tmp_path / "v", "--model", random_model_folder)
    assert outcome.status == status
    rates = f"50.0 %, after 1 steps {25 * after:.1f} %"
    assert f"word errors on clips that were held back: {rates}" in outcome.out
    assert ("so nothing is written" in outcome.out) == (status == 1)
    assert (tmp_path / "v").exists() == (status == 0)


def test_mistakes_are_one_line(
    cli: Cli, clips: Path, tmp_path: Path, random_model_folder: Path, voice: Voice
) -> None:
    def call(source: Path, out: Path = tmp_path / "v"):
        return cli("enrol", source, "--out", out, "--model", random_model_folder)

    (clips / "c.txt").write_bytes(b"\xff\xfe\x00bad")
    fails(call(clips / "c.wav"), "c.txt cannot be read as text", "save it as UTF-8")
    (clips / "c.txt").write_text("hello")
    soundfile.write(clips / "c.wav", voice(31.0, 90.0), RATE)
    fails(call(clips / "c.wav"), "c.wav has a text and is longer than 30 s")
    soundfile.write(clips / "c.wav", [0.0] * RATE, RATE)
    fails(call(clips / "c.wav"), "has a text, but nobody speaks in it")
    fails(call(clips / "a.wav", clips), f"will not write {clips}: it holds the input")
    fails(call(clips / "a.wav", random_model_folder), "will not write", "holds the input")
    fails(call(clips / "gone.wav"), "gone.wav; check the name")
    assert not (tmp_path / "v").exists()


def test_a_folder_of_others_is_refused_before_any_work(
    cli: Cli, clips: Path, tmp_path: Path, random_model_folder: Path, monkeypatch
) -> None:
    monkeypatch.setattr(command, "clips_of", lambda *_: pytest.fail("it works already"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes").write_text("mine")
    for name, said in (
        ("foreign", "will not replace"),
        ("file", "a file has this name"),
        ("file/below", "cannot write"),
    ):
        fails(cli("enrol", clips, "--out", tmp_path / name, "--model", random_model_folder), said)


def test_one_bad_clip_leaves_the_others(
    cli: Cli, clips: Path, tmp_path: Path, random_model_folder: Path, monkeypatch
) -> None:
    monkeypatch.setattr(enrolment, "STEPS", (1,))
    (clips / "bad.wav").write_bytes(b"RIFF")
    outcome = cli("enrol", clips, "--out", tmp_path / "v", "--model", random_model_folder)
    assert outcome.status == 1
    assert "bad.wav" in outcome.lines[0]
    assert (tmp_path / "v" / "config.json").is_file()
