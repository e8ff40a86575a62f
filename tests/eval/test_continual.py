"""Continual adaptation: what starts where, and two cohorts in two steps each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval import continual
from eval.continual import ContinualConfig, chains
from hyperasr.errors import ConfigError
from hyperasr.hub import HyperASR
from hyperasr.util.config import parse
from tests.eval.running import run_program

ROOT = Path(__file__).parents[2]


def test_each_stage_starts_where_the_one_before_ended(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    made = chains(parse(ContinualConfig, ["--config", "eval/configs/continual.yaml"]))
    assert list(made) == ["lora", "vi_lora", "vi_lora_posterior"]
    for name, (first, *others) in made.items():
        assert first.config.init_from is None
        assert [run.config.cohorts for run in (first, *others)] == [
            ("stuttering",),
            ("dysarthria",),
            ("parkinson",),
            ("nonnative",),
        ]
        before = first
        for run in others:
            assert run.config.init_from == before.best
            settings = run.config.source.settings
            kept = first.config.source.settings.get("prior")
            assert settings.get("prior") == ("posterior" if "posterior" in name else kept)
            assert settings["rank"] == first.config.source.settings["rank"]
            before = run


def test_too_little_to_learn() -> None:
    with pytest.raises(ConfigError, match="at least two cohorts"):
        ContinualConfig(sources={"lora": Path("x")}, cohorts=("stuttering",))
    with pytest.raises(ConfigError, match="posterior has 'vi', which is not among"):
        ContinualConfig(sources={"lora": Path("x")}, posterior=("vi",))


@pytest.mark.slow
def test_two_cohorts_of_two_steps(
    short_meta, world, random_backbone, random_backbone_folder, train_here, tmp_path, monkeypatch
) -> None:
    base = json.loads(short_meta.read_text())
    sources = {}
    for name, kind, settings in (
        ("lora", "static", {"by": "global", "rank": 2}),
        ("vi_lora", "vi_lora", {"rank": 2, "prior": "single"}),
        ("vi_lora_kept", "vi_lora", {"rank": 2, "prior": "single"}),
    ):
        own = {**base, "source": {"kind": kind, "settings": settings}, "objective": {"beta": 0.1}}
        sources[name] = str(tmp_path / f"{name}.yaml")
        Path(sources[name]).write_text(json.dumps(own))
    content = run_program(
        continual,
        world.config(random_backbone_folder, {}),
        tmp_path,
        monkeypatch,
        sources=sources,
        posterior=["vi_lora"],
        cohorts=["stuttering", "parkinson"],
        steps=2,
        options={"loop.tracker": "none"},
        processes=1,
        runs=str(tmp_path / "runs"),
    )
    cohorts = ("stuttering", "parkinson", "typical")
    stages = {f"{name}:{stage}" for name in sources for stage in ("1-stuttering", "2-parkinson")}
    rates = {(row["system"], row["cohort"]) for row in content["rows"] if "against" not in row}
    assert rates == {(name, cohort) for name in ("backbone", *stages) for cohort in cohorts}
    differences: dict[str, set[tuple[str, ...]]] = {}
    for row in content["rows"]:
        if "against" in row:
            pair = (row["system"], row["against"], row["cohort"])
            differences.setdefault(row["compared"], set()).add(pair)
    assert differences["forgotten"] == {
        (f"{name}:2-parkinson", f"{name}:1-stuttering", cohort)
        for name in sources
        for cohort in ("stuttering", "typical")
    }
    assert differences["methods"] == {
        (f"{name}:2-parkinson", "lora:2-parkinson", cohort)
        for name in ("vi_lora", "vi_lora_kept")
        for cohort in cohorts
    }
    last = HyperASR.from_pretrained(
        tmp_path / "runs/vi_lora/2-parkinson/best", backbone=random_backbone
    )
    first = HyperASR.from_pretrained(
        tmp_path / "runs/vi_lora/1-stuttering/best", backbone=random_backbone
    )
    (mean,) = (v for n, v in last.source.named_buffers() if n.startswith("prior_A_"))
    (learned,) = first.source.A.values()
    assert (mean == learned).all()
