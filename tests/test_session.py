"""Sessions: a weighted mean that is told when the voice changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperasr.errors import ConfigError, ShapeError
from hyperasr.model import HyperASR
from hyperasr.session import Session, SessionConfig


def rms(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


FAR = SessionConfig(new_voice=1.35)


def voice(centre: float, n: int, noise: float = 0.2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return centre + noise * torch.randn(n, 40, generator=generator)


def test_the_mean_is_weighted_by_seconds() -> None:
    embs = voice(0.0, 6)
    seconds = torch.tensor([1.0, 4.0, 2.0, 0.5, 3.0, 1.5])
    used = Session(rms, FAR).smooth(embs, seconds)
    for i in range(6):  # the slow twin: the mean over all seconds so far
        weights = seconds[: i + 1] / seconds[: i + 1].sum()
        torch.testing.assert_close(used[i], (weights[:, None] * embs[: i + 1]).sum(0))
    assert torch.equal(used[0], embs[0])


def test_calls_go_on_where_the_last_ended() -> None:
    embs, seconds = voice(0.0, 7), torch.rand(7, generator=torch.Generator().manual_seed(1)) + 0.5
    whole = Session(rms, FAR).smooth(embs, seconds)
    session = Session(rms, FAR)
    parts = [session.smooth(embs[a:b], seconds[a:b]) for a, b in ((0, 3), (3, 3), (3, 7))]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert session.n_voices == 1


def test_a_new_voice_starts_again() -> None:
    embs = torch.cat([voice(0.0, 5), voice(3.0, 4, seed=1)])
    session = Session(rms, FAR)
    used = session.smooth(embs, torch.ones(9))
    assert session.n_voices == 2
    assert torch.equal(used[5], embs[5]), "nothing of the first voice is left"
    torch.testing.assert_close(used[8], embs[5:].mean(0))
    assert session.distance(embs[8]) < session.config.new_voice < session.distance(embs[0])


def test_the_distance_decides_what_is_far() -> None:
    embs = torch.cat([voice(0.0, 3), voice(3.0, 3, seed=1)])
    session = Session(lambda a, b: rms(a, b) / 10, FAR)
    session.smooth(embs, torch.ones(6))
    assert session.n_voices == 1, "in units of ten a step of three is small"


def test_old_speech_fades() -> None:
    session = Session(rms, SessionConfig(new_voice=100.0, memory_s=2.0))
    embs = torch.cat([torch.zeros(50, 4), torch.ones(20, 4)])
    used = session.smooth(embs, torch.ones(70))
    torch.testing.assert_close(used[50], torch.full((4,), 1 / 3))
    assert float(used[-1].min()) > 0.99


def test_forgetting() -> None:
    session = Session(rms, FAR)
    session.smooth(voice(0.0, 3), torch.ones(3))
    session.forget()
    with pytest.raises(ConfigError, match="heard nobody"):
        session.distance(torch.zeros(40))
    embs = voice(0.1, 1, seed=4)
    assert torch.equal(session.smooth(embs, torch.ones(1)), embs)


def test_bad_input() -> None:
    with pytest.raises(ShapeError, match="do not belong together"):
        Session(rms, FAR).smooth(torch.zeros(3, 4), torch.ones(2))
    with pytest.raises(ConfigError, match="lasts 0 s"):
        Session(rms, FAR).smooth(torch.zeros(2, 4), torch.tensor([1.0, 0.0]))
    with pytest.raises(ConfigError, match="new_voice"):
        SessionConfig(new_voice=0)


def test_of_a_model(random_model_folder: Path) -> None:
    """Pooled states are told apart by the deviations of the lowest layer."""
    model = HyperASR.from_pretrained(random_model_folder, offline=True)
    d_model, layers = model.backbone.d_model, model.speaker.layers
    assert model.speaker.d_spk == 2 * len(layers) * d_model
    generator = torch.Generator().manual_seed(0)
    embs = torch.randn(2, model.speaker.d_spk, generator=generator)
    session = Session.of(model)
    session.smooth(embs[:1], torch.ones(1))
    a, b = ((e - model.source.emb_mean) / model.source.emb_std for e in embs)
    part = slice(d_model, 2 * d_model)
    assert layers[0] == min(layers)
    expected = 1 - float(a[part] @ b[part] / (a[part].norm() * b[part].norm()))
    assert session.distance(embs[1]) == pytest.approx(expected, abs=1e-5)
    assert session.distance(embs[0]) == pytest.approx(0, abs=1e-5)
