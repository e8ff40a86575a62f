"""From a Whisper and typical speech to a model that transcribes: the start without patients."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hyperasr.cli.parser import main as hyperasr
from hyperasr.cohorts.cache import CacheConfig, estimate_bytes
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.errors import ConfigError
from hyperasr.hub import HyperASR
from hyperasr.metrics.normalisers import normaliser
from hyperasr.types import Utterance
from hyperasr.whisper.backbone import Backbone
from train.data import writing
from train.data.views import development_plan, training_plan
from train.from_typical import StartConfig, estimate, meta_config, read_speech, split_speakers
from train.from_typical import main as start


@pytest.fixture
def folder(corpus: Path, tmp_path: Path) -> Path:
    """Recordings beside their transcripts, a folder for each speaker: no manifest."""
    rows = [*read_manifest(corpus / "train.jsonl"), *read_manifest(corpus / "dev.jsonl")]
    for row in rows:
        own = tmp_path / "speech" / row.speaker
        own.mkdir(parents=True, exist_ok=True)
        shutil.copy(row.path, own)
        (own / f"{Path(row.path).stem}.txt").write_text(f"{row.text}\n")
    return tmp_path / "speech"


def test_a_folder_of_speech_becomes_a_model(
    folder: Path,
    random_backbone_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "mine"
    arguments = f"--speech {folder} --backbone {random_backbone_folder} --out {out} --steps 2 "
    arguments += "--batch_size 4 --rank 2 --dev_share 0.25 --workers 1 --must_help false"
    monkeypatch.setattr(writing, "_MOST_ERRORS", 1e9)  # a random Whisper finds no word
    monkeypatch.setattr("sys.argv", ["from_typical", *arguments.split(), "--estimate_only", "true"])
    start()
    printed = capsys.readouterr().out
    assert "8 utterances" in printed
    assert "GiB on disk" in printed
    assert not (out / "best").exists()
    monkeypatch.setattr("sys.argv", ["from_typical", *arguments.split()])
    start()
    assert f"hyperasr transcribe my.wav --model {out / 'best'}" in capsys.readouterr().out
    train, dev = (read_manifest(out / f"{split}.jsonl") for split in ("train", "dev"))
    assert {row.speaker for row in train}.isdisjoint(row.speaker for row in dev)
    model = HyperASR.from_pretrained(out / "best", offline=True)
    assert model.source_config.targets == ("decoder.fc1",)
    assert hyperasr(["transcribe", dev[0].path, "--model", str(out / "best"), "--offline"]) == 0


@pytest.mark.slow
def test_real_speech_and_the_embedded_backbone(
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Four speakers of AN4, as they lie in their table; no manifest, no copy."""
    root = shared_data / "an4-train"
    head, *lines = (root / "manifest.csv").read_text().splitlines()
    chosen = [
        own
        for name in ("fash", "fclc", "mblb", "mcel")
        for own in [line for line in lines if line.startswith(f"{name}/")][:2]
    ]
    speech = tmp_path / "speech"
    for line in chosen:
        path = Path(line.split(",")[0])
        (speech / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, speech / path)
    (speech / "manifest.csv").write_text("\n".join([head, *chosen]) + "\n")
    out = tmp_path / "mine"
    arguments = f"--speech {speech} --out {out} --steps 1 --batch_size 4"
    arguments += " --workers 1 --must_help false"
    monkeypatch.setattr("sys.argv", ["from_typical", *arguments.split()])
    start()
    printed = capsys.readouterr().out
    assert printed.index("GiB on disk") < printed.index("done: hyperasr transcribe")
    assert "taken in lower case" in printed
    dev = read_manifest(out / "dev.jsonl")
    assert {row.speaker for row in dev} < {"fash", "fclc", "mblb", "mcel"}
    assert hyperasr(["transcribe", dev[0].path, "--model", str(out / "best"), "--offline"]) == 0
    alike = normaliser("spelled")
    said, meant = (set(alike(t).split()) for t in (capsys.readouterr().out, dev[0].text or ""))
    assert said & meant, "a step does not spoil the backbone"


