"""Sessions: a weighted mean that is told when the voice changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hyperasr.errors import ConfigError, ShapeError
from hyperasr.session import Session, SessionConfig


def as_it_is(embs: Tensor) -> Tensor:
    return embs


def voice(centre: float, n: int, noise: float = 0.2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return centre + noise * torch.randn(n, 40, generator=generator)


def test_the_mean_is_weighted_by_seconds() -> None:
    embs = voice(0.0, 6)
    seconds = torch.tensor([1.0, 4.0, 2.0, 0.5, 3.0, 1.5])
    used = Session(as_it_is).smooth(embs, seconds)
    for i in range(6):  # the slow twin: the mean over all seconds so far
        weights = seconds[: i + 1] / seconds[: i + 1].sum()
        torch.testing.assert_close(used[i], (weights[:, None] * embs[: i + 1]).sum(0))
    assert torch.equal(used[0], embs[0])


def test_calls_go_on_where_the_last_ended() -> None:
    embs, seconds = voice(0.0, 7), torch.rand(7, generator=torch.Generator().manual_seed(1)) + 0.5
    whole = Session(as_it_is).smooth(embs, seconds)
    session = Session(as_it_is)
    parts = [session.smooth(embs[a:b], seconds[a:b]) for a, b in ((0, 3), (3, 3), (3, 7))]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert session.n_voices == 1


def test_a_new_voice_starts_again() -> None:
    embs = torch.cat([voice(0.0, 5), voice(3.0, 4, seed=1)])
    session = Session(as_it_is)
    used = session.smooth(embs, torch.ones(9))
    assert session.n_voices == 2
    assert torch.equal(used[5], embs[5]), "nothing of the first voice is left"
    torch.testing.assert_close(used[8], embs[5:].mean(0))
    assert session.distance(embs[8]) < session.config.new_voice < session.distance(embs[0])


def test_standardising_decides_what_is_far() -> None:
    embs = torch.cat([voice(0.0, 3), voice(3.0, 3, seed=1)])
    session = Session(lambda e: e / 10)
    session.smooth(embs, torch.ones(6))
    assert session.n_voices == 1, "in units of ten a step of three is small"


def test_old_speech_fades() -> None:
    session = Session(as_it_is, SessionConfig(new_voice=100.0, memory_s=2.0))
    embs = torch.cat([torch.zeros(50, 4), torch.ones(20, 4)])
    used = session.smooth(embs, torch.ones(70))
    torch.testing.assert_close(used[50], torch.full((4,), 1 / 3))
    assert float(used[-1].min()) > 0.99


def test_forgetting() -> None:
    session = Session(as_it_is)
    session.smooth(voice(0.0, 3), torch.ones(3))
    session.forget()
    with pytest.raises(ConfigError, match="heard nobody"):
        session.distance(torch.zeros(40))
    embs = voice(0.1, 1, seed=4)
    assert torch.equal(session.smooth(embs, torch.ones(1)), embs)


def test_bad_input() -> None:
    with pytest.raises(ShapeError, match="do not belong together"):
        Session(as_it_is).smooth(torch.zeros(3, 4), torch.ones(2))
    with pytest.raises(ConfigError, match="lasts 0 s"):
        Session(as_it_is).smooth(torch.zeros(2, 4), torch.tensor([1.0, 0.0]))
    with pytest.raises(ConfigError, match="new_voice"):
        SessionConfig(new_voice=0)
