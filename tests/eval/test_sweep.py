"""The sweep: its trainings, its table and plot by hand, bad grids, and two points for two steps."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eval import docs, sweep
from eval.lib import results
from eval.lib.runs import at_once
from eval.lib.scores import Scores
from eval.sweep import SweepConfig, plan, points_table, rank_of, ranking_rows, sweep_rows
from hyperasr.adapters.lora import TARGET_NAMES, TargetShape
from hyperasr.errors import ConfigError
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.metrics.protocols import protocol
from hyperasr.util.config import parse

ROOT = Path(__file__).parents[2]
GRID: dict[str, Any] = {"beta": (0.0, 0.5), "sigma": (0.01, 0.1)}
TYPICAL_ERRORS = {"backbone": 1, "lora_qk": 5, "0-0.01": 5, "0-0.1": 4, "0.5-0.01": 2, "0.5-0.1": 3}
TARGET_ERRORS = {"backbone": 12, "lora_qk": 8, "0-0.01": 8, "0-0.1": 8, "0.5-0.01": 8, "0.5-0.1": 9}


def system(name: str) -> str:
    """``0.5-0.01`` is the point of this beta and sigma."""
    beta, _, sigma = name.partition("-")
    return f"blora:beta-{beta}-sigma-{sigma}" if sigma else name


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Four speakers say twenty words in each domain; every system errs alike with all of them."""
    counts: dict[str, list[EditCounts]] = {system(name): [] for name in TARGET_ERRORS}
    meta: dict[str, list[str]] = {"speaker": [], "cohort": [], "domain": [], "source": []}
    for speaker in "abcd":
        for cohort, errors in (("dysarthria", TARGET_ERRORS), ("typical", TYPICAL_ERRORS)):
            meta["speaker"].append(speaker)
            meta["cohort"].append(cohort)
            meta["domain"].append("recorded" if cohort == "typical" else "simulated")
            meta["source"].append("libri")
            for name, n in errors.items():
                counts[system(name)].append(EditCounts(20 - n, n))
    scores = Scores(protocol("spoken"), "wer", meta, counts)
    config = SweepConfig(grid=GRID)
    return sweep_rows(scores, plan(config), config)


