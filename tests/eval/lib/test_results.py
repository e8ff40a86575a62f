"""Result files: the contract's fields, one spelling of one content, and tables from them."""

from __future__ import annotations

import io
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from eval.lib import provenance, results
from eval.lib.results import (
    difference_row,
    error_row,
    head,
    markdown_table,
    print_table,
    read,
    read_folder,
    speed_row,
    with_holm,
    write,
)
from hyperasr.errors import ConfigError
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.metrics.normalisers import normaliser
from hyperasr.metrics.protocols import protocol
from hyperasr.metrics.statistics import Interval

COUNTS = [EditCounts(8, 1, 1, 0), EditCounts(2, 0, 0, 50)]
HEAD = {
    "command", "git_commit", "created", "versions", "machine", "config", "seed", "protocol",
    "normaliser",
}  # fmt: skip
MEASURED = {
    "system", "cohort", "domain", "metric", "value", "low", "high", "n_utterances", "n_speakers"
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    learning_rate: float = 1e-8
    data: Path = Path("shared")
    ranks: tuple[int, ...] = (1, 2)


def rate(value: float, n_speakers: int = 12) -> Interval:
    return Interval(value, value - 0.02, value + 0.03, 2, n_speakers)


def error(system: str, cohort: str, value: float, domain: str = "recorded", **more: Any) -> dict:
    return error_row(system, cohort, domain, rate(value), COUNTS, "wer", **more)


def some_rows() -> list[dict[str, Any]]:
    return [
        error("backbone", "stuttering", 0.5),
        error("backbone", "typical", 0.1),
        error("hypernet", "stuttering", 0.2512),
        error("hypernet", "stuttering", 0.9, severity=0.75),
        error_row("hypernet", "stuttering", "recorded", rate(0.08), COUNTS, "cer"),
        difference_row("hypernet", "backbone", "stuttering", "recorded", rate(-0.2488), "wer"),
        speed_row("over_peft_swap", 12.345, 11.0, 13.5, 9, "peft", "batch of 16"),
    ]


def test_a_command_is_what_a_shell_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--benchmarks", "[training, start]", "--out", "my results.json"]
    monkeypatch.setattr("sys.argv", ["eval/benchmarks/speed.py", *words])
    command = results.command("eval.benchmarks.speed")
    echoed = subprocess.run(
        ["/bin/sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True
    )
    assert echoed.stdout.splitlines() == ["python", "-m", "eval.benchmarks.speed", *words]
    monkeypatch.setattr("sys.argv", ["eval/benchmarks/speed.py"])
    assert results.command("eval.benchmarks.speed") == "python -m eval.benchmarks.speed"


def test_head_has_the_fields_of_the_contract() -> None:
    made = head("python -m eval.zero_shot", Config(), 7, "zero-shot", normaliser("spoken"))
    assert set(made) == HEAD
    assert made["normaliser"] == {"name": "spoken", "hash": normaliser("spoken").hash}
    assert set(made["versions"]) == {"python", *provenance.PACKAGES}
    assert made["versions"]["numpy"] == np.__version__
    assert made["config"] == {"learning_rate": 1e-8, "data": "shared", "ranks": [1, 2]}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", made["created"])
    assert made["machine"]["cores"] >= 1
    assert made["machine"]["cpu"]
    assert head("", {}, 0, "", None)["normaliser"] is None


def test_head_tells_nobody_whose_machine_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "ann" / "clone")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    paths = {
        "inside": tmp_path / "ann" / "clone" / "x",
        "beside": str(tmp_path / "ann" / "shared" / "data"),
        "home": [str(tmp_path / "home" / "speech")],
        "other": ["relative/x", "/", "/data"],
    }
    made = head("command", paths, 0, "protocol", None)
    assert made["config"] == {
        "inside": "x",
        "beside": "../shared/data",
        "home": ["~/speech"],
        "other": ["relative/x", "/", "/data"],
    }
    assert set(made["machine"]) == {"cpu", "cores", "accelerator"}
    assert str(tmp_path) not in json.dumps(made)
    monkeypatch.setattr(provenance, "ROOT", Path("/clone"))
    made = head("command", {"inside": "/clone/x", "other": "/data/x"}, 0, "protocol", None)
    assert made["config"] == {"inside": "x", "other": "/data/x"}


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def test_git_commit_of_clean_dirty_and_foreign_trees(tmp_path: Path) -> None:
    assert provenance._git_commit(tmp_path) is None
    git(tmp_path, "init", "-q")
    code = tmp_path / "eval" / "lib"
    code.mkdir(parents=True)
    (code / "results.py").write_text("")
    assert provenance._git_commit(tmp_path) is None
    # Installed inside somebody else's repository: the hash there is not ours.
    (tmp_path / "thesis.tex").write_text("")
    git(tmp_path, "add", "thesis.tex")
    git(tmp_path, "commit", "-q", "-m", "thesis")
    assert provenance._git_commit(tmp_path) is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "code")
    clean = provenance._git_commit(tmp_path)
    assert clean is not None
    assert re.fullmatch("[0-9a-f]{7,}", clean)
    # A result written by this run is no change of the code; a new module is.
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "speed.json").write_text("{}")
    assert provenance._git_commit(tmp_path) == clean
    (code / "new.py").write_text("")
    assert provenance._git_commit(tmp_path) == f"{clean}-dirty"


