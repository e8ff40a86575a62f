"""Comparison and configurations: every program to its result file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval import comparison
from eval.benchmarks.cluster import ClusterConfig
from eval.benchmarks.memory import MemoryConfig
from eval.benchmarks.server import ServerConfig
from eval.benchmarks.speed import SpeedConfig
from eval.calibration import CalibrationConfig
from eval.comparison import ComparisonConfig, cost_row
from eval.continual import ContinualConfig
from eval.development import DevelopmentConfig
from eval.docs import table
from eval.enrolment import EnrolmentConfig
from eval.expected_words import ExpectedWordsConfig
from eval.leave_one_cohort_out import LocoConfig
from eval.lib import results
from eval.lib.bench import Bench
from eval.selection import SelectionConfig
from eval.sparsity import SparsityConfig
from eval.subspace_angles import AnglesConfig
from eval.sweep import SweepConfig
from eval.verbatim import VerbatimConfig
from eval.weight_spread import SpreadConfig
from eval.zero_shot import ZeroShotConfig
from hyperasr.errors import ConfigError
from hyperasr.util.config import parse
from tests.eval.running import run_program, save_people

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "beam": ZeroShotConfig,
    "blora_sweep": SweepConfig,
    "budget_sweep": SweepConfig,
    "calibration": CalibrationConfig,
    "ceiling": DevelopmentConfig,
    "cluster": ClusterConfig,
    "comparison": ComparisonConfig,
    "continual": ContinualConfig,
    "default_model": ZeroShotConfig,
    "development": DevelopmentConfig,
    "enrolment": EnrolmentConfig,
    "expected_words": ExpectedWordsConfig,
    "fit_word_probability": CalibrationConfig,
    "fit_word_probability_base": CalibrationConfig,
    "individual": ComparisonConfig,
    "leave_one_cohort_out": LocoConfig,
    "matrix_sweep": SweepConfig,
    "memory": MemoryConfig,
    "server": ServerConfig,
    "selection": SelectionConfig,
    "sparsity": SparsityConfig,
    "speed": SpeedConfig,
    "subspace_angles": AnglesConfig,
    "typical": ZeroShotConfig,
    "unadapted": ZeroShotConfig,
    "zero_shot_base": ZeroShotConfig,
    "verbatim": VerbatimConfig,
    "vi_lora_sweep": SweepConfig,
    "weight_spread": SpreadConfig,
    "word_confidence": CalibrationConfig,
    "zero_shot": ZeroShotConfig,
}


@pytest.mark.parametrize("path", sorted(ROOT.glob("eval/configs/*.yaml")), ids=lambda p: p.stem)
def test_config_is_valid(path: Path) -> None:
    config: Any = parse(PROGRAMS[path.stem], ["--config", str(path)])
    measures = not path.stem.startswith("fit_")  # which fits and writes beside the adapters
    assert (config.out == Path(f"results/{path.stem}.json")) is measures


@pytest.fixture
def run(bench, tmp_path, monkeypatch, capsys) -> Any:
    """Run a program on the bench's systems and return what it wrote, and what it printed."""

    def start(program: Any, names: list[str], **values: Any) -> tuple[dict[str, Any], str]:
        systems = {name: bench.config.systems[name] for name in names}
        config = replace(bench.config, systems=systems, controls_of=())
        content = run_program(program, config, tmp_path, monkeypatch, **values)
        return content, capsys.readouterr().out

    return start


@pytest.mark.slow
def test_comparison(run, bench) -> None:
    names = ["global_lora", "hypernet", "decoder_ft", "residual"]
    content, printed = run(comparison, names, lora_of={"hypernet": "decoder_ft"})
    rows = content["rows"]
    errors = {(r["system"], r["cohort"]) for r in rows if r.get("errors") and "corpus" not in r}
    assert errors == {
        (s, c)
        for s in ["backbone", *names]
        for c in ("atypical", "stuttering", "dysarthria", "parkinson", "typical")
    }
    against = [r for r in rows if r.get("against") == "global_lora" and r.get("metric") == "wer"]
    assert {r["system"] for r in against} == {"backbone", "hypernet", "decoder_ft", "residual"}
    assert all("p_holm" in r for r in against if r.get("p") is not None)
    gains = [r for r in rows if r.get("metric") == "backward_gain" and "corpus" not in r]
    assert {(r["system"], r["against"]) for r in gains} == {
        ("hypernet", "decoder_ft"),
        ("decoder_ft", "global_lora"),
        ("residual", "global_lora"),
    }
    before = {r["system"]: r for r in rows if r.get("metric") == "backward_degradation"}
    assert set(before) == set(names)
    costs = {r["system"]: r for r in rows if "cost" in r}
    assert set(costs) == {"backbone", *names}
    assert costs["hypernet"]["n_generated"] > 0
    assert "minus global_lora" in printed
    assert "forgetting" in printed
    with pytest.raises(ConfigError, match="'lora_qk' is to be compared with but is not among"):
        ComparisonConfig(replace(bench.config, systems={}), against="lora_qk")


