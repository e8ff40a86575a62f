"""Killed by SIGKILL at random moments, a run ends with the weights of one that was not."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from train.loop.loop import LoopConfig, fit
from train.loop.state import read_head

CONFIG = LoopConfig(
    steps=60, accumulate=2, ema=0.9, eval_every=9, save_every=4, log_every=5, lr=0.05, clip_norm=1.0
)


class Model(nn.Module):
    """A few weights, dropout and a running statistic."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.4), nn.Linear(16, 1)
            )
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, y = batch
        if self.training:
            self.seen += x.mean()
        return {"total": (self.layers(x)[:, 0] - y).square().mean()}


def train(folder: Path, drawn: Any) -> None:
    torch.set_num_threads(1)  # a forked process must not use the threads of its parent
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.manual_seed(random.SystemRandom().getrandbits(30))  # whatever state a process starts in
    model = Model()

    def draw(number: int) -> tuple[Tensor, Tensor]:
        drawn.value += 1
        time.sleep(0.001)  # room for moments to be killed at
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(number))
        return x, x.sum(1)

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"score": float(candidate(draw(10**6))["total"])}

    def keep(best: nn.Module) -> None:
        save_file(best.state_dict(), folder / "new.safetensors")
        os.replace(folder / "new.safetensors", folder / "best.safetensors")

    fit(model, draw, evaluate, keep, CONFIG, folder, Accelerator(cpu=True))
    save_file(model.state_dict(), folder / "last.safetensors")


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    # Without a lock, which a killed process would hold for ever; only one writes at a time.
    drawn = fork.Value("i", 0, lock=False)
    train(tmp_path / "whole", drawn)
    assert drawn.value > 2 * CONFIG.steps
    rng, reached = random.Random(3), []
    for target in [*(rng.randrange(8, 40) for _ in range(5)), 10**6]:
        drawn.value = 0
        child = fork.Process(target=train, args=(tmp_path / "killed", drawn))
        child.start()
        assert child.pid is not None
        while child.is_alive() and drawn.value < target:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.01))
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            reached.append(read_head(tmp_path / "killed").get("step", 0))
        child.join()
        assert child.exitcode == (0 if target == 10**6 else -signal.SIGKILL)
    assert (tmp_path / "killed" / "last.safetensors").exists()
    assert len(set(reached)) >= 3, "the kills were not spread over the run"
    for name in ("last", "best"):
        whole, killed = (
            load_file(tmp_path / run / f"{name}.safetensors") for run in ("whole", "killed")
        )
        for key, value in whole.items():
            assert torch.equal(killed[key], value), (name, key)
    logs = [(tmp_path / run / "log.jsonl").read_text().splitlines() for run in ("whole", "killed")]
    assert len(logs[0]) == len(logs[1]) == 12
