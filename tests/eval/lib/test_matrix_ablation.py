"""Ranks that meet a budget, trainings that resume, and a ranking held against errors."""

from __future__ import annotations

import json

import pytest

from eval.lib.matrix_ablation import AblationConfig, Trial, plan_trials, ranking_rows, run_of, train
from hyperasr.adapters.lora import TARGET_NAMES, TargetShape
from hyperasr.errors import ConfigError

SHAPES = {name: TargetShape(2, 100, 100) for name in TARGET_NAMES}
SHAPES["decoder.fc1"] = TargetShape(2, 100, 400)


def test_ranks_meet_their_budgets_by_hand() -> None:
    config = AblationConfig(
        targets=("decoder.fc1", "decoder.q_proj"), budgets=(0.01, 0.0001, 0.001, 0.5)
    )
    trials = {(t.target, t.budget): t for t in plan_trials(SHAPES, 1_000_000, config)}
    # Rank 1 of fc1 has 2 * 500 weights, of q_proj 2 * 200.
    assert trials["decoder.fc1", 0.01].rank == 10
    assert trials["decoder.fc1", 0.001].rank == 1
    assert trials["decoder.q_proj", 0.001].rank == 2
    assert trials["decoder.q_proj", 0.001].share == pytest.approx(0.0008)
    unmet = trials["decoder.fc1", 0.0001]
    assert (unmet.rank, unmet.note) == (0, "rank 1 takes 0.1 %")
    capped = trials["decoder.q_proj", 0.5]
    assert capped.rank == 32
    assert "rank 1250 is above 32" in capped.note
    together = trials["all", None]
    assert (together.rank, together.n_weights) == (1, 1400)


def test_no_trial_exceeds_its_budget_and_none_could_be_larger() -> None:
    config = AblationConfig(budgets=(1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2))
    for trial in plan_trials(SHAPES, 3_000_000, config)[:-1]:
        one = SHAPES[trial.target].n_weights(1) / 3_000_000
        assert trial.rank == 0 or trial.share <= trial.budget * (1 + 1e-9)
        assert trial.note or trial.share + one > trial.budget


def test_budgets_of_one_rank_share_one_training(tmp_path) -> None:
    config = AblationConfig(targets=("decoder.fc1",), runs=tmp_path, steps=7, lrs=(0.01,))
    first, second = (Trial("decoder.fc1", b, 3, 3000, 0.003) for b in (0.003, 0.0035))
    assert first.name == second.name
    run = run_of(first, 0.01, config)
    assert run.config.source.targets == ("decoder.fc1",)
    assert run.config.source.settings == {"by": "global", "rank": 3, "alpha": 3}
    assert run.config.loop.steps == 7
    assert run.config.out == tmp_path / "decoder.fc1-r3" / "lr-0.01"
    assert run.config.loop.lr == 0.01
    assert "--loop.lr" in run.arguments
    both = run_of(Trial("all", None, 1, 1, 0.1), 0.01, config)
    assert both.config.source.targets == ("decoder.fc1",)


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
    capped = {"cohort": "atypical", "budget": 0.1, "target": targets[0], "value": 0.9, "note": "x"}
    rows = ranking_rows(sizes, [*errors, capped])
    places = [(r["target"], r["value"]) for r in rows if r["measure"] == "ranking"]
    assert places == list(zip(targets, (4.5, 3.5, 2.5, 1.5), strict=True))
    (check,) = (r for r in rows if r["measure"] == "ranking_check")
    # Errors rank 1, 2, 4, 3 where adaptation ranks 4, 3, 2, 1: 1 - 6 * 18 / 60 = -0.8.
    assert check["value"] == pytest.approx(-0.8)
    assert (check["budget"], check["n_targets"]) == (0.01, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"targets": ("decoder.w1",)}, "targets"),
        ({"budgets": (0.0,)}, "budgets"),
        ({"budgets": ()}, "budgets"),
        ({"rank_together": 99}, "1..32"),
    ],
)
def test_bad_settings_are_one_clear_error(values, message) -> None:
    with pytest.raises(ConfigError, match=message):
        AblationConfig(**values)


@pytest.mark.slow
def test_a_training_is_run_once(tmp_path, random_backbone_folder, short_meta, capfd) -> None:
    config = AblationConfig(
        meta=short_meta, targets=("decoder.fc1",), steps=1, lrs=(0.001, 0.1), runs=tmp_path
    )
    trials = [Trial("decoder.fc1", 0.01, 1, 1, 0.01), Trial("decoder.fc1", 1e-6, 0, 1, 0.01)]
    models = train(trials, config)
    assert set(models) == {"decoder.fc1-r1"}
    head = json.loads((models["decoder.fc1-r1"] / "config.json").read_text())
    assert head["source"]["settings"]["rank"] == 1
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert train(trials, config) == models
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