@pytest.mark.slow
def test_people_who_enrolled_have_rows_of_their_own(bench, random_backbone, tmp_path) -> None:
    people = sorted({view.person for view in bench.views})
    for k in (0, 1):  # the second has fewer people
        save_people(tmp_path / f"k{k}", bench, len(people) - 3 * k)
    individual = {f"individual_k{k}": tmp_path / f"k{k}" / "best" for k in (0, 1)}
    systems = {"global_lora": bench.config.systems["global_lora"]}
    config = replace(bench.config, systems=systems)
    made = comparison.individual_rows(
        ComparisonConfig(config, individual=individual), Bench(config, random_backbone), "wer"
    )
    sizes = {
        (r["subset"], r["system"]): r["n_utterances"]
        for r in made
        if "corpus" not in r and r["cohort"] == "atypical" and "errors" in r
    }
    n = len([p for p in people if "-" in p])
    assert sizes["individual_k0", "backbone"] == sizes["individual_k0", "individual_k0"] == n
    assert sizes["individual_k1", "global_lora"] < n
    assert ("individual_k0", "individual_k1") not in sizes
    same = [r for r in made if r.get("against") == "backbone" and r["subset"] == "individual_k0"]
    assert all(r["value"] == 0 for r in same)  # nothing was trained


@pytest.mark.slow
def test_costs_are_read_from_the_run(bench, tmp_path) -> None:
    system = bench.systems["global_lora"]
    n = bench.backbone.n_parameters
    placed = replace(system, folder=tmp_path / "best")
    assert "seconds" not in cost_row(placed, n)
    # The machine rested during the last of three stretches.
    log = [
        {"step": 50, "step_s": 0.3, "peak_rss_mib": 900.5},
        {"step": 80, "step_s": 0.2},
        {"step": 100, "step_s": 60.0},
    ]
    (tmp_path / "log.jsonl").write_text('{"step": 1, "st')  # torn
    assert "seconds" not in cost_row(placed, n)
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, log)))
    row = cost_row(placed, n)
    assert (row["steps"], row["step_s"], row["seconds"]) == (100, 0.3, pytest.approx(30.0))
    assert row["share_trained"] == system.n_trained / n
    assert row["peak_rss_mib"] == 900.5
    assert "peak_device_mib" not in row
    assert "seconds" not in cost_row(bench.systems["backbone"], n)


def test_tables_of_the_readme_take_several_values(tmp_path, monkeypatch) -> None:
    from hyperasr.metrics.protocols import protocol
    from hyperasr.metrics.statistics import Interval

    def row(cohort: str, **more: Any) -> dict[str, Any]:
        place = {"cohort": cohort, "domain": "recorded", "metric": "wer"}
        interval = Interval(-0.1, -0.2, -0.05, 1, 9, p=0.01)
        row = results.difference_row("a", "b", place, interval, protocol("spoken"))
        return {**row, "p_holm": 0.02, **more}

    rows = [row("stuttering"), row("typical"), row("typical", corpus="an4")]
    rows += [row("parkinson", budget=0.01), row("dysarthria", budget=0.1)]
    head = results.head("eval.x", {}, 0, "protocol", None)
    results.write(tmp_path / "x.json", head, rows)
    monkeypatch.setattr("eval.docs.ROOT", tmp_path)
    made = table("x.json", "differences=true cohort=typical,stuttering domain=recorded")
    assert made.splitlines()[0].startswith("| system | typical (9 speakers) | stuttering")
    assert "[-20.0, -5.0]* |" in made
    of_budget = table("x.json", "differences=true domain=recorded budget=0.01").splitlines()[0]
    assert of_budget == "| system | parkinson (9 speakers) |"
    assert "adjusted for the table by Holm's method" in made
    assert "→ `x.json`" in made
