"""Folds of leave-one-cohort-out: nothing of the held-out cohort reaches a training."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eval.leave_one_cohort_out import LocoConfig, fold_scores, rows_of
from eval.lib.bench import Bench
from eval.lib.runs import fold_runs, is_finished, prepare, train_all
from eval.lib.scores import Scores
from hyperasr.errors import ConfigError
from hyperasr.hub import HyperASR
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.metrics.protocols import protocol
from train import meta


@pytest.fixture(scope="module")
def yamls(world, random_backbone_folder, tmp_path_factory) -> dict[str, Path]:
    """Configurations of a global LoRA and of a hypernetwork that starts from it, three steps."""
    folder = tmp_path_factory.mktemp("yamls")
    small = {"rank": 2, "d_hidden": 16, "d_layer_emb": 4, "n_hidden": 1}
    sources = {
        "global_lora": {"kind": "static", "settings": {"by": "global", "rank": 2}},
        "hypernet": {"kind": "hypernet", "settings": small},
    }
    paths = {}
    for name, source in sources.items():
        values = {
            "backbone": str(random_backbone_folder),
            "train": str(world.train),
            "dev": str(world.train),
            "must_help": False,
            "cache": str(world.folder / "cache"),
            "out": str(folder / "full" / name),
            "source": source,
            "batch_size": 4,
            "workers": 1,
            "keep_mel": True,
            "loop": {
                "steps": 3,
                "eval_every": 3,
                "save_every": 3,
                "log_every": 1,
                "lr": 0.02,
                "tracker": "none",
            },
        }
        if name == "hypernet":
            values["init_from"] = str(folder / "full" / "global_lora" / "best")
        paths[name] = folder / f"{name}.yaml"
        paths[name].write_text(json.dumps(values))  # JSON is YAML
    return paths


def test_runs_of_a_fold(yamls, tmp_path) -> None:
    runs = fold_runs("dysarthria", yamls, tmp_path)
    assert [run.system for run in runs] == ["global_lora", "hypernet"]
    for run in runs:
        assert run.config.cohorts == ("stuttering", "parkinson", "typical")
        assert run.config.out == tmp_path / "dysarthria" / run.system
    # The start is the fold's own global LoRA; the full run's has seen dysarthria.
    assert runs[1].config.init_from == runs[0].best
    assert "--init_from" in runs[1].arguments
    assert "--init_from" not in runs[0].arguments


def test_a_start_that_may_have_seen_the_cohort_is_refused(yamls, tmp_path) -> None:
    with pytest.raises(ConfigError, match="which may have seen stuttering"):
        fold_runs("stuttering", {"hypernet": yamls["hypernet"]}, tmp_path)
    backwards = dict(reversed(yamls.items()))
    with pytest.raises(ConfigError, match="list the configuration of that run before it"):
        fold_runs("stuttering", backwards, tmp_path)
    for cohort in ("typical", "als"):
        with pytest.raises(ConfigError, match=f"no cohort '{cohort}' to leave out of .*parkinson"):
            fold_runs(cohort, yamls, tmp_path)


def test_a_failed_training_says_where_to_look(yamls, tmp_path, monkeypatch) -> None:
    (run, _) = fold_runs("stuttering", yamls, tmp_path)
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(ConfigError, match=r"training global_lora without stuttering ended with"):
        run.train()
    monkeypatch.setattr("eval.lib.runs.prepare", lambda runs: None)
    with pytest.raises(ConfigError, match=r"see .*log.txt and run the same command again"):
        train_all([[run]], processes=2)


@pytest.mark.slow
def test_folds_train_without_the_cohort_resume_and_are_scored(
    world, systems, bench, yamls, random_backbone, train_here, tmp_path, monkeypatch
) -> None:
    seen: dict[str, set[str]] = {}
    draw = meta.Views.__call__

    def watched(self, number):
        batch = draw(self, number)
        seen.setdefault(str(self.config.out), set()).update(batch.cohorts)
        return batch

    monkeypatch.setattr(meta.Views, "__call__", watched)
    fold = fold_runs("stuttering", yamls, tmp_path)
    assert not any(map(is_finished, fold))
    prepare(fold)
    caches = sorted((world.folder / "cache").iterdir())
    train_all([fold])
    assert all(map(is_finished, fold))
    assert len(seen) == 2
    assert all(found == {"dysarthria", "parkinson", "typical"} for found in seen.values())
    assert sorted((world.folder / "cache").iterdir()) == caches, "a fold made a cache of its own"
    # Statistics are of the training part alone: of the rows without the cohort.
    hypernet = HyperASR.from_pretrained(fold[1].best, backbone=random_backbone)
    views = meta.Views(fold[1].config, random_backbone)
    rows = views.cache
    assert "stuttering" not in rows.meta["cohort"]
    torch.testing.assert_close(hypernet.source.emb_mean, rows.embeddings().mean(0))
    everything = meta.Views(replace(fold[1].config, cohorts=()), random_backbone).cache
    assert len(everything) > len(rows)
    assert not torch.allclose(hypernet.source.emb_mean, everything.embeddings().mean(0))
    # A finished fold is not trained again; other settings are not taken for it.
    seen.clear()
    train_all([fold])
    assert not seen
    elsewhere = replace(fold[0].config, workers=7)
    assert is_finished(replace(fold[0], config=elsewhere))
    (path,) = fold[0].config.out.glob("state-*/state.json")
    head = json.loads(path.read_text())
    del head["settings"]["encode_on"]  # trained before there was such a setting
    path.write_text(json.dumps(head))
    assert is_finished(fold[0])
    for other in ({"lr": 0.5}, {"accumulate": 2}):
        loop = replace(fold[0].config.loop, **other)
        assert not is_finished(replace(fold[0], config=replace(fold[0].config, loop=loop)))
    oracles = {name: systems[name] for name in ("cohort_lora", "hypernet")}
    config = replace(bench.config, systems=oracles, controls_of=("hypernet",))
    scores = fold_scores(Bench(config, random_backbone), fold, "wer")
    assert set(scores.meta["cohort"]) == {"stuttering", "typical"}
    assert list(scores.counts)[:6] == [
        "backbone",
        "cohort_lora_oracle",
        "hypernet_oracle",
        "global_lora",
        "hypernet",
        "hypernet_shuffled",
    ]
    chosen = [i for i, v in enumerate(bench.views) if v.cohort in ("stuttering", "typical")]
    oracle = bench.scores(["hypernet"], chosen)
    assert scores.counts["hypernet_oracle"] == oracle.counts["hypernet"]


def made(held_out: str, wrong: int) -> Scores:
    """Two speakers say ten words each, in the held-out cohort and typically."""
    cohorts = [held_out, "typical"] * 2
    meta_columns = {
        "speaker": ["ann", "ann", "bob", "bob"],
        "cohort": cohorts,
        "domain": ["simulated", "recorded"] * 2,
        "source": ["an4"] * 4,
    }
    better = [EditCounts(10 - wrong, wrong) if c == held_out else EditCounts(10) for c in cohorts]
    counts = {
        "backbone": [EditCounts(5, 5)] * 4,
        "global_lora": [EditCounts(7, 3)] * 4,
        "hypernet": better,
    }
    return Scores(protocol("spoken"), "wer", meta_columns, counts)


def test_rows_of_the_table() -> None:
    folds = {"stuttering": made("stuttering", 1), "parkinson": made("parkinson", 2)}
    rows = rows_of(folds)
    cells = {
        (r["system"], r.get("against"), r["cohort"], r["held_out"], r["domain"], r.get("corpus")): r
        for r in rows
    }
    assert len(cells) == len(rows)
    pooled = cells["hypernet", None, "atypical", "each", "simulated", None]
    assert pooled["value"] == pytest.approx(0.15)
    assert pooled["n_utterances"] == 4
    assert cells["hypernet", None, "stuttering", "stuttering", "simulated", None]["value"] == 0.1
    assert cells["hypernet", None, "parkinson", "parkinson", "simulated", None]["value"] == 0.2
    assert cells["hypernet", None, "typical", "parkinson", "recorded", None]["value"] == 0.0
    gap = cells["hypernet", "global_lora", "atypical", "each", "simulated", None]
    assert gap["value"] == pytest.approx(-0.15)
    assert {r["n_comparisons"] for r in rows if r.get("p") is not None} == {15}


def test_without_a_source_there_is_nothing_to_train() -> None:
    with pytest.raises(ConfigError, match="at least one source and process"):
        LocoConfig(processes=0)
