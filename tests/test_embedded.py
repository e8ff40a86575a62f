"""The embedded model: it is what the package ships, so it is tested as a user would meet it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from hyperasr.adapters.checkpoint import read_head
from hyperasr.audio.reading import load
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.simulate import COHORTS, simulate
from hyperasr.hub import EMBEDDED, HyperASR
from hyperasr.metrics.error_rates import error_rate, score
from hyperasr.metrics.normalisers import normaliser
from hyperasr.model import decode
from hyperasr.types import Batch
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.weights import ASSETS, PACKAGED, Weights, packaged

ADAPTERS = EMBEDDED["tiny.en"]


@pytest.fixture(scope="module")
def embedded() -> HyperASR:
    """The default model."""
    return HyperASR.from_pretrained(offline=True)


@pytest.fixture(scope="module")
def whisper() -> HyperASR:
    """The Whisper alone, on the real length of an utterance and a margin."""
    return HyperASR.unadapted(Backbone.from_pretrained("tiny.en", audio_context="trimmed"))


CLIPS = read_manifest(ASSETS / "demo" / "manifest.jsonl")


@cache
def simulated(cohort: str, severity: float, n_people: int) -> tuple[list[np.ndarray], list[str]]:
    """Return the typical clips as so many simulated people each would say them, and the texts."""
    clips = [c for c in CLIPS if c.cohort == "typical" for _ in range(n_people)]
    waves = []
    for number, clip in enumerate(clips):
        seed = number % n_people
        who = {"seed": seed, "speaker": f"{clip.speaker}-{seed}"}
        waves.append(simulate(load(clip.path), clip.text or "", cohort, severity, **who).waveform)
    return waves, [clip.text or "" for clip in clips]


def wer(model: HyperASR, cohort: str, severity: float, n_people: int, adapt: bool) -> float:
    """Return the error on the typical clips, as simulated people would say them."""
    waves, texts = simulated(cohort, severity, n_people)
    mel, n_frames = model.backbone.features(waves)
    decoded = decode(model, Batch(n_frames=n_frames, mel=mel), adapt=adapt)
    hypotheses = [model.backbone.text(tokens) for tokens in decoded.tokens]
    return error_rate(score(texts, hypotheses, normaliser("whisper"), "wer"))


@pytest.mark.slow
@pytest.mark.parametrize("cohort", COHORTS)
def test_errors_of_the_unadapted_model_rise_with_severity(whisper, cohort) -> None:
    mild, severe = (wer(whisper, cohort, s, 1, adapt=False) for s in (0.2, 1.0))
    assert mild < severe, (mild, severe)


@pytest.mark.slow
def test_adaptation_helps_unseen_speakers_over_the_simulated_cohorts(embedded) -> None:
    base = {c: wer(embedded, c, 0.8, 3, adapt=False) for c in COHORTS}
    adapted = {c: wer(embedded, c, 0.8, 3, adapt=True) for c in COHORTS}
    assert sum(adapted.values()) < sum(base.values()), (base, adapted)


@pytest.mark.slow
def test_the_adapters_of_base_open_on_its_data_packages_and_help() -> None:
    if packaged(Weights("base", PACKAGED)) is None:
        pytest.skip("needs the extra base")
    model = HyperASR.from_pretrained("base-decoder", offline=True)
    assert model.backbone_name == "base"
    rates = [wer(model, "stuttering", 0.8, 2, adapt=adapt) for adapt in (False, True)]
    assert rates[1] < rates[0], rates


@pytest.mark.slow
def test_the_default_model_understands_general_english(embedded) -> None:
    """tiny.en on the bundled clips, which are of people that no model here is tested on."""
    assert {row.cohort for row in CLIPS} == {*COHORTS, "typical", "nonnative"}
    assert {row.domain for row in CLIPS if row.cohort in COHORTS} == {"simulated"}
    assert {row.domain for row in CLIPS if row.cohort not in COHORTS} == {"recorded"}
    heard = embedded.transcribe([row.path for row in CLIPS])
    texts = {row.id: r.transcript.text for row, r in zip(CLIPS, heard, strict=True)}
    counts = score(
        [row.text_clean or row.text or "" for row in CLIPS],
        [texts[row.id] for row in CLIPS],
        normaliser("whisper"),
        "wer",
    )
    assert error_rate(counts) < 0.5
    typical = [c for c, row in zip(counts, CLIPS, strict=True) if row.cohort == "typical"]
    assert error_rate(typical) < 0.2
    marks = [texts[row.id][-1] for row in CLIPS if row.cohort == "typical"]
    assert set(marks) <= {*".,?!"}, "it writes as Whisper does"


def test_the_default_model_is_adapted(embedded) -> None:
    assert ADAPTERS.is_dir()
    assert embedded.adapts
    assert embedded.backbone_name == "tiny.en"
    alone = Backbone.from_pretrained("tiny.en")
    assert alone.audio_context == "full", "as OpenAI published it"


def test_the_default_model_hears_an_utterance_once(embedded) -> None:
    heard: list[int] = []
    layers = embedded.backbone.whisper.model.encoder.layers
    handles = [
        layer.self_attn.register_forward_hook(lambda *_, which=which: heard.append(which))
        for which, layer in enumerate(layers)
    ]
    try:
        assert embedded.transcribe(CLIPS[0].path).text
    finally:
        for handle in handles:
            handle.remove()
    assert heard == [0, 1, 2, 3]


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_embedded_adapters_name_their_whisper_and_no_folder(name: str) -> None:
    assert read_head(EMBEDDED[name])["backbone"] == name.removesuffix("-decoder")
    text = (EMBEDDED[name] / "config.json").read_text()
    assert not any(place in text for place in ('"/', "/home", "/root")), "nobody's machine"


def test_the_embedded_model_is_small_and_free_of_pickle() -> None:
    files = [f for f in (ASSETS / "tiny.en").rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 105e6
    assert {f.suffix for f in files} <= {".json", ".safetensors", ".md", ""}
    for folder in EMBEDDED.values():
        assert sum(f.stat().st_size for f in folder.iterdir()) <= 15e6


def test_every_weight_is_finite(embedded) -> None:
    assert all(bool(torch.isfinite(p).all()) for p in embedded.parameters())
