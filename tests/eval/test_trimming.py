"""Audio contexts: what is trained and compared, and the whole program on random recognisers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval import trimming
from eval.lib import results
from eval.lib.scores import Scores
from eval.trimming import TrimmingConfig, few, joined, pairs_of
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.errors import ConfigError
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.metrics.protocols import protocol
from hyperasr.types import Utterance
from hyperasr.util.config import parse

ROOT = Path(__file__).parents[2]
PLANNED = ["--config", str(ROOT / "eval/configs/trimming.yaml")]


def scores_of(counts: dict[str, list[EditCounts]], ids: str = "ab") -> Scores:
    meta = {"id": list(ids), "speaker": list(ids), "cohort": ["typical"] * 2, "source": ["x"] * 2}
    return Scores(protocol("spoken"), "wer", meta, counts)


def test_the_first_utterances_of_each_speaker_are_found_from_any_folder() -> None:
    rows = [Utterance(f"{s}{k}", f"x/{s}{k}.wav", "go", s) for k in range(3) for s in "ab"]
    assert [row.id for row in few(rows, 2)] == ["a0", "b0", "a1", "b1"]
    assert few(rows, 1)[0].path == str(Path("x/a0.wav").resolve())


def test_both_recognisers_learn_the_same_typical_speech() -> None:
    config = parse(TrimmingConfig, PLANNED)
    trimmed, full = (config.recogniser_of(context) for context in ("trimmed", "full"))
    assert trimmed.data.cohorts == ("typical",)
    assert (trimmed.data.audio_context, full.data.audio_context) == ("trimmed", "full")
    same = replace(full, out=trimmed.out, data=replace(full.data, audio_context="trimmed"))
    assert same == trimmed
    adapter = config.adapter_of("full", "trimmed")
    assert adapter.backbone == str(full.out / "best")
    assert adapter.audio_context == "trimmed"
    assert config.bench_of("trimmed", "full").systems == {}


def test_systems_keep_their_counts_and_say_what_they_heard() -> None:
    right, wrong = EditCounts(1, 0, 0, 0), EditCounts(0, 1, 0, 0)
    found = {
        ("full", "full"): scores_of({"backbone": [right, wrong]}),
        ("full", "trimmed"): scores_of({"backbone": [wrong, wrong], "hypernet": [right, right]}),
    }
    scores = joined(found)
    assert scores.counts["backbone:full:full"] == [right, wrong]
    assert scores.counts["hypernet:full:trimmed"] == [right, right]
    other = scores_of({"backbone": [right, right]}, "ac")
    with pytest.raises(ConfigError, match="trimmed:full was scored on other utterances"):
        joined({**found, ("trimmed", "full"): other})


def test_each_is_compared_with_hearing_what_it_was_trained_on() -> None:
    names = ["backbone:full:full", "backbone:full:trimmed", "backbone:trimmed:trimmed"]
    names += ["hypernet:full:full", "hypernet:full:trimmed"]
    assert pairs_of(names) == [
        ("backbone:full:trimmed", "backbone:full:full"),
        ("backbone:trimmed:trimmed", "backbone:full:full"),
        ("hypernet:full:full", "backbone:full:full"),
        ("hypernet:full:trimmed", "hypernet:full:full"),
        ("hypernet:full:trimmed", "backbone:full:trimmed"),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"adapted": ("full:half",)}, "adapted has 'full:half'; choose from trimmed:trimmed"),
        ({"per_speaker": {"train": 1, "dev": 1}}, "give train, dev and test, each at least 1"),
        ({"per_speaker": {"train": 1, "dev": 1, "test": 0}}, "each at least 1"),
    ],
)
def test_bad_settings_are_one_clear_error(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrimmingConfig(**values)


@pytest.mark.slow
def test_trimming(
    world, random_backbone_folder, tmp_path, monkeypatch, capfd, in_this_process
) -> None:
    data = {
        "backbone": str(random_backbone_folder),
        "train": str(world.train),
        "dev": str(world.train),
        "must_help": False,
        "batch_size": 2,
        "workers": 1,
    }
    loop = {"steps": 1, "eval_every": 1, "save_every": 1, "log_every": 1, "tracker": "none"}
    settings = {
        "recogniser": {
            "method": "full_ft",
            "data": {**data, "cohorts": ["typical"], "keep_mel": True},
            "loop": loop,
        },
        "adapter": {
            **data,
            "source": {"settings": {"rank": 1, "d_hidden": 8, "n_hidden": 1}},
            "loop": loop,
        },
        "bench": {"test": str(world.test), "store": str(tmp_path / "store"), "workers": 1},
        "adapted": ["full:trimmed"],
        "per_speaker": {"train": 1, "dev": 1, "test": 1},
        "runs": str(tmp_path / "runs"),
        "out": str(tmp_path / "trimming.json"),
    }
    path = tmp_path / "trimming.yaml"
    path.write_text(json.dumps(settings))
    monkeypatch.setattr(sys, "argv", ["trimming", "--config", str(path)])
    trimming.main()
    content = results.read(tmp_path / "trimming.json")
    assert "SYSTEM:TRAINED:HEARD" in capfd.readouterr().out
    errors = {r["system"] for r in content["rows"] if r["cohort"] == "atypical"}
    cases = ("trimmed:trimmed", "trimmed:full", "full:trimmed", "full:full")
    assert errors == {f"backbone:{case}" for case in cases} | {"hypernet:full:trimmed"}
    head = json.loads((tmp_path / "runs/hypernet_full_trimmed/best/config.json").read_text())
    assert head["audio_context"] == "trimmed"
    trained = json.loads((tmp_path / "runs/backbone_full/best/config.json").read_text())
    assert trained["audio_context"] == "full"
    assert len(read_manifest(tmp_path / "runs/test.jsonl")) == 4
