"""What is trained on: typical rows simulated on, all others as recorded, and nothing silently."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch
from accelerate import Accelerator

from hyperasr.adapters import SourceConfig
from hyperasr.adapters.objective import ObjectiveConfig
from hyperasr.cohorts.cache import Cache
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.cohorts.simulate import COHORTS
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError
from hyperasr.types import Utterance
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.weights import ASSETS
from train import individual, meta
from train.config import LoopConfig, MetaConfig
from train.data.views import (
    check_text,
    development_plan,
    trainable,
    training_plan,
    training_plans,
    usable,
)
from train.meta import data_of, judge_of, with_groups

HERE = Path("m.jsonl")


def rows_of(**cohorts: int) -> list[Utterance]:
    """Return so many rows of 1 s of each cohort, of two speakers each; without files."""
    return [
        Utterance(f"{c}{i}", f"/{c}{i}.wav", "hi", f"{c}-{i % 2}", c, end_s=1.0, source="x")
        for c, n in cohorts.items()
        for i in range(n)
    ]


@pytest.fixture
def patients(corpus: Path, tmp_path: Path) -> Path:
    """Folder of manifests: the typical corpus, two people with ALS (one in dev), one with stroke
    (in train alone)."""
    noise = np.random.default_rng(0)
    for split, people in (("train", {"P1": "als", "P2": "stroke"}), ("dev", {"P3": "als"})):
        rows = read_manifest(corpus / f"{split}.jsonl")
        for speaker, cohort in people.items():
            for i in range(2):
                path = tmp_path / f"{speaker}-{i}.wav"
                sf.write(path, noise.normal(0, 0.1, 12_000), 16_000)
                rows.append(
                    Utterance(
                        path.stem,
                        str(path),
                        "yes no",
                        speaker,
                        cohort,
                        split=split,
                        source="clinic",
                    )
                )
        write_manifest(tmp_path / f"{split}.jsonl", rows)
        atypical = [row for row in rows if row.cohort != TYPICAL]
        write_manifest(tmp_path / f"{split}-atypical.jsonl", atypical)
    return tmp_path


@pytest.fixture
def config(patients: Path, random_backbone_folder: Path) -> Callable[..., MetaConfig]:
    def make(suffix: str = "", **values) -> MetaConfig:
        return MetaConfig(
            **{
                "backbone": str(random_backbone_folder),
                "train": patients / f"train{suffix}.jsonl",
                "dev": patients / f"dev{suffix}.jsonl",
                "must_help": False,
                "cache": patients / "cache",
                "out": patients / "run",
                "batch_size": 4,
                "workers": 1,
                "simulate": ("stuttering",),
                "loop": LoopConfig(steps=2, eval_every=2, save_every=2, tracker="none"),
                **values,
            }
        )

    return make


def test_the_log_says_what_was_found_and_what_is_simulated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = rows_of(typical=4, als=3)
    rows[4] = replace(rows[4], domain="simulated")
    with caplog.at_level(logging.INFO):
        assert trainable(rows, HERE, ("parkinson",)) == rows
        trainable(rows[:4], HERE, ())
    assert [record.getMessage() for record in caplog.records] == [
        "m.jsonl: als, recorded: 2 recordings of 2 speakers, 0.0 min",
        "m.jsonl: als, simulated: 1 recordings of 1 speakers, 0.0 min",
        "m.jsonl: typical, recorded: 4 recordings of 2 speakers, 0.1 min; simulated on: parkinson",
        "m.jsonl: typical, recorded: 4 recordings of 2 speakers, 0.1 min",
    ]


def test_only_what_is_simulated_on_must_be_short(caplog: pytest.LogCaptureFixture) -> None:
    rows = [replace(row, end_s=25.0) for row in rows_of(typical=2, als=2)]
    rows += [replace(row, id=f"l{row.id}", end_s=31.0) for row in rows[2:]]
    rows += [replace(rows[2], id="silent", text=None)]
    assert [row.id for row in trainable(rows, HERE, COHORTS)] == ["als0", "als1"]
    found = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert found[:3] == [
        "m.jsonl: 2 of 5 als recordings left out, of more than 30 s",
        "m.jsonl: 1 of 5 als recordings left out, without text",
        "m.jsonl: 2 of 2 typical recordings left out, of more than 20 s",
    ]
    assert "there is no typical speech" in found[3]
    assert [row.id for row in trainable(rows, HERE, ())] == ["typical0", "typical1", "als0", "als1"]


def test_only_english_is_trained_on(caplog: pytest.LogCaptureFixture) -> None:
    rows = rows_of(typical=3, als=2)
    rows[0] = replace(rows[0], language="de")
    rows[1] = replace(rows[1], language="en-GB")
    assert trainable(rows, HERE, ()) == rows[1:]
    assert "m.jsonl: 1 of 3 typical recordings left out, not in English" in caplog.text
    with pytest.raises(ConfigError, match="has no utterance in English with text of at most 30 s"):
        usable([replace(row, language="it") for row in rows], HERE, ())


def test_a_cohort_without_text_is_refused_with_the_reason() -> None:
    clips = [replace(row, text=None, source="sep28k") for row in rows_of(stuttering=3)]
    with pytest.raises(ConfigError) as caught:
        trainable([*rows_of(typical=2), *clips], HERE, COHORTS)
    assert "none of the 3 recordings of the cohort 'stuttering' (sep28k) has a text" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
    check_text([*clips, *rows_of(stuttering=1)], HERE)


def test_plans_simulate_what_is_asked_for_and_on_typical_rows_alone() -> None:
    rows = rows_of(typical=8, als=2, dysarthria=2)
    config = MetaConfig(simulate=("dysarthria",))
    for views in (training_plan(config, rows), development_plan(rows, ("dysarthria",))):
        assert {v.utterance.cohort for v in views if v.simulates} == {TYPICAL}
        assert {v.cohort for v in views if v.simulates} == {"dysarthria"}
        own = [v for v in views if v.utterance.cohort != TYPICAL]
        assert [(v.id, v.domain) for v in own] == [
            (f"{row.id}/{row.speaker}/unknown/0", "recorded") for row in rows[8:]
        ]
    half = [v for v in training_plan(config, rows) if v.cohort == TYPICAL]
    assert 0 < len(half) < 8
    as_recorded = training_plan(MetaConfig(simulate=()), rows)
    assert [v.utterance for v in as_recorded] == rows, "nothing is left out without simulation"
    assert {v.cohort for v in development_plan(rows, COHORTS)} == {*COHORTS, TYPICAL, "als"}
    with pytest.raises(ConfigError, match="no cohort 'als' to simulate"):
        MetaConfig(simulate=("als",))


def test_verbatim_texts_are_what_is_heard(
    config: Callable[..., MetaConfig],
    random_backbone: Backbone,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clips = [c for c in read_manifest(ASSETS / "demo" / "manifest.jsonl") if c.cohort == TYPICAL]
    write_manifest(tmp_path / "clips.jsonl", clips)
    places = {name: tmp_path / "clips.jsonl" for name in ("train", "dev")}
    intended = data_of(config(**places), random_backbone, Accelerator())
    for _ in range(2):
        caplog.clear()
        verbatim = config(**places, writing="verbatim")
        heard = data_of(verbatim, random_backbone, Accelerator())
    assert "verbatim texts" not in caplog.text, "they are made once"
    for before, after in ((intended[0].cache, heard[0].cache), (intended[1], heard[1])):
        rows = list(zip(after.meta["cohort"], before.meta["text"], after.meta["text"], strict=True))
        assert {cohort for cohort, meant, said in rows if meant != said} == {"stuttering"}
        assert all(len(said.split()) >= len(meant.split()) for _, meant, said in rows)
        tokens = after.batch([rows.index(row) for row in rows]).tokens
        assert tokens is not None
        assert [random_backbone.text(own) for own in tokens] == [said for *_, said in rows]


def test_people_with_mixed_traits_have_a_plan_of_their_own(tmp_path: Path) -> None:
    manifest = tmp_path / "rows.jsonl"
    write_manifest(manifest, rows_of(typical=8, als=2))
    mixture = "dysarthria+stuttering"
    plain, mixed = training_plans(MetaConfig(simulate=("parkinson", mixture)), manifest)
    assert [plain] == training_plans(MetaConfig(simulate=("parkinson",)), manifest)
    assert {view.cohort for view in plain} == {TYPICAL, "als", "parkinson"}
    assert [view.cohort for view in mixed] == [mixture] * 8


def test_recorded_cohorts_are_trained_on_beside_simulated_ones(
    config: Callable[..., MetaConfig], random_backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    views, dev = data_of(config(), random_backbone, Accelerator())
    cache = views.cache
    domains = dict(zip(cache.meta["cohort"], cache.meta["domain"], strict=True))
    recorded = dict.fromkeys(("als", "stroke", TYPICAL), "recorded")
    assert domains == {"stuttering": "simulated", **recorded}
    assert set(dev.meta["cohort"]) == {"als", "stuttering", TYPICAL}
    assert "nobody of the cohort stroke to choose a checkpoint by" in caplog.text
    counts = {c: 0 for c in domains}
    for number in range(8):
        for cohort in views(number).cohorts:
            counts[cohort] += 1
    assert set(counts.values()) == {8}, "every cohort weighs the same"


def test_a_cohort_that_is_left_out_may_be_all_that_development_lacks(
    config: Callable[..., MetaConfig], random_backbone: Backbone
) -> None:
    """Folds of leaving one cohort out name every other one, whoever is in the development set."""
    kept = config(cohorts=("stroke", "stuttering", TYPICAL))
    views, dev = data_of(kept, random_backbone, Accelerator())
    assert set(views.cache.meta["cohort"]) == set(kept.cohorts)
    assert set(dev.meta["cohort"]) == {"stuttering", TYPICAL}
    judge = judge_of(replace(kept, must_help=True), random_backbone, Accelerator(), dev)
    assert judge is not None
    assert set(judge.unadapted) == {"stuttering", TYPICAL}, "as the checkpoint is chosen"
    with pytest.raises(ConfigError, match="has nobody of the cohorts stroke to choose"):
        data_of(config(cohorts=("stroke",)), random_backbone, Accelerator())
    with pytest.raises(ConfigError, match="no row is of the cohort 'palsy'"):
        data_of(config(cohorts=("palsy",)), random_backbone, Accelerator())


def test_factors_by_cohort_are_of_the_cohorts_found(
    config: Callable[..., MetaConfig], random_backbone: Backbone
) -> None:
    source = SourceConfig("static", settings={"by": "cohort"})
    by_cohort = config(source=source, cohorts=("als", TYPICAL))
    views, dev = data_of(by_cohort, random_backbone, Accelerator())
    made = with_groups(source, views.cache)
    assert (made.settings or {})["groups"] == ["als", TYPICAL]
    assert set(dev.meta["cohort"]) == {"als", TYPICAL}


def test_without_typical_speech_it_goes_on_with_a_warning(
    config: Callable[..., MetaConfig],
    random_backbone: Backbone,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing to penalise harm to typical speech on, nothing to simulate on; still a model."""
    best = meta.run(config("-atypical", objective=ObjectiveConfig(typical_penalty=3.0)))
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == best
    assert set(best) == {"als", "score", "step"}
    assert caplog.text.count("harm done to typical speech is neither measured nor penalised") == 2
    folders = sorted(config().cache.iterdir())
    for folder in folders:
        assert set(Cache([folder], random_backbone).meta["domain"]) == {"recorded"}


