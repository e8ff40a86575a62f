"""Result files: the contract's fields, one spelling of one content; and who looked at the test."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.lib import results
from eval.lib.bench import Bench
from eval.lib.results import (
    difference_row,
    error_row,
    head,
    note_look,
    read,
    speed_row,
    with_holm,
    write,
)
from hyperasr.errors import ConfigError
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.metrics.normalisers import normaliser
from hyperasr.metrics.protocols import protocol
from hyperasr.metrics.statistics import Interval
from hyperasr.types import Utterance

COUNTS = [EditCounts(8, 1, 1, 0), EditCounts(2, 0, 0, 50)]
MEASURED = {
    "system", "cohort", "domain", "metric", "value", "low", "high", "n_utterances", "n_speakers",
    "protocol", "normaliser",
}  # fmt: skip
SPOKEN = protocol("spoken")
TEST = [Utterance("a", "a.wav", "go"), Utterance("b", "b.wav", "go", split="all")]


@dataclass(frozen=True)
class Config:
    learning_rate: float = 1e-8
    data: Path = Path("shared")
    ranks: tuple[int, ...] = (1, 2)


def some_rows() -> list[dict[str, Any]]:
    rate, gap = Interval(0.5, 0.48, 0.53, 2, 12), Interval(-0.2488, -0.3, -0.1, 2, 12)
    place = {"cohort": "stuttering", "domain": "recorded", "metric": "wer"}
    return [
        error_row("hypernet", place | {"severity": 0.5}, rate, COUNTS, SPOKEN),
        difference_row("hypernet", "backbone", place, gap, SPOKEN),
        speed_row("over_peft_swap", 12.345, 11.0, 13.5, 9, "peft", "batch of 16"),
    ]


def test_a_command_is_what_a_shell_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--benchmarks", "[training, start]", "--out", "my results.json"]
    monkeypatch.setattr("sys.argv", ["eval/benchmarks/speed.py", *words])
    command = head("eval.benchmarks.speed", {}, 0, "", None)["command"]
    echoed = subprocess.run(
        ["/bin/sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True
    )
    assert echoed.stdout.splitlines() == ["python", "-m", "eval.benchmarks.speed", *words]


def test_head_has_the_fields_of_the_contract() -> None:
    made = head("eval.zero_shot", Config(), 7, "zero-shot", normaliser("spoken"))
    assert list(made) == [
        "command", "git_commit", "created", "versions", "machine", "config", "seed", "protocol",
        "normaliser",
    ]  # fmt: skip
    assert made["normaliser"] == {"name": "spoken", "hash": normaliser("spoken").hash}
    assert made["versions"]["numpy"] == np.__version__
    assert made["config"] == {"learning_rate": 1e-8, "data": "shared", "ranks": [1, 2]}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", made["created"])
    assert made["machine"]["cores"] >= 1
    assert made["machine"]["cpu"]
    assert head("", {}, 0, "", None)["normaliser"] is None


def test_head_tells_nobody_whose_machine_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path / "ann" / "clone")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    paths = {
        "inside": tmp_path / "ann" / "clone" / "x",
        "beside": str(tmp_path / "ann" / "shared" / "data"),
        "home": [str(tmp_path / "home" / "speech")],
        "other": ["relative/x", "/", "/data"],
    }
    made = head("program", paths, 0, "protocol", None)
    assert made["config"] == {
        "inside": "x",
        "beside": "../shared/data",
        "home": ["~/speech"],
        "other": ["relative/x", "/", "/data"],
    }
    assert set(made["machine"]) == {"cpu", "cores", "accelerator"}
    monkeypatch.setattr(results, "ROOT", Path("/clone"))
    made = head("program", {"inside": "/clone/x", "other": "/data/x"}, 0, "protocol", None)
    assert made["config"] == {"inside": "x", "other": "/data/x"}


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def test_git_commit_of_clean_and_dirty_trees(tmp_path: Path) -> None:
    assert results._git_commit(tmp_path) is None
    git(tmp_path, "init", "-q")
    code = tmp_path / "eval" / "lib"
    code.mkdir(parents=True)
    (code / "results.py").write_text("")
    # Installed inside somebody else's repository: the hash there is not ours.
    (tmp_path / "thesis.tex").write_text("")
    git(tmp_path, "add", "thesis.tex")
    git(tmp_path, "commit", "-q", "-m", "thesis")
    assert results._git_commit(tmp_path) is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "code")
    clean = results._git_commit(tmp_path)
    assert clean is not None
    assert re.fullmatch("[0-9a-f]{7,}", clean)
    # A result written by this run is no change of the code; a new module is.
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "speed.json").write_text("{}")
    assert results._git_commit(tmp_path) == clean
    (code / "new.py").write_text("")
    assert results._git_commit(tmp_path) == f"{clean}-dirty"


def test_rows_have_the_fields_of_the_contract() -> None:
    error, difference, speed = some_rows()
    assert set(error) == MEASURED | {"errors", "clipped", "severity"}
    assert error["errors"] == {"hits": 10, "substitutions": 1, "deletions": 1, "insertions": 50}
    assert error["clipped"] == 4 / 12
    assert set(difference) == MEASURED | {"against"}
    assert set(speed) == {"benchmark", "ratio", "low", "high", "rounds", "peer", "setting"}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "results" / "zero_shot.json"
    made = head("eval.zero_shot", Config(), 7, "protocol", normaliser("spoken"))
    odd = {"value": np.float32(0.1), "n": np.int64(3), "low": float("nan"), "high": float("inf")}
    assert write(path, made, [*some_rows(), {**odd, "zero": -1e-9}]) == path
    found = read(path)
    *rows, last = found.pop("rows")
    assert found == made
    for row, original in zip(rows, some_rows(), strict=True):
        for key, value in original.items():
            assert row[key] == (round(value, 6) if isinstance(value, float) else value)
    assert rows[0]["clipped"] == 0.333333
    assert last == {"value": 0.1, "n": 3, "low": None, "high": None, "zero": 0.0}
    assert "-0.0" not in path.read_text()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="object cannot be written"):
        write(path, {"seed": object()}, [])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("not JSON", "not valid JSON"),
        ("[]", "not a result file"),
        ('{"name": "package"}', "no list of rows"),
        ('{"rows": [1]}', "no list of rows"),
    ],
)
def test_what_is_no_result_file_says_so(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read(path)
    assert "a.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_holm_is_by_table() -> None:
    def compared(domain: str, system: str, p: float | None) -> dict[str, Any]:
        place = {"cohort": "typical", "domain": domain, "metric": "wer"}
        interval = Interval(-0.1, -0.2, -0.05, 2, 12, p=p)
        return difference_row(system, "backbone", place, interval, SPOKEN)

    rows = [
        some_rows()[0],
        compared("recorded", "a", 0.03),
        compared("recorded", "b", 0.01),
        compared("simulated", "a", 0.03),
        compared("simulated", "b", None),
    ]
    made = with_holm(rows, ("domain", "metric"))
    assert [row.get("p_holm") for row in made] == [None, 0.03, 0.02, 0.03, None]
    assert [row.get("n_comparisons") for row in made] == [None, 2, 2, 1, None]
    assert rows[1].get("p_holm") is None  # what was given is left alone


# Looks at test speakers


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_look_says_when_by_what_and_on_whom(tmp_path, monkeypatch) -> None:
    looks = tmp_path / "new" / "looks.jsonl"
    arguments = ["eval/zero_shot.py", "--config", "eval/configs/zero_shot.yaml", "--out", "x.json"]
    monkeypatch.setattr(sys, "argv", arguments)
    note_look(looks, Path("runs/data/test.jsonl"), TEST, ["backbone", "hypernet"])
    (line,) = lines(looks)
    assert set(line) == {"created", "git_commit", "command", "config", "test", "systems"}
    assert line["command"].endswith("--config eval/configs/zero_shot.yaml --out x.json")
    assert line["config"] == "eval/configs/zero_shot.yaml"
    assert (line["test"], line["systems"]) == ("runs/data/test.jsonl", ["backbone", "hypernet"])
    monkeypatch.setattr(sys, "argv", ["x", "--config=other.yaml"])
    note_look(looks, Path("test.jsonl"), TEST, [])
    assert lines(looks)[0] == line, "the file only grows"
    assert lines(looks)[1]["config"] == "other.yaml"
    # Nobody looks at a test where there is none.
    note_look(looks, Path("dev.jsonl"), [replace(u, split="dev") for u in TEST], [])
    note_look(None, Path("test.jsonl"), TEST, [])
    assert len(lines(looks)) == 2
    with pytest.raises(ConfigError, match="cannot write"):
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
