"""The watchdog: hangs are named, and nobody waits for ever for a process that is gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.loop import watchdog
from train.loop.watchdog import Watchdog

ROOT = Path(__file__).parents[3]


def test_a_hang_of_one_process_is_named_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LOOK_S", 0.02)
    state = tmp_path / "state-00000002" / "state.json"
    state.parent.mkdir()
    state.write_text('{"step": 2}')
    hang = tmp_path / "hang-0.txt"
    with Watchdog(0.1, tmp_path) as dog:
        dog.stage("step 3: draw a batch")
        deadline = time.monotonic() + 10
        while not hang.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.05)
    first, *stacks = hang.read_text().splitlines()
    assert "no progress" in first
    assert "in stage 'step 3: draw a batch'" in first
    assert f"The last good checkpoint is {state.parent}" in first
    assert "test_a_hang_of_one_process_is_named_and_goes_on" in "\n".join(stacks)


@pytest.mark.parametrize("how", ["off", "stages"])
def test_work_is_no_hang(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LOOK_S", 0.02)
    with Watchdog(0.0 if how == "off" else 0.3, tmp_path) as dog:
        dog.stage("evaluate")
        for _ in range(30):
            time.sleep(0.02)
            if how == "stages":
                dog.stage("more")
    assert not list(tmp_path.iterdir())


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from accelerate import Accelerator
from torch import nn
from train.config import LoopConfig
from train.loop.loop import fit

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
    def forward(self, x):
        return {"total": self.layer(x).square().mean()}

accelerator = Accelerator(cpu=True)
how, folder = int(sys.argv[1]), Path(sys.argv[2])

def draw(number):
    if number // 2 == 3 and accelerator.process_index == 1:
        print("victim", flush=True)
        os.kill(os.getpid(), how)
    return torch.ones(2, 3)

config = LoopConfig(steps=6, watchdog_s=600.0 if how == 9 else 10.0, save_every=2)
fit(Model(), draw, lambda m: {"score": 0.0}, lambda m: None, config, folder, accelerator)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (signal.SIGKILL, "process 0: another process of this run has stopped"),
        # A frozen process closes no connection, as one on a machine that lost power.
        (signal.SIGSTOP, "in stage 'step 3: forward and backward'"),
    ],
)
def test_the_others_stop_when_one_process_is_gone(
    how: signal.Signals, expected: str, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    survivor, victim = processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(int(how)), str(tmp_path)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        assert victim.stdout is not None
        while "victim" not in (line := victim.stdout.readline()):
            assert line or victim.poll() is None, "the second process did not start"
        output, _ = survivor.communicate(timeout=60)
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    assert survivor.returncode not in (0, None)
    assert expected in output, output
    assert "The last good checkpoint is" in output
    assert "state-00000002" in output
