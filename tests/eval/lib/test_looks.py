"""The file of looks at test speakers: what a line says, when there is one, and several writers."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from eval.lib.bench import Bench
from eval.lib.looks import note_look
from hyperasr.errors import ConfigError
from hyperasr.types import Utterance

TEST = [Utterance("a", "a.wav", "go"), Utterance("b", "b.wav", "go", split="all")]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_says_when_by_what_and_on_whom(tmp_path, monkeypatch) -> None:
    looks = tmp_path / "new" / "looks.jsonl"
    arguments = ["eval/zero_shot.py", "--config", "eval/configs/zero_shot.yaml", "--out", "x.json"]
    monkeypatch.setattr(sys, "argv", arguments)
    note_look(looks, Path("runs/data/test.jsonl"), TEST, ["backbone", "hypernet"])
    (line,) = lines(looks)
    assert set(line) == {"created", "git_commit", "command", "config", "test", "systems"}
    assert line["command"].endswith("--config eval/configs/zero_shot.yaml --out x.json")
    assert line["config"] == "eval/configs/zero_shot.yaml"
    assert line["test"] == "runs/data/test.jsonl"
    assert line["systems"] == ["backbone", "hypernet"]
    monkeypatch.setattr(sys, "argv", ["x", "--config=other.yaml"])
    note_look(looks, Path("test.jsonl"), TEST, [])
    assert lines(looks)[0] == line, "the file only grows"
    assert lines(looks)[1]["config"] == "other.yaml"


def test_no_line_for_what_is_no_test(tmp_path) -> None:
    looks = tmp_path / "looks.jsonl"
    note_look(looks, Path("dev.jsonl"), [replace(u, split="dev") for u in TEST], [])
    note_look(None, Path("test.jsonl"), TEST, [])
    assert not looks.exists()
    note_look(looks, Path("test.jsonl"), TEST, [])
    assert len(lines(looks)) == 1


def test_lines_of_several_writers_do_not_mix(tmp_path) -> None:
    looks = tmp_path / "looks.jsonl"
    with ThreadPoolExecutor(4) as pool:
        work = [
            pool.submit(note_look, looks, Path("test.jsonl"), TEST, [f"system {k}"] * 50)
            for k in range(12)
        ]
        for done in work:
            done.result()
    assert sorted(line["systems"][0] for line in lines(looks)) == sorted(
        f"system {k}" for k in range(12)
    )


def test_a_file_that_cannot_be_written_is_one_clear_line(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot append to"):
        note_look(tmp_path, Path("test.jsonl"), TEST, [])


@pytest.mark.slow
def test_a_bench_notes_each_system_once_and_only_if_it_looks(bench, systems, tmp_path) -> None:
    looks = tmp_path / "looks.jsonl"
    chosen = {"global_lora": systems["global_lora"]}
    own = Bench(replace(bench.config, systems=chosen, looks=looks), bench.backbone)
    assert own.column("cohort")
    assert not looks.exists(), "nothing was decoded"
    own.decode("global_lora", [0])
    own.decode("backbone", [0])
    (line,) = lines(looks)
    assert line["systems"] == ["backbone", "global_lora"]
    beside = own.beside({"hypernet": systems["hypernet"]})
    beside.embeddings(beside.systems["hypernet"])
    own.decode("backbone", [1])
    assert [line["systems"] for line in lines(looks)[1:]] == [["hypernet"]]