def test_the_judge_decodes_where_the_training_does(
    config: Callable[..., MetaConfig],
    random_backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    happened: list[object] = []
    monkeypatch.setattr(Backbone, "to", lambda self, device: happened.append(device) or self)
    monkeypatch.setattr(meta, "evaluate", lambda *_, **__: happened.append("decoded") or {})
    judged, accelerator = config(must_help=True), Accelerator()
    _, dev = data_of(judged, random_backbone, accelerator)
    on_gpu = SimpleNamespace(
        device=torch.device("cuda"), main_process_first=accelerator.main_process_first
    )
    assert judge_of(judged, random_backbone, on_gpu, dev)
    assert happened[-3:] == [on_gpu.device, "decoded", torch.device("cpu")]


@pytest.mark.parametrize("settings", [{"teacher": 1.0}, {"negatives": 8}, {"l2": 0.1}])
def test_enrolment_refuses_settings_without_effect(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"objective.{next(iter(settings))} has no effect"):
        individual.IndividualConfig(objective=ObjectiveConfig(**settings))


def test_people_of_any_cohort_enrol_with_their_own_recordings(
    patients: Path,
    random_backbone_folder: Path,
    random_backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(individual, "COHORTS", ("parkinson",))
    config = individual.IndividualConfig(
        backbone=str(random_backbone_folder),
        manifest=patients / "train.jsonl",
        cache=patients / "cache",
        workers=1,
    )
    people = individual.people_of(config, random_backbone)
    known = set(zip(people.meta["cohort"], people.meta["domain"], strict=True))
    recorded = {(cohort, "recorded") for cohort in ("als", "stroke", TYPICAL)}
    assert known == {("parkinson", "simulated"), *recorded}
    enrolled = individual.enrol(people.meta["person"], k=1)
    assert {"P1", "P2"} < set(enrolled)
    rows = [replace(u, text=None) for u in read_manifest(patients / "train-atypical.jsonl")]
    write_manifest(patients / "silent.jsonl", rows)
    with pytest.raises(ConfigError, match="of the cohort 'als' \\(clinic\\) has a text"):
        individual.people_of(replace(config, manifest=patients / "silent.jsonl"), random_backbone)


def test_words_are_rows_with_a_cache_of_their_own(
    config: Callable[..., MetaConfig], patients: Path, random_backbone: Backbone
) -> None:
    whole = read_manifest(patients / "train.jsonl")
    cut = [
        replace(row, id=f"{row.id}/0-1", text="Yes.", start_s=0.1, end_s=0.6)
        for row in whole
        if row.cohort == TYPICAL
    ]
    write_manifest(patients / "words.jsonl", cut)
    alone, _ = data_of(config(), random_backbone, Accelerator(cpu=True))
    both, _ = data_of(
        config(words=patients / "words.jsonl"), random_backbone, Accelerator(cpu=True)
    )
    n = len(alone.cache)
    assert both.cache.meta["id"][:n] == alone.cache.meta["id"]
    assert all("/0-1/" in name for name in both.cache.meta["id"][n:])
    assert set(both.cache.meta["cohort"][n:]) == {TYPICAL, "stuttering"}
    drawn = {name for number in range(20) for name in both(number).ids}
    assert {"/0-1/" in name for name in drawn} == {True, False}
