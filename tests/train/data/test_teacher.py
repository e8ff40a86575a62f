"""The unadapted Whisper as a teacher: its lines, their use in training, and whom it teaches."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from hyperasr.adapters.objective import ObjectiveConfig
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.errors import CheckpointMismatch, ConfigError
from hyperasr.whisper.backbone import Backbone
from train import meta
from train.data import writing
from train.data.teacher import Teacher
from train.data.writing import lines_beside
from train.loop.scoring import Judge, NotWorthIt


@pytest.fixture
def written(
    corpus: Path,
    random_backbone_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The training manifest in the writing of the random backbone, whose words it never finds."""
    monkeypatch.setattr(writing, "_MOST_ERRORS", 1e9)
    backbone = Backbone.from_pretrained(random_backbone_folder, audio_context="full")
    writing.write(read_manifest(corpus / "train.jsonl"), tmp_path / "written.jsonl", backbone)
    return tmp_path / "written.jsonl"


def config_of(written: Path, corpus: Path, backbone: Path, **values: object) -> meta.MetaConfig:
    settings = {
        "backbone": str(backbone),
        "train": written,
        "teacher": lines_beside(written),
        "dev": corpus / "dev.jsonl",
        "cache": corpus / "cache",
        "out": written.parent / "run",
        "batch_size": 4,
        "workers": 1,
        "objective": ObjectiveConfig(teacher=1.0),
        **values,
    }
    return meta.MetaConfig(**settings)  # type: ignore[arg-type]


def test_what_it_says_is_what_the_whisper_says_on_30_s(
    written: Path, corpus: Path, random_backbone_folder: Path
) -> None:
    backbone = Backbone.from_pretrained(random_backbone_folder)
    views = meta.Views(config_of(written, corpus, random_backbone_folder), backbone)
    batch = views(0)
    assert batch.teacher is not None
    whole = Backbone(backbone.whisper, backbone.tokenizer, "full")
    rows = {row.id: row for row in read_manifest(written)}
    for number, name in enumerate(batch.ids):
        row = rows[views.recording[name]]
        lines = writing.written(whole, [row])  # heard alone, and not in a batch
        assert views.teacher is not None
        ids, _ = views.teacher.of[row.id]
        own = batch.teacher.ids[number, batch.n_prompt : int(batch.n_tokens[number])]
        assert torch.equal(own, torch.from_numpy(ids.copy()).long())
        assert batch.tokens is not None
        encoded = whole.encode(
            *whole.features([writing.load(row.path, start_s=row.start_s, end_s=row.end_s)])
        )
        logprobs = whole.logits(encoded, batch.tokens[number : number + 1])[0].log_softmax(-1)
        chosen = slice(batch.n_prompt, int(batch.n_tokens[number]))
        places = torch.arange(chosen.start - 1, chosen.stop - 1)
        told = batch.teacher.logprobs[number, chosen]
        torch.testing.assert_close(
            told, logprobs[places].gather(1, own).detach(), atol=2e-3, rtol=2e-3
        )
        assert lines[0]["text"] == row.text
        outside = batch.teacher.logprobs[number, int(batch.n_tokens[number]) :]
        assert bool(torch.isinf(outside).all())


def test_parts_of_a_batch_keep_their_teacher(
    written: Path, corpus: Path, random_backbone_folder: Path
) -> None:
    backbone = Backbone.from_pretrained(random_backbone_folder)
    config = config_of(written, corpus, random_backbone_folder)
    batch = meta.Views(config, backbone)(0)
    model = meta.HyperASR(backbone, config.speaker, config.source, objective=config.objective)
    whole = model(batch)
    parts = [(model(part), share) for part, share in meta.split_batch(batch, 2)]
    assert float(whole.teacher) > 0
    for name in ("teacher", "total"):
        total = sum(float(getattr(elbo, name)) * share for elbo, share in parts)
        assert total == pytest.approx(float(getattr(whole, name)), rel=1e-4)


def test_atypical_recordings_have_no_teacher(
    written: Path, corpus: Path, random_backbone_folder: Path
) -> None:
    text = written.read_text().replace('"cohort": "typical"', '"cohort": "als"')
    other = written.with_name("als.jsonl")
    other.write_text(text)
    backbone = Backbone.from_pretrained(random_backbone_folder)
    config = config_of(written, corpus, random_backbone_folder, train=other)
    teacher = meta.Views(config, backbone)(0).teacher
    assert teacher is not None
    assert bool(torch.isinf(teacher.logprobs).all())


def test_a_wrong_teacher(written: Path, corpus: Path, random_backbone_folder: Path) -> None:
    backbone = Backbone.from_pretrained(random_backbone_folder)
    lines = lines_beside(written)
    head, *rest = lines.read_text().splitlines()
    with pytest.raises(ConfigError, match="give both or neither"):
        config_of(written, corpus, random_backbone_folder, teacher=None)
    with pytest.raises(ConfigError, match=r"train\.data\.writing writes one"):
        Teacher.read(written.with_name("nothing.jsonl"), backbone)
    other = written.with_name("other.jsonl")
    other.write_text("\n".join([json.dumps({**json.loads(head), "fingerprint": "0" * 16}), *rest]))
    with pytest.raises(CheckpointMismatch, match="written by another Whisper"):
        Teacher.read(other, backbone)
    longer = written.read_text().replace('"text": "', '"text": "and another word ')
    other.write_text(longer)
    views = meta.Views(config_of(written, corpus, random_backbone_folder, train=other), backbone)
    with pytest.raises(ConfigError, match="is not the one in the manifest"):
        views(0)


def test_a_training_that_helps_nobody_keeps_nothing(
    written: Path,
    corpus: Path,
    random_backbone_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a random Whisper is taught in two steps is worth nothing; the program says so."""
    options = {
        "backbone": random_backbone_folder,
        "train": written,
        "teacher": lines_beside(written),
        "objective.teacher": 1.0,
        "dev": corpus / "dev.jsonl",
        "cache": corpus / "cache",
        "out": written.parent / "run",
        "batch_size": 4,
        "workers": 1,
        "loop.steps": 1,
        "loop.lr": 1e-12,
        "loop.tracker": "none",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with pytest.raises(SystemExit) as stop:
        meta.run_program(meta.main)
    assert stop.value.code == 1
    assert "no checkpoint helps atypical speech without harm" in capsys.readouterr().err
    assert not (written.parent / "run" / "best").exists()


def test_what_counts_as_worth_it() -> None:
    judge = Judge({"stuttering": 0.5, "als": 0.3, "typical": 0.1})
    better = {"stuttering": 0.3, "als": 0.3, "typical": 0.105, "score": 9.0}
    assert judge(better)["score"] == pytest.approx(0.3)
    assert judge({**better, "typical": 0.106})["score"] == float("inf")
    assert judge({**better, "stuttering": 0.5})["score"] == float("inf"), "no gain"
    assert "stuttering 50.0 -> 30.0 %" in judge.verdict(better)
    with pytest.raises(NotWorthIt, match=r"unadapted: stuttering 50\.0 %"):
        judge.verdict({})
    assert Judge({"typical": 0.1})({"typical": 0.102, "score": 0.1})["score"] == 0.102
