"""What programs start and end with: trackers, one-line errors, one line of JSON."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from hyperasr.errors import ConfigError, MissingExtra
from train.config import LoopConfig
from train.loop import program
from train.loop.program import fit_and_report, read_config, run_program, start


@pytest.fixture(autouse=True)
def _own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        return {"total": (self.weight * batch).square().sum()}


@dataclass(frozen=True)
class Config:
    out: Path
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=4, log_every=1))


def run(out: Path, tracker: str) -> dict[str, float]:
    config = Config(out, LoopConfig(steps=4, log_every=1, tracker=tracker))
    accelerator = start("name", out, config.loop)
    return fit_and_report(
        Model(),
        lambda number: torch.ones(2),
        lambda m: {"score": float(m.weight.sum().detach())},
        lambda m: None,
        config,
        accelerator,
    )


def test_tensorboard_gets_every_measure(tmp_path: Path, capsys: Any) -> None:
    best = run(tmp_path, "tensorboard")
    assert json.loads(capsys.readouterr().out) == best
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = {path.parent for path in tmp_path.rglob("events.out.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"train/total", "train/grad_norm", "dev/score"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("train/total")] == [1, 2, 3, 4]
    assert events.Scalars("dev/score")[-1].value == pytest.approx(best["score"])


def test_a_tracker_that_is_unknown_or_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="no tracker 'tensorbord'; there are none, aim"):
        start("name", tmp_path / "a", LoopConfig(tracker="tensorbord"))
    monkeypatch.setattr(program, "get_available_trackers", list)
    with pytest.raises(MissingExtra, match="'wandb' is not installed"):
        start("name", tmp_path / "a", LoopConfig(tracker="wandb"))
    assert not (tmp_path / "a").exists()


def test_the_whole_configuration_belongs_to_a_run(tmp_path: Path) -> None:
    run(tmp_path, "none")
    (head,) = tmp_path.glob("state-*/state.json")
    settings = json.loads(head.read_text())["settings"]
    assert settings["out"] == str(tmp_path)
    assert settings["loop.steps"] == 4
    assert settings["batches a step"] == 1
    assert not list(tmp_path.rglob("events.out.*")), "no tracker leaves no events"
    assert (tmp_path / "log.jsonl").exists()


def test_errors_on_purpose_are_one_line(capsys: Any) -> None:
    def fails() -> None:
        raise ConfigError("rank is 0; it must be at least 1")

    with pytest.raises(SystemExit) as stop:
        run_program(fails)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: rank is 0; it must be at least 1\n"
    with pytest.raises(ZeroDivisionError):
        run_program(lambda: 1 // 0)


def test_help_describes_every_option(capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        read_config(LoopConfig, ["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--steps STEPS Optimiser steps, at least 1. (type: int, default: 4000)" in text
    assert "--seed SEED Seed of every random choice." in text