def test_speakers_are_split_whole_and_always_alike() -> None:
    rows = [Utterance(f"{s}{i}", f"/{s}{i}", "a", f"s{s}") for s in range(20) for i in range(3)]
    train, dev = split_speakers(rows, 0.1)
    assert len({row.speaker for row in dev}) == 2
    assert {row.speaker for row in train}.isdisjoint(row.speaker for row in dev)
    assert len(train) + len(dev) == 60
    assert {row.split for row in train} == {"train"}
    again = split_speakers(rows[::-1], 0.1)[1]
    assert {row.speaker for row in again} == {row.speaker for row in dev}
    alone = [replace(row, speaker="s0") for row in rows]
    train, dev = split_speakers(alone, 0.1)
    assert (len(train), len(dev)) == (54, 6), "of one speaker utterances are kept out"
    assert {row.id for row in train}.isdisjoint(row.id for row in dev)
    patients = [replace(u, id=f"p{u.id}", speaker=f"p{u.speaker}", cohort="als") for u in rows[:12]]
    train, dev = split_speakers([*rows, *patients], 0.1)
    assert {row.speaker for row in again} == {u.speaker for u in dev if u.cohort == "typical"}
    assert len({u.speaker for u in dev if u.cohort == "als"}) == 1, "every cohort has its own"


def test_what_cannot_be_used_is_left_out(
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = read_manifest(corpus / "train.jsonl")
    rows[0] = replace(rows[0], text=None)
    rows[1] = replace(rows[1], cohort="als", end_s=25.0)
    rows[2] = replace(rows[2], end_s=25.0)
    write_manifest(tmp_path / "m.jsonl", rows)
    kept = read_speech(tmp_path / "m.jsonl")
    assert [row.id for row in kept] == [rows[1].id, *(row.id for row in rows[3:])]
    assert "1 of 5 typical recordings left out, without text" in caplog.text
    assert "1 of 5 typical recordings left out, of more than 20 s" in caplog.text
    assert "1 recordings are not of typical speech: used as they are" in capsys.readouterr().out
    write_manifest(tmp_path / "m.jsonl", rows[:3])
    with pytest.raises(ConfigError, match="has 0 typical utterances with text"):
        read_speech(tmp_path / "m.jsonl")
    loud = [
        replace(row, text=(row.text or "").upper()) for row in read_manifest(corpus / "dev.jsonl")
    ]
    write_manifest(tmp_path / "m.jsonl", loud)
    assert [row.text for row in read_speech(tmp_path / "m.jsonl")] == [
        row.text for row in read_manifest(corpus / "dev.jsonl")
    ]
    assert "taken in lower case" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="dev_share"):
        StartConfig(speech=tmp_path, dev_share=0.9)


def test_the_estimate_grows_with_the_work(corpus: Path, random_backbone_folder: Path) -> None:
    config = StartConfig(speech=corpus, backbone=str(random_backbone_folder))
    rows = read_manifest(corpus / "train.jsonl")
    many = [replace(row, id=f"{row.id}-{k}") for k in range(40) for row in rows]
    found = [estimate(meta_config(config), own) for own in (rows, many)]
    assert found[0].startswith("6 recordings")
    sizes = [float(line.split("about ")[1].split()[0]) for line in found]
    assert sizes[1] > 20 * sizes[0] > 0


def test_the_estimate_has_every_cache(corpus: Path, random_backbone_folder: Path) -> None:
    """Of 30 s for the judge, and of words that are yet to be cut."""
    config = meta_config(StartConfig(speech=corpus, backbone=str(random_backbone_folder)))
    rows = read_manifest(corpus / "train.jsonl")

    def gib(dev: list[Utterance], *, judged: bool) -> float:
        line = estimate(replace(config, must_help=judged), rows, dev)
        return float(line.split("about ")[1].split()[0])

    n_views = len(development_plan(rows, config.simulate))
    judge = n_views * 1_500 * 32 * 2 / 2**30  # encoder states of 32 numbers in float16
    assert gib(rows, judged=True) - gib(rows, judged=False) == pytest.approx(judge, rel=0.1)
    views = training_plan(config, rows)
    backbone = Backbone.from_pretrained(random_backbone_folder)
    whole = estimate_bytes(views, backbone, CacheConfig(config.speaker, config.needs_mel))
    assert gib([], judged=False) > 1.5 * whole / 2**30
