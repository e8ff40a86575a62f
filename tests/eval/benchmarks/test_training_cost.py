"""What a step of training costs: measured by the program itself, and read from its log."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from eval.benchmarks import training_cost
from eval.benchmarks.training_cost import TrainingCostConfig, cost_of, read_costs
from eval.comparison import ComparisonConfig
from eval.lib import results
from eval.lib.costs import cost_row
from hyperasr.errors import ConfigError
from hyperasr.util.config import parse

ROOT = Path(__file__).parents[3]


def test_every_system_that_a_configuration_trains_is_measured() -> None:
    config = parse(TrainingCostConfig, ["--config", str(ROOT / "eval/configs/training_cost.yaml")])
    measured = [name for names in config.trainings.values() for name in names]
    for name in measured:
        assert (ROOT / config.configs / f"{name}.yaml").is_file()
    compared = parse(ComparisonConfig, ["--config", str(ROOT / "eval/configs/comparison.yaml")])
    assert compared.training_cost == config.out
    # from_typical writes a configuration of its own.
    assert set(compared.bench.systems) - set(measured) == {"from_typical"}


def test_steps_are_timed_after_the_first_and_without_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ends of steps 10 to 50 by the clock: 9 s (loading), 11, 13, 45 (a pause), 47.
    ends = {10: 9.0, 20: 11.0, 30: 13.0, 40: 45.0, 50: 47.0}
    peaks = {10: 500.0, 20: 700.0, 30: 650.0, 40: 600.0, 50: 600.0}
    given: list[str] = []

    def launch(arguments: list[str], out: Path, what: str, program: str, **env: str) -> None:
        given.extend([program, *arguments, env["OMP_NUM_THREADS"]])
        out.mkdir()
        lines = [
            {"step": step, "step_s": end / step, "peak_rss_mib": peaks[step]}
            for step, end in ends.items()
        ]
        (out / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))

    monkeypatch.setattr(training_cost, "launch", launch)
    found = cost_of("train.meta", tmp_path / "some.yaml", 50, 2)
    assert found == {"step_s": pytest.approx(0.2), "peak_rss_mib": 700.0}
    assert given[:3] == ["train.meta", "--config", str(tmp_path / "some.yaml")]
    assert "--loop.steps 50" in " ".join(given)


@pytest.mark.slow
def test_a_training_is_measured_and_the_comparison_shows_it(
    short_meta: Path,
    bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    values = yaml.safe_load(short_meta.read_text())
    values["loop"] = {"steps": 400}
    (tmp_path / "hypernet.yaml").write_text(json.dumps(values))
    out = tmp_path / "cost.json"
    options = {"configs": tmp_path, "steps": 30, "threads": 1, "out": out}
    arguments = ["--trainings", '{"train.meta": ["hypernet"]}']
    arguments += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    training_cost.main()
    assert "hypernet: " in capfd.readouterr().out
    (row,) = results.read(out)["rows"]
    assert row["steps"] == 400
    assert row["seconds"] == pytest.approx(400 * row["step_s"], rel=1e-3)
    assert 0 < row["step_s"] < 30
    assert 100 < row["peak_rss_mib"] < 20_000
    # What was measured counts, whatever the run's own log says.
    system = bench.systems["hypernet"]
    placed = replace(system, folder=tmp_path / "run" / "best")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 70, "step_s": 99.0}')
    shown = cost_row(placed, bench.backbone.n_parameters, read_costs(out))
    assert (shown["steps"], shown["step_s"]) == (400, row["step_s"])
    assert shown["cost"] == "training"
    assert cost_row(placed, bench.backbone.n_parameters)["step_s"] == 99.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 20}, "steps is 20"),
        ({"steps": 45}, "steps is 45"),
        ({"trainings": {"train.tune": ("x",)}}, "no program 'train.tune'"),
    ],
)
def test_settings_that_make_no_sense(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingCostConfig(**values)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"eval\.benchmarks\.training_cost makes it"):
        read_costs(tmp_path / "none.json")
