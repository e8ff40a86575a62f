"""The embedded model: it is what the package ships, so it is tested as a user would meet it."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperasr.audio import load
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.simulate import COHORTS, simulate
from hyperasr.decode import decode
from hyperasr.hub import EMBEDDED
from hyperasr.metrics import error_rate, score
from hyperasr.model import HyperASR
from hyperasr.opening import open_model
from hyperasr.text import normaliser
from hyperasr.types import Batch
from hyperasr.weights import ASSETS
from train.typical import an4_splits


@pytest.fixture(scope="module")
def model() -> HyperASR:
    return HyperASR.from_pretrained("micro", offline=True)


@pytest.fixture(scope="module")
def encoder_model() -> HyperASR:
    return HyperASR.from_pretrained("micro-encoder", offline=True)


@pytest.fixture(scope="module")
def an4_test(shared_data: Path) -> list[tuple[np.ndarray, str, str]]:
    """Three utterances of each AN4 test speaker: waveform, text, speaker."""
    folder = shared_data / "an4-train"
    with (folder / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    chosen = []
    for speaker in an4_splits()["test"]:
        own = [row for row in rows if row["speaker"] == speaker][:9:3]
        chosen += [(load(folder / r["path"]), r["text"].lower(), speaker) for r in own]
    return chosen


def wer(
    model: HyperASR,
    items: list[tuple[np.ndarray, str, str]],
    cohort: str,
    severity: float,
    adapt: bool,
) -> float:
    made = [
        simulate(wave, text, cohort, severity, seed=i, speaker=f"{speaker}-{cohort}").waveform
        for i, (wave, text, speaker) in enumerate(items)
    ]
    hypotheses = []
    for start in range(0, len(made), 16):
        mel, n_frames = model.backbone.features(made[start : start + 16])
        decoded = decode(model, Batch(n_frames=n_frames, mel=mel), adapt=adapt)
        hypotheses += [model.backbone.text(tokens) for tokens in decoded.tokens]
    return error_rate(score([t for _, t, _ in items], hypotheses, normaliser("spoken"), "wer"))


@pytest.mark.slow
@pytest.mark.parametrize("cohort", COHORTS)
def test_errors_of_the_unadapted_model_rise_with_severity(model, an4_test, cohort) -> None:
    rates = [wer(model, an4_test, cohort, s, adapt=False) for s in (0.0, 0.5, 1.0)]
    assert rates[0] < rates[1] < rates[2], rates


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDED)
def test_adaptation_helps_unseen_real_speakers_over_the_simulated_cohorts(name, an4_test) -> None:
    model = HyperASR.from_pretrained(name, offline=True)
    assert model.adapts_encoder == (name == "micro-encoder")
    base = {c: wer(model, an4_test, c, 0.8, adapt=False) for c in COHORTS}
    adapted = {c: wer(model, an4_test, c, 0.8, adapt=True) for c in COHORTS}
    # By cohort the table of the README has the truth: stuttering gains most, Parkinson nothing.
    assert sum(adapted.values()) < 0.9 * sum(base.values()), (base, adapted)
    assert adapted["stuttering"] < base["stuttering"]


@pytest.mark.slow
def test_the_default_model_understands_general_english() -> None:
    """tiny.en on the bundled clips, which are of people that no model here is tested on."""
    model = HyperASR.from_pretrained(offline=True)
    assert model.backbone.audio_context == "full", "as OpenAI published it"
    rows = read_manifest(ASSETS / "demo" / "manifest.jsonl")
    assert {row.cohort for row in rows} == {*COHORTS, "typical", "nonnative"}
    assert {row.domain for row in rows if row.cohort in COHORTS} == {"simulated"}
    assert {row.domain for row in rows if row.cohort not in COHORTS} == {"recorded"}
    texts = {row.id: model.transcribe(row.path).text for row in rows}
    counts = score(
        [row.text_clean or row.text or "" for row in rows],
        [texts[row.id] for row in rows],
        normaliser("whisper"),
        "wer",
    )
    assert error_rate(counts) < 0.5
    typical = [c for c, row in zip(counts, rows, strict=True) if row.cohort == "typical"]
    assert error_rate(typical) < 0.2
    marks = [texts[row.id][-1] for row in rows if row.cohort == "typical"]
    assert set(marks) <= {*".,?!"}, "it writes as Whisper does"


def test_three_seconds_take_well_under_a_second(model) -> None:
    rng = np.random.default_rng(0)
    mel, n_frames = model.backbone.features([rng.normal(0, 0.1, 48_000).astype(np.float32)])
    times = []
    for _ in range(5):
        started = time.perf_counter()
        decode(model, Batch(n_frames=n_frames, mel=mel))
        times.append(time.perf_counter() - started)
    assert min(times) < 0.6  # eval/speed.py measures it properly


def test_the_embedded_model_is_small_and_free_of_pickle() -> None:
    files = [f for f in (ASSETS / "micro").rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 24 * 2**20
    assert {f.suffix for f in files} <= {".json", ".safetensors"}


def test_every_weight_is_finite(model, encoder_model) -> None:
    for each in (model, encoder_model):
        assert all(bool(torch.isfinite(p).all()) for p in each.parameters())


def test_both_embedded_models_open() -> None:
    for name in EMBEDDED:
        opened = open_model(name, offline=True)
        assert opened.model.adapts_encoder == (name == "micro-encoder")
