"""Enrolling a voice: what is trained, on what, and what it is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperasr.audio.loudness import audible
from hyperasr.errors import AudioError, ConfigError
from hyperasr.hub import HyperASR
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.transcription import enrolment
from hyperasr.transcription.enrolment import (
    Clip,
    Worth,
    checked,
    enrol,
    sentence,
    shared_parameters,
)
from hyperasr.types import Batch
from hyperasr.whisper.backbone import Backbone

TEXT = "Turn on the light."


@pytest.fixture
def model(random_model_folder: Path) -> HyperASR:
    return HyperASR.from_pretrained(random_model_folder, offline=True)


@pytest.fixture
def clips(voice: Callable[..., np.ndarray]) -> list[Clip]:
    return [Clip(audible(voice(0.5 + 0.2 * i, 90.0 + 30 * i)), TEXT) for i in range(4)]


def nll(model: HyperASR, clip: Clip) -> float:
    """Improbability of a clip's text, nats a token, computed one token after the other."""
    mel, n_frames = model.backbone.features([clip.waveform])
    batch = Batch(n_frames=n_frames, mel=mel)
    text = [*model.backbone.text_ids(clip.text), model.backbone.eos]
    tokens, total = model.backbone.prompt_ids(), 0.0
    with torch.inference_mode(), model.adapted(batch) as encoded:
        for token in text:
            logits = model.backbone.logits(encoded, torch.tensor([tokens]))[0, -1]
            total -= float(logits.log_softmax(-1)[token])
            tokens = [*tokens, token]
    return total / len(text)


def test_a_text_becomes_more_probable_and_only_what_is_shared_changes(
    model: HyperASR, clips: list[Clip]
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objective, improbable = model.objective, nll(model, clips[0])
    state = torch.get_rng_state()
    seen: list[tuple[int, int]] = []
    texts = enrol(model, clips, steps=8, lr=0.02, progress=lambda *done: seen.append(done))
    assert texts == [TEXT] * 4
    assert nll(model, clips[0]) < improbable - 0.1
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert changed
    assert all(name.startswith(("source.bias_A.", "source.bias_B.")) for name in changed)
    assert model.objective is objective
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert seen == [(step, 8) for step in range(1, 9)]


def test_the_same_clips_make_the_same_voice_in_any_order(
    random_model_folder: Path, clips: list[Clip]
) -> None:
    voices = []
    for own in (clips, clips[::-1]):
        model = HyperASR.from_pretrained(random_model_folder, offline=True)
        enrol(model, own, steps=2)
        voices.append([p.clone() for p in shared_parameters(model)])
    for one, other in zip(*voices, strict=True):
        assert torch.equal(one, other)


def test_without_a_text_the_model_writes_one(
    model: HyperASR, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "_BEAMS", 2)
    written = model.transcribe(clips[1].waveform, 16_000, beam_size=2, loop_guard=False).text
    texts = enrol(model, [clips[0], replace(clips[1], text="")], steps=1)
    assert texts == [TEXT, written]


def test_what_it_is_worth_is_measured_on_clips_held_back(
    model: HyperASR, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = [p.clone() for p in shared_parameters(model)]
    monkeypatch.setattr(enrolment, "STEPS", (1, 3))
    worth = checked(model, clips)
    assert worth is not None
    assert list(worth.after) == [1, 3]
    # Each of four clips once.
    assert {side.n_reference for side in (worth.before, *worth.after.values())} == {16}
    for parameter, values in zip(shared_parameters(model), start, strict=True):
        assert torch.equal(parameter, values)
    assert checked(model, [*clips[:3], replace(clips[3], text="")]) is None


@pytest.mark.parametrize(
    ("errors", "steps"), [((9, 8), 0), ((7, 7), 10), ((7, 6), 20), ((8, 7.5), 0)]
)
def test_the_length_is_chosen_by_errors(errors: tuple[float, float], steps: int) -> None:
    after = {n: EditCounts(10, count) for n, count in zip((10, 20), errors, strict=True)}
    assert Worth(EditCounts(10, 8), after).steps == steps
    assert Worth(EditCounts(10), {10: EditCounts(10)}).steps == 0


def test_decoding_between_steps_changes_nothing(
    random_model_folder: Path, clips: list[Clip]
) -> None:
    voices = []
    for look in (None, lambda _: torch.rand(3)):
        model = HyperASR.from_pretrained(random_model_folder, offline=True)
        enrol(model, clips, steps=2, after=look)
        voices.append([p.clone() for p in shared_parameters(model)])
    for one, other in zip(*voices, strict=True):
        assert torch.equal(one, other)


def test_what_cannot_be_enrolled_is_one_line(
    model: HyperASR, clips: list[Clip], tmp_path: Path
) -> None:
    with pytest.raises(AudioError, match="is too long; cut the clip"):
        enrol(model, [replace(clips[0], text="a " * 500)], steps=1)
    plain = HyperASR.unadapted(Backbone.from_pretrained(model.backbone_name, offline=True))
    with pytest.raises(ConfigError, match="a plain Whisper learns no voice"):
        enrol(plain, clips)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("turn on  the light", "Turn on the light."),
        ("so i said i-it is", "So I said i-it is."),
        ("Is it?", "Is it?"),
        ("", ""),
    ],
)
def test_words_as_a_sentence(text: str, written: str) -> None:
    assert sentence(text) == written
