"""Recorded cohorts of free names through every program: with and without severities, one of a
single speaker, nothing simulated; and what is refused before anything is decoded."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf

from eval import (
    calibration,
    comparison,
    report,
    subspace_angles,
    zero_shot,
)
from eval.leave_one_cohort_out import LocoConfig, cohorts_of, fold_scores, rows_of
from eval.lib.bench import Bench
from eval.lib.embedding_controls import CONTROLS
from eval.lib.runs import fold_runs
from eval.lib.testset import fixed_views
from eval.sweep import SweepConfig, points_table, sweep_rows
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.cohorts.views import render_view
from hyperasr.errors import ConfigError
from hyperasr.types import Utterance
from tests.eval.running import run_program
from tests.in_this_process import InThisProcess

pytestmark = pytest.mark.slow

FOUND = {("als", "recorded"), ("cerebral_palsy", "recorded"), ("typical", "recorded")}
ALONE = "one speaker: no interval"
LABELS = ("cohort", "domain")


def of(rows: list[dict[str, Any]], *fields: str, **where: Any) -> set[Any]:
    """Return the values of some fields, of rows with these values."""
    chosen = [r for r in rows if all(r.get(k) == v for k, v in where.items())]
    return {tuple(r.get(f) for f in fields) for r in chosen}


@pytest.fixture(scope="module")
def folders(systems) -> dict[str, Path]:
    return {name: systems[name] for name in ("global_lora", "hypernet")}


@pytest.fixture
def run(patients, folders, random_backbone_folder, tmp_path, monkeypatch, capsys):
    """Run a program on the patients and return its rows, and what it printed."""

    def start(program: Any, simulate: tuple[str, ...] = (), **values: Any) -> tuple[list, str]:
        test = values.pop("bench.test", patients.test)
        config = patients.config(random_backbone_folder, folders, simulate=simulate, test=test)
        content = run_program(program, config, tmp_path, monkeypatch, **values)
        return content["rows"], capsys.readouterr().out

    return start


@pytest.fixture
def own(patients, folders, random_backbone, random_backbone_folder) -> Bench:
    config = patients.config(random_backbone_folder, folders, simulate=())
    return Bench(config, random_backbone)


def test_zero_shot(run, caplog) -> None:
    rows, printed = run(zero_shot)
    assert of([r for r in rows if "errors" in r], "metric", "protocol") == {
        ("wer", "spoken"),
        ("cer", "spoken"),
    }
    assert of(rows, "system", measure="excess_recovered") >= {("global_lora",), ("hypernet",)}
    errors = [r for r in rows if "errors" in r and r["metric"] == "wer" and "severity" not in r]
    headline = [r for r in errors if "corpus" not in r]
    # Two recorded cohorts come together too.
    assert of(headline, *LABELS) == FOUND | {("atypical", "recorded")}
    assert of(headline, "n_utterances", cohort="atypical") == {(8,)}
    assert of(errors, *LABELS, corpus="clinic") == {("als", "recorded")}
    assert of(errors, *LABELS, corpus="home") == FOUND - {("als", "recorded")}
    assert of(headline, "low", "reason", cohort="cerebral_palsy") == {(None, ALONE)}
    levels = [r for r in rows if r.get("severity") is not None]
    assert of(levels, "cohort", "severity") == {("als", 0.25), ("als", 0.75)}
    # What was found stands before the tables, and so does why a control is left out.
    assert printed.index("cerebral_palsy") < printed.index("wer in percent")
    assert "simulated on typical recordings: nothing" in printed
    assert "als, recorded" in printed
    (line,) = (line for line in caplog.messages if "'cohort_mean' is left out" in line)
    assert "the cohort 'cerebral_palsy' has one speaker" in line
    systems = {r["system"] for r in errors}
    assert {f"hypernet_{c}" for c in CONTROLS if c != "cohort_mean"} < systems
    assert "hypernet_cohort_mean" not in systems


def test_recorded_and_simulated_beside_each_other(run, tmp_path, monkeypatch) -> None:
    rows, printed = run(zero_shot, ("stuttering", "parkinson"))
    headline = [r for r in rows if "errors" in r and "corpus" not in r]
    simulated = {(c, "simulated") for c in ("stuttering", "parkinson", "atypical")}
    assert of(headline, *LABELS) == FOUND | {("atypical", "recorded")} | simulated
    assert "simulated on typical recordings: stuttering, parkinson" in printed
    # The same rows as a page.
    arguments = ["--results", str(tmp_path), "--out", str(tmp_path / "page" / "report.html")]
    monkeypatch.setattr(sys, "argv", ["eval.report", *arguments])
    report.main()
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert "als, recorded" in page
    assert "stuttering, simulated" in page
    assert "atypical, recorded" in page


def test_calibration(run) -> None:
    rows, printed = run(calibration, n_resamples=20)
    words = [r for r in rows if r.get("level") == "word"]
    assert of(words, *LABELS) <= FOUND | {("atypical", "recorded"), ("everybody", None)}
    assert ("als", "recorded") in of(words, *LABELS)
    assert "confidence of words, atypical, recorded" in printed


def test_angles(run) -> None:
    angles = {"ranks": [1], "weight_ranks": [2], "n_null": 20, "n_splits": 2, "n_resamples": 10}
    rows, _ = run(subspace_angles, angles=angles, per_person=2)
    found = [r for r in rows if r["measure"] == "angle" and r["system"] == "hypernet"]
    assert of(found, "cohort", "domain") == FOUND
    assert ("als", "recorded", "typical", "recorded") in of(
        found, "cohort", "domain", "with_cohort", "with_domain"
    )
    halves = of(found, "cohort", level="cohort", relation="split_half")
    assert halves == {("als",), ("typical",)}, "one speaker has no halves"
    alone = [r for r in found if r["cohort"] == "cerebral_palsy" == r["with_cohort"]]
    assert of(alone, "reason", level="utterance") == {(ALONE,)}


def test_a_sweep_falls_back_on_the_only_cohort(own) -> None:
    rows = [i for i, c in enumerate(own.column("cohort")) if c in ("als", "typical")]
    scores = own.scores(["backbone", "global_lora"], rows)
    config = SweepConfig(reference=Path("global_lora.yaml"), grid={"beta": (0.5,), "sigma": (0.1,)})
    made = sweep_rows(scores, (), config)
    assert of(made, *LABELS) >= {("als", "recorded"), ("typical", "recorded")}
    point = [{**row, "beta": 0.5, "sigma": 0.1} for row in made if row["system"] != "backbone"]
    backbone = [row for row in made if row["system"] == "backbone"]
    assert "WER, als, recorded" in points_table([*backbone, *point]).header


@pytest.fixture
def training(patients, random_backbone_folder, tmp_path) -> Path:
    """A configuration of `train.meta` on the patients, two cohorts of whom are simulated too."""
    values = {
        "backbone": str(random_backbone_folder),
        "train": str(patients.train),
        "dev": str(patients.train),
        "must_help": False,
        "simulate": ["stuttering", "dysarthria"],
        "out": str(tmp_path / "full"),
    }
    (tmp_path / "train.yaml").write_text(json.dumps(values))
    return tmp_path / "train.yaml"


def test_cohorts_to_leave_out(patients, training, random_backbone_folder, capsys) -> None:
    bench = patients.config(random_backbone_folder, {}, simulate=("stuttering", "parkinson"))
    config = LocoConfig(bench=bench, sources={"global_lora": training})
    # Those that the training and the test have.
    assert cohorts_of(config) == ["stuttering", "als", "cerebral_palsy"]
    printed = capsys.readouterr().out
    assert "cerebral_palsy" in printed
    assert "simulated on typical recordings: stuttering, dysarthria" in printed
    assert cohorts_of(replace(config, cohorts=("als",))) == ["als"]
    with pytest.raises(ConfigError, match="has no cohort 'dysarthria' to test a fold"):
        cohorts_of(replace(config, cohorts=("dysarthria",)))
    alone = replace(bench, test=typical_alone(patients, training), simulate=("parkinson",))
    with pytest.raises(ConfigError, match="no cohort is both in the trainings and in"):
        cohorts_of(replace(config, bench=alone))


def typical_alone(patients: Any, beside: Path) -> Path:
    path = beside.parent / "typical.jsonl"
    rows = [u for u in read_manifest(patients.test) if u.cohort == "typical"]
    write_manifest(path, [replace(u, path=str(Path(u.path).resolve())) for u in rows])
    return path


def test_folds_keep_every_other_cohort(patients, training, tmp_path) -> None:
    (run,) = fold_runs("als", {"global_lora": training}, tmp_path)
    assert run.config.cohorts == ("stuttering", "dysarthria", "cerebral_palsy", "typical")
    with pytest.raises(
        ConfigError, match=r"no cohort 'parkinson' to leave out of .*cerebral_palsy"
    ):
        fold_runs("parkinson", {"global_lora": training}, tmp_path)
    alone = [u for u in read_manifest(patients.train) if u.cohort == "als"]
    write_manifest(tmp_path / "als.jsonl", alone)
    values = json.loads(training.read_text()) | {"train": str(tmp_path / "als.jsonl")}
    training.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"without 'als' nothing is left of .*als\.jsonl"):
        fold_runs("als", {"global_lora": training}, tmp_path)


def test_a_recorded_cohort_left_out_is_scored(own, folders, training, tmp_path) -> None:
    """Recorded and simulated rows of one name are held out together."""
    scores = {}
    for held_out in ("als", "cerebral_palsy"):
        (run,) = fold_runs(held_out, {"global_lora": training}, tmp_path)
        link = run.best
        link.parent.mkdir(parents=True)
        link.symlink_to(folders["global_lora"])
        scores[held_out] = fold_scores(own, [run], "wer")
    rows = rows_of(scores)
    assert of(rows, "cohort", "domain", "held_out", corpus=None) == {
        ("atypical", "recorded", "each"),
        ("als", "recorded", "als"),
        ("typical", "recorded", "als"),
        ("cerebral_palsy", "recorded", "cerebral_palsy"),
        ("typical", "recorded", "cerebral_palsy"),
    }


def test_what_cannot_be_tested_is_one_clear_line(
    patients, random_backbone_folder, tmp_path
) -> None:
    rows = [replace(u, path=str(Path(u.path).resolve())) for u in read_manifest(patients.test)]
    manifest = tmp_path / "test.jsonl"
    config = patients.config(random_backbone_folder, {}, test=manifest)

    def refused(match: str, **change: Any) -> None:
        made = [replace(u, **change) if u.cohort == "als" else u for u in rows]
        write_manifest(manifest, made)
        with pytest.raises(ConfigError, match=match) as found:
            Bench(config)
        assert "\n" not in str(found.value)

    refused(r"'als' \(sep28k\) has a text.*add transcripts, or take", text=None, source="sep28k")
    refused("a cohort cannot be called 'atypical'", cohort="atypical")
    with pytest.raises(ConfigError, match="no cohort 'als' to simulate"):
        replace(config, simulate=("als",))
    with pytest.raises(ConfigError, match="it holds 'backbone' and may hold backbone_plain"):
        replace(config, unadapted=("backbone_plain",))
    with pytest.raises(ConfigError, match="cannot be called 'backbone_plain'"):
        replace(config, systems={"backbone_plain": tmp_path})


def test_only_atypical_rows_are_a_warning_and_go_on(
    run, patients, tmp_path, caplog, monkeypatch
) -> None:
    rows = [u for u in read_manifest(patients.test) if u.cohort == "als"]
    rows = [replace(u, path=str(Path(u.path).resolve())) for u in rows]
    manifest = tmp_path / "als.jsonl"
    others = replace(rows[0], id="silent", text=None), replace(rows[0], id="it", language="it")
    write_manifest(manifest, [*rows, *others])
    for program in (comparison, zero_shot):
        caplog.clear()
        made, printed = run(program, ("stuttering",), **{"bench.test": str(manifest)})
        warned = [m for m in caplog.messages if "has no typical speech" in m]
        assert len(warned) == 1
        assert any("1 recordings without text are left out" in m for m in caplog.messages)
        assert any("1 recordings in other languages than" in m for m in caplog.messages)
        assert of(made, "cohort", metric="wer") == {("als",)}
        assert "simulated on typical recordings: nothing" in printed


def test_what_lasts_more_than_whisper_hears_is_left_out(
    patients, voice, random_backbone_folder, tmp_path, monkeypatch, caplog
) -> None:
    """Simulated views are as long as simulating makes them; that is found out once."""
    rows = []
    for name, seconds in (("short", 1.0), ("middle", 20.0), ("long", 31.0)):
        sf.write(tmp_path / f"{name}.wav", voice(seconds), 16_000)
        text = "please write " * int(seconds)
        rows.append(Utterance(name, f"{name}.wav", text, "a", split="dev"))
    write_manifest(tmp_path / "dev.jsonl", rows)
    config = patients.config(
        random_backbone_folder, {}, test=tmp_path / "dev.jsonl", store=tmp_path / "store"
    )
    monkeypatch.setattr("eval.lib.testset.WorkerPool", InThisProcess)
    monkeypatch.setattr("eval.lib.testset.SEVERITIES", (1.0,))
    views = fixed_views(config)
    lengths = {v.id: len(render_view(v)[0]) / 16_000 for v in views}
    assert max(lengths.values()) <= 30
    kept = {(v.utterance.id, v.cohort) for v in views}
    assert {("short", "stuttering"), ("short", "typical"), ("middle", "typical")} <= kept
    assert ("middle", "stuttering") not in kept
    assert "1 recordings of more than 30 s are left out" in caplog.text
    assert "simulated ones of more than 30 s are left out" in caplog.text
    monkeypatch.setattr("eval.lib.testset.render_view", None)
    assert fixed_views(config) == views