def test_the_trainings_of_a_sweep(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    lora, *points = plan(SweepConfig(grid=GRID, steps=7, options={"loop.seed": "3"}))
    assert lora.system == "lora_qk"
    assert not lora.point
    assert lora.config.source.kind == "static"
    assert [dict(p.point) for p in points] == [
        {"beta": b, "sigma": s} for b in (0.0, 0.5) for s in (0.01, 0.1)
    ]
    last = points[-1]
    assert last.system == "blora:beta-0.5-sigma-0.1"
    assert last.config.out == Path("runs/blora_sweep/beta-0.5-sigma-0.1")
    assert last.config.objective.beta == 0.5
    settings = last.config.source.settings
    # What is not varied stays as in the configuration file.
    assert settings["prior_sigma"] == 0.1
    assert (settings["rank"], settings["noise"]) == (32, "flipout")
    for trial in (lora, *points):
        loop = trial.config.loop
        assert (loop.steps, loop.eval_every, loop.save_every, loop.seed) == (7, 7, 7, 3)
        assert trial.config.source.targets == lora.config.source.targets


def test_the_weight_of_the_divergence_is_taken_from_the_cross_entropy(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    argv = ["--config", "eval/configs/vi_lora_sweep.yaml"]
    trials = plan(parse(SweepConfig, argv))
    assert len(trials) == 1 + 4
    found = {
        (t.config.source.settings["prior"], t.config.objective.beta): t.config for t in trials[1:]
    }
    assert set(found) == {("dual", w) for w in (0, 0.05, 0.1, 0.15)}
    assert found["dual", 0.1].objective.nll_weight == 0.9
    assert found["dual", 0].objective.nll_weight == 1
    lora = trials[0].config.source
    assert lora.targets == found["dual", 0].source.targets
    for name in ("rank", "alpha"):
        assert lora.settings[name] == found["dual", 0].source.settings[name]


def test_table_by_hand(rows, monkeypatch) -> None:
    made = points_table(rows)
    assert made.header[1:3] == ("prior σ", "β")
    lines = {line[:3]: line[3:] for line in made.lines}
    assert list(lines)[:2] == [("backbone", "", ""), ("lora_qk", "", "")]
    # 12 and 1 of 20 words.
    assert lines["backbone", "", ""] == ("60.0 [60.0, 60.0]", "5.0 [5.0, 5.0]", "", "", "")
    assert lines["lora_qk", "", ""][2] == "20.0 [20.0, 20.0]"
    # One more error where the LoRA has four more: three quarters avoided, at no loss.
    assert lines["blora", "0.01", "0.5"] == (
        *("40.0 [40.0, 40.0]", "10.0 [10.0, 10.0]", "5.0 [5.0, 5.0]"),
        *("75.0 [75.0, 75.0]", "0.0 [0.0, 0.0]"),
    )
    # Half avoided, at a loss of one in eight.
    assert lines["blora", "0.1", "0.5"][3:] == ("50.0 [50.0, 50.0]", "12.5 [12.5, 12.5]")
    assert lines["blora", "0.1", "0"][3:] == ("25.0 [25.0, 25.0]", "0.0 [0.0, 0.0]")
    monkeypatch.setattr(results, "read", lambda path: {"rows": rows, "command": "made it"})
    table = docs.table("results/x.json", " points=true ")
    assert "| blora | 0.01 | 0.5 | 40.0 [40.0, 40.0] |" in table
    assert table.splitlines()[1].startswith("| --- | --- | --- | ---: |")
    assert "made it" in table


def test_rows_that_are_of_no_sweep_are_refused(rows) -> None:
    with pytest.raises(ConfigError, match="made by another program"):
        points_table([row for row in rows if "beta" not in row])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grid": {"beta": (1.0, 1.0), "sigma": (0.1,)}}, "grid.beta has a value twice"),
        (
            {"grid": {}},
            "give at least one value of one of beta, kl_weight, budget and one of sigma",
        ),
        ({"grid": {"beta": (0.1,), "sigma": ()}}, "give at least one value"),
        ({"grid": {"beta": (0.1,), "rank": (1,)}}, "give at least one value"),
        ({"grid": {"beta": (0.1,), "target": ("decoder.fc1",)}}, "a target without a budget"),
        ({"grid": {"budget": (0.0,), "target": ("decoder.fc1",)}}, r"give shares in \(0, 1\)"),
    ],
)
def test_bad_settings_are_one_clear_line(values, message) -> None:
    with pytest.raises(ConfigError, match=message) as found:
        SweepConfig(**values)
    assert "\n" not in str(found.value)


def test_values_that_a_training_refuses_are_refused_before_it(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match="beta"):
        plan(SweepConfig(grid={"beta": (-0.1,), "sigma": (0.1,)}))


@pytest.mark.parametrize(
    ("budget", "d_out", "rank"),
    [
        (0.01, 400, 10),  # rank 1 has 2 * 500 weights
        (0.001, 400, 1),
        (0.0001, 400, None),  # rank 1 takes more
        (0.001, 100, 2),
        (0.5, 100, None),  # rank 1250 is above the highest
    ],
)
def test_ranks_meet_their_budgets_by_hand(budget, d_out, rank) -> None:
    assert rank_of(budget, TargetShape(2, 100, d_out), 1_000_000) == rank


def test_each_matrix_type_alone_and_all_together(monkeypatch, caplog) -> None:
    monkeypatch.chdir(ROOT)
    config = parse(SweepConfig, ["--config", "eval/configs/matrix_sweep.yaml"])
    assert set(config.grid["target"]) == set(TARGET_NAMES)
    few = {"target": ("decoder.fc1", "decoder.q_proj"), "budget": (0.0011, 0.005)}
    together, *points = plan(replace(config, grid=few))
    assert set(together.config.source.targets) == set(TARGET_NAMES)
    assert len(points) == 3
    for trial in points:
        source = trial.config.source
        assert source.targets == (trial.point["target"],)
        assert source.settings["rank"] == source.settings["alpha"] == trial.point["rank"]
    fc1 = next(p for p in points if p.point["target"] == "decoder.fc1")
    assert fc1.config.out.name == "target-decoder.fc1-budget-0.0011"
    # Of the decoder's square matrices no rank that is allowed comes to 0.5 %.
    assert "target-decoder.q_proj-budget-0.005: no rank" in caplog.text