def test_error_row_has_the_fields_of_the_contract() -> None:
    row = error("hypernet", "stuttering", 0.25)
    assert set(row) == MEASURED | {"errors", "clipped"}
    assert row["errors"] == {"hits": 10, "substitutions": 1, "deletions": 1, "insertions": 50}
    assert row["clipped"] == 4 / 12
    assert error("hypernet", "stuttering", 0.25, severity=0.5)["severity"] == 0.5


def test_other_rows_have_the_fields_of_the_contract() -> None:
    rows = some_rows()
    assert set(rows[-2]) == MEASURED | {"against"}
    assert set(rows[-1]) == {
        "benchmark", "ratio", "low", "high", "rounds", "peer", "setting"
    }  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "results" / "zero_shot.json"
    made = head("command", Config(), 7, "protocol", normaliser("spoken"))
    assert write(path, made, some_rows()) == path
    found = read(path)
    assert {key: value for key, value in found.items() if key != "rows"} == made
    assert found["config"]["learning_rate"] == 1e-8
    for row, original in zip(found["rows"], some_rows(), strict=True):
        assert set(row) == set(original)
        for key, value in original.items():
            assert row[key] == (round(value, 6) if isinstance(value, float) else value)
    assert found["rows"][0]["clipped"] == 0.333333


def test_one_content_has_one_spelling(tmp_path: Path) -> None:
    made = {"zeta": 1, **head("command", {"b": 1, "a": 2}, 7, "protocol", None)}
    rows = some_rows()
    first = write(tmp_path / "a.json", made, rows).read_bytes()
    backwards = [dict(reversed(row.items())) for row in rows]
    turned = dict(reversed(made.items())) | {"config": {"a": 2, "b": 1}}
    assert write(tmp_path / "b.json", turned, backwards).read_bytes() == first
    lines = first.decode().splitlines()
    assert [line.split('"')[1] for line in lines[1:10]] == list(results.HEAD_FIELDS)
    assert lines[-len(rows) - 3].strip() == '"rows": ['
    assert lines[12].strip().startswith('{"system": "backbone", "cohort": "stuttering"')
    assert json.loads(write(tmp_path / "c.json", made, []).read_text())["rows"] == []


def test_numbers_of_numpy_and_missing_numbers(tmp_path: Path) -> None:
    row = {"value": np.float32(0.1), "n": np.int64(3), "low": float("nan"), "high": float("inf")}
    row["zero"] = -1e-9
    path = write(tmp_path / "a.json", {"config": {"x": np.arange(2)}}, [row])
    content = read(path)
    assert content["rows"] == [{"value": 0.1, "n": 3, "low": None, "high": None, "zero": 0.0}]
    assert "-0.0" not in path.read_text()
    assert content["config"] == {"x": [0, 1]}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"seed": 1}, [])
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="object cannot be written"):
        write(path, {"seed": object()}, [])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("{", "not valid JSON"),
        ("[]", "not a result file"),
        ("{}", "no list"),
    ],
)
def test_what_is_no_result_file_says_so(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_markdown_pivots_systems_and_cohorts() -> None:
    assert markdown_table(some_rows()) == "\n".join(
        [
            "| system | stuttering (12 speakers) | typical (12 speakers) |",
            "| --- | ---: | ---: |",
            "| backbone | 50.0 [48.0, 53.0] | 10.0 [8.0, 13.0] |",
            "| hypernet | 25.1 [23.1, 28.1] |  |",
        ]
    )


def test_other_views_of_the_rows() -> None:
    rows = some_rows()
    assert "| hypernet | 8.0 [6.0, 11.0] |" in markdown_table(rows, metric="cer")
    assert "| hypernet | 33.3 |" in markdown_table(rows, show="clipped", cohort="stuttering")
    assert "| backbone | 416.7 | 416.7 |" in markdown_table(rows, show="insertions")
    severe = markdown_table(rows, ("cohort", "severity"))
    assert severe.splitlines()[0] == "| system | stuttering, 0.75 (12 speakers) |"
    assert "| hypernet | 90.0 [88.0, 93.0] |" in severe
    assert severe.splitlines()[2:] == markdown_table(rows, severity=0.75).splitlines()[2:]
    both = markdown_table(rows, ("metric",), cohort="stuttering", system="hypernet")
    assert both.splitlines()[0] == "| system | wer (12 speakers) | cer (12 speakers) |"
    swapped = markdown_table(rows, cohort=["typical", "stuttering"], system="backbone")
    assert swapped.splitlines()[0].startswith("| system | typical")
    difference = markdown_table(rows, differences=True)
    assert "| hypernet \u2212 backbone | -24.9 [-26.9, -21.9] |" in difference


def test_speed_rows_are_listed() -> None:
    lines = markdown_table(some_rows()[-1:]).splitlines()
    assert lines[0] == "| benchmark | peer | setting | ratio | rounds |"
    assert lines[2] == "| over_peft_swap | peft | batch of 16 | 12.35 [11.00, 13.50] | 9 |"


def test_speed_rows_are_chosen() -> None:
    names = ["over_peft_swap", "over_peft_mixed_batch", "over_peft_swap"]
    rows = [speed_row(n, 1 + i, 1, 2, 9, f"p{i}", "s") for i, n in enumerate(names)]

    def peers(**where: object) -> list[str]:
        lines = markdown_table(rows, corpus=None, **where).splitlines()[2:]
        return [line.split(" | ")[1] for line in lines]

    assert peers() == ["p0", "p1", "p2"]
    assert peers(benchmark="over_peft_swap") == ["p0", "p2"]
    assert peers(benchmark=["over_peft_swap", "over_peft_mixed_batch"], peer="p1") == ["p1"]
    with pytest.raises(ConfigError, match="no row has benchmark 'no such'"):
        peers(benchmark="no such")


def test_missing_intervals_and_mixed_speakers() -> None:
    one = error_row("a|b", "typical", "recorded", Interval(0.1, None, None, 2, 1), COUNTS, "wer")
    lines = markdown_table([one]).splitlines()
    assert lines[0] == "| system | typical (1 speaker) |"
    assert lines[2] == "| a\\|b | 10.0 |"
    mixed = markdown_table([one, error("hypernet", "typical", 0.2)])
    assert mixed.splitlines()[0] == "| system | typical |"
    none = difference_row("a", "b", "typical", "recorded", rate(-0.0001), "wer")
    assert "| a \u2212 b | +0.0 [-2.0, +3.0] |" in markdown_table([none], differences=True)
    assert "| a\\|b | n/a |" in markdown_table([one | {"value": None}])


def test_ambiguous_and_empty_tables_say_so() -> None:
    rows = [*some_rows(), error("backbone", "typical", 0.3, domain="simulated")]
    with pytest.raises(ConfigError, match="two rows for backbone at typical"):
        markdown_table(rows)
    header = markdown_table(rows, ("domain", "cohort")).splitlines()[0]
    assert "simulated, typical" in header
    with pytest.raises(ConfigError, match="no row has cohort 'nobody'"):
        markdown_table(rows, cohort="nobody")
    with pytest.raises(ConfigError, match="cannot show 'hits'"):
        markdown_table(rows, show="hits")


def test_printed_table_has_the_cells_of_the_markdown() -> None:
    out = io.StringIO()
    print_table(some_rows(), title="Zero-shot", console=Console(file=out, width=120))
    text = out.getvalue()
    assert "Zero-shot" in text
    for cell in markdown_table(some_rows()).replace("---:", "").replace("---", "").split("|"):
        assert cell.strip() in text


def test_printed_table_is_whole_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [error("hypernet_encoder_decoder", f"cohort {i}", 0.5) for i in range(6)]
    print_table(rows)
    lines = [line for line in capsys.readouterr().out.splitlines() if "hypernet" in line]
    assert lines[0].count("50.0 [48.0, 53.0]") == 6


def scored(system: str, name: str | None, value: float = 0.5, **more: Any) -> dict[str, Any]:
    """Return a row under a protocol."""
    made = None if name is None else protocol(name)
    return error_row(
        system, "typical", "recorded", rate(value), COUNTS, "wer", protocol=made, **more
    )


def test_rows_say_how_they_were_scored() -> None:
    row = scored("backbone", "whisper", speakers=["ann", "bob"])
    assert row["protocol"] == "whisper"
    assert row["normaliser"] == {"name": "whisper", "hash": normaliser("whisper").hash}
    # 2 of 10 and 50 of 2 words: each speaker counts the same.
    assert row["macro"] == pytest.approx((0.2 + 25.0) / 2)
    assert "| backbone | 1260.0 |" in markdown_table([row], show="macro")
    difference = difference_row(
        "a", "b", "typical", "recorded", rate(-0.1), "wer", protocol=protocol("sap2")
    )
    assert difference["protocol"] == "sap2"


def test_protocols_are_not_mixed_in_a_table() -> None:
    rows = [scored("backbone", "spoken"), scored("hypernet", "whisper")]
    with pytest.raises(
        ConfigError, match="one table cannot hold backbone, scored by protocol"
    ) as e:
        markdown_table(rows)
    assert "\n" not in str(e.value)
    assert "hypernet" in str(e.value)
    with pytest.raises(ConfigError, match="a protocol not named"):
        markdown_table([rows[0], scored("hypernet", None)])
    older = scored("hypernet", "spoken")
    older["normaliser"] = {"name": "spoken", "hash": "000000000000"}
    with pytest.raises(ConfigError, match="000000000000"):
        markdown_table([rows[0], older])
    assert markdown_table(rows, protocol="spoken").count("\n") == 2
    assert "spoken" in markdown_table(rows, ("protocol",)).splitlines()[0]


def test_the_reason_stands_in_place_of_an_interval() -> None:
    alone = Interval(0.1, None, None, 2, 1, "one speaker: no interval")
    row = error_row("backbone", "typical", "recorded", alone, COUNTS, "wer")
    assert row["reason"] == "one speaker: no interval"
    assert "| backbone | 10.0 (one speaker: no interval) |" in markdown_table([row])


def test_holm_is_by_table_and_marks_what_is_left() -> None:
    def compared(domain: str, system: str, p: float | None) -> dict[str, Any]:
        interval = Interval(-0.1, -0.2, -0.05, 2, 12, p=p)
        return difference_row(system, "backbone", "typical", domain, interval, "wer")

    rows = [
        error("backbone", "typical", 0.5),
        compared("recorded", "a", 0.03),
        compared("recorded", "b", 0.01),
        compared("simulated", "a", 0.03),
        compared("simulated", "b", None),
    ]
    made = with_holm(rows, ("domain", "metric"))
    assert [row.get("p_holm") for row in made] == [None, 0.03, 0.02, 0.03, None]
    assert [row.get("n_comparisons") for row in made] == [None, 2, 2, 1, None]
    assert rows[1].get("p_holm") is None  # what was given is left alone
    text = markdown_table(
        with_holm([*rows[:2], compared("recorded", "b", 0.2)], ("domain",)),
        differences=True,
        domain="recorded",
    )
    assert "| a \u2212 backbone | -10.0 [-20.0, -5.0] |" in text  # 0.06 after adjusting
    text = markdown_table(made, differences=True, domain="recorded")
    assert "| b \u2212 backbone | -10.0 [-20.0, -5.0]* |" in text


def test_a_results_folder_is_read_whole(tmp_path: Path) -> None:
    made = head("command", {}, 0, "protocol", None)
    for name in ("zero_shot", "speed"):
        write(tmp_path / f"{name}.json", made, some_rows())
    assert list(read_folder(tmp_path)) == ["speed", "zero_shot"]
    with pytest.raises(ConfigError, match="there is no results folder"):
        read_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"rows": []}', "its head has no 'command'"),
        ('{"name": "package"}', "no list of rows"),
        ("not JSON", "not valid JSON"),
    ],
)
def test_a_foreign_file_in_a_results_folder_says_so(tmp_path: Path, content, message) -> None:
    write(tmp_path / "speed.json", head("command", {}, 0, "protocol", None), some_rows())
    (tmp_path / "package.json").write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_folder(tmp_path)
    assert "package.json" in str(caught.value)
    strange = head("command", {}, 0, "protocol", None) | {"rows": [1, 2]}
    (tmp_path / "package.json").write_text(json.dumps(strange))
    with pytest.raises(ConfigError, match="its rows are not measurements"):
        read_folder(tmp_path)


def test_costs_are_listed() -> None:
    row = {
        "system": "hypernet", "cost": "training", "n_trained": 2_199_616, "share_trained": 0.58,
        "n_generated": 15_360, "share_generated": 0.004, "seconds": 582.0, "step_s": 0.291,
        "peak_rss_mib": 1_024.4,
    }  # fmt: skip
    alone = {"system": "backbone", "cost": "training", "n_trained": 0, "share_trained": 0,
             "n_generated": 0}  # fmt: skip
    lines = markdown_table([*some_rows(), row, alone], show="cost").splitlines()
    assert lines[2] == "| hypernet | 2,199,616 (58 %) | 15,360 | 9.7 min | 291 ms | 1024 MiB |"
    assert lines[3] == "| backbone | 0 (0 %) |  |  |  |  |"
    with pytest.raises(ConfigError, match="no row says what a system costs"):
        markdown_table(some_rows(), show="cost")