def test_the_ranking_is_held_against_errors() -> None:
    targets = ["decoder.fc1", "decoder.fc2", "decoder.q_proj", "decoder.k_proj"]
    sizes = [
        {"measure": "relative_norm", "cohort": "all", "target": t, "layer": k, "value": v + k}
        for t, v in zip(targets, (4.0, 3.0, 2.0, 1.0), strict=True)
        for k in range(2)
    ]
    errors = [
        {"cohort": "atypical", "budget": 0.01, "target": t, "value": v}
        for t, v in zip(targets, (0.2, 0.3, 0.5, 0.4), strict=True)
    ]
    few = {"cohort": "atypical", "budget": 0.1, "target": targets[0], "value": 0.9}
    rows = ranking_rows(sizes, [*errors, few, {**few, "budget": 0.01, "cohort": "typical"}])
    places = [(r["target"], r["value"]) for r in rows if r["measure"] == "ranking"]
    assert places == list(zip(targets, (4.5, 3.5, 2.5, 1.5), strict=True))
    (check,) = (r for r in rows if r["measure"] == "ranking_check")
    # Errors rank 1, 2, 4, 3 where adaptation ranks 4, 3, 2, 1: 1 - 6 * 18 / 60 = -0.8.
    assert check["value"] == pytest.approx(-0.8)
    assert (check["budget"], check["n_targets"]) == (0.01, 4)


@pytest.mark.slow
def test_two_points_for_two_steps(
    short_meta, world, random_backbone_folder, train_here, tmp_path, monkeypatch, capfd
) -> None:
    base = json.loads(short_meta.read_text())
    targets = ["decoder.q_proj", "decoder.k_proj"]
    for name, source, objective in (
        ("lora_qk", {"kind": "static", "settings": {"by": "global", "rank": 2}}, {}),
        ("blora", {"kind": "blora", "settings": {"rank": 2}}, {"kl_reduction": "mean_per_matrix"}),
    ):
        own = {**base, "source": {**source, "targets": targets}, "objective": objective}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(own))
    bench = {
        "test": str(world.test),
        "train": [str(world.train)],
        "backbone": str(random_backbone_folder),
        "cache": str(world.folder / "cache"),
        "store": str(world.folder / "store"),
        "protocol": "spoken",
        "workers": 1,
    }
    values = {
        "bench": bench,
        "meta": str(tmp_path / "blora.yaml"),
        "reference": str(tmp_path / "lora_qk.yaml"),
        "grid": {"beta": [0, 2], "sigma": [0.01]},
        "steps": 2,
        "options": {"loop.tracker": "none"},
        "processes": 1,
        "runs": str(tmp_path / "runs"),
        "out": str(tmp_path / "blora_sweep.json"),
    }
    (tmp_path / "sweep.yaml").write_text(json.dumps(values))
    monkeypatch.setattr(sys, "argv", ["eval.sweep", "--config", str(tmp_path / "sweep.yaml")])
    sweep.main()
    content = results.read(tmp_path / "blora_sweep.json")
    assert {(r["beta"], r["sigma"]) for r in content["rows"] if "beta" in r} == {
        (0, 0.01),
        (2, 0.01),
    }
    assert len(points_table(content["rows"]).lines) == 4
    points = [f"beta-{b}-sigma-0.01" for b in (0, 2)]
    assert set(content["trainings"]) == {"lora_qk", *(f"blora:{name}" for name in points)}
    heads = [
        json.loads((tmp_path / "runs" / name / "best/config.json").read_text()) for name in points
    ]
    assert [h["training"]["config"]["objective"]["beta"] for h in heads] == [0, 2]
    assert "prior σ" in capfd.readouterr().out
    # A second time nothing is trained and nothing is decoded: the same rows.
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*") if p.is_file()}
    sweep.main()
    assert before == {
        p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*") if p.is_file()
    }
    assert results.read(tmp_path / "blora_sweep.json")["rows"] == content["rows"]


def test_after_a_failure_nothing_more_is_begun() -> None:
    begun: list[int] = []
    failed = threading.Event()

    def job(number: int) -> None:
        begun.append(number)
        if number == 1:
            failed.set()
            raise ConfigError("it failed")
        failed.wait()
        time.sleep(0.2)

    with pytest.raises(ConfigError, match="it failed"):
        at_once([partial(job, number) for number in range(9)], 2)
    assert set(begun) <= {0, 1, 2}  # one may take a place before the failure is known
