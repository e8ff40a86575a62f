"""The watchdog: hangs are named, processes that are gone end the others."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import HashStore

from train.loop import watchdog
from train.loop.watchdog import Watchdog, progress

ROOT = Path(__file__).parents[3]


def test_a_hang_of_one_process_is_named_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "BEAT_S", 0.02)
    with Watchdog(0.1, tmp_path) as dog:
        dog.stage("step 3: draw a batch")
        deadline = time.monotonic() + 10
        while not (tmp_path / "hang-0.txt").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.05)
    said = (tmp_path / "hang-0.txt").read_text()
    assert "no progress" in said
    assert "in stage 'step 3: draw a batch'" in said
    assert "test_a_hang_of_one_process_is_named_and_goes_on" in said  # the stack of this thread


@pytest.mark.parametrize("how", ["untimed", "off", "progress", "stages"])
def test_work_is_no_hang(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "BEAT_S", 0.02)
    with Watchdog(0.0 if how == "off" else 0.3, tmp_path) as dog:
        dog.stage("evaluate", timed=how != "untimed")
        for _ in range(50):
            time.sleep(0.02)
            if how == "progress":
                progress()
            elif how == "stages":
                dog.stage("more")
    assert not list(tmp_path.iterdir())
    progress()  # without a watchdog it does nothing


class Watch:
    """A watchdog that is asked by hand, at times of our own."""

    def __init__(self, rank: int, n: int, store: HashStore) -> None:
        self.dog = Watchdog(0.0, Path(), rank, n, store)
        self.dog._prefix = "run"

    def __call__(self) -> str:
        return self.dog._exchange()


def test_who_is_silent_is_named_by_process_0_and_all_hear_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now[0])
    store = HashStore()
    store.set_timeout(timedelta(seconds=1))
    watches = [Watch(rank, 3, store) for rank in range(3)]
    for watch in watches:
        watch.dog.stage("step 5: forward and backward")
    for _ in range(30):
        now[0] += 2.0
        assert [watch() for watch in watches] == ["", "", ""]
    silent_since = now[0]
    while not (found := watches[0]()):
        assert not watches[1]()
        now[0] += 2.0
    assert found == "process 2 is gone; it was last in stage 'step 5: forward and backward'"
    assert watchdog.SILENT_S < now[0] - silent_since < 60 - 6 * watchdog.BEAT_S
    watches[0].dog._set("verdict", found)
    assert watches[1]() == found


def test_who_left_in_peace_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now[0])
    store = HashStore()
    watches = [Watch(rank, 2, store) for rank in range(2)]
    for watch in watches:
        watch()
    store.set("run/left/0", "1")
    for _ in range(100):
        now[0] += 2.0
        assert watches[1]() == ""


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from train.loop import watchdog
watchdog.BEAT_S, watchdog.SILENT_S = 0.2, 3.0
from accelerate import Accelerator
from torch import nn
from train.loop.loop import LoopConfig, fit

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
    def forward(self, x):
        return {"total": self.layer(x).square().mean()}

accelerator = Accelerator(cpu=True)
how, folder = sys.argv[1], Path(sys.argv[2])

def draw(number):
    step = number // 2
    if step == 3 and accelerator.process_index == 1:
        print("victim", os.getpid(), flush=True)
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        if how == "fails":
            raise ValueError("no such recording")
        time.sleep(1000)
    return torch.ones(2, 3)

config = LoopConfig(steps=6, watchdog_s=2.0 if how == "hangs" else 600.0, save_every=2)
fit(Model(), draw, lambda m: {"score": 0.0}, lambda m: None, config, folder, accelerator)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("killed", ("process 1 is gone", "state-00000002")),
        # A frozen process closes no connection, as one on a machine that lost power.
        ("stopped", ("process 1 is gone; it was last in stage",)),
        ("hangs", ("no progress for", "process 1", "in stage 'step 3: draw a batch'")),
        ("fails", ("no such recording",)),
    ],
)
def test_the_others_stop_when_one_process_is_gone(
    how: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(2):
        env = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, str(script), how, str(tmp_path)],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    survivor, victim = processes
    try:
        assert victim.stdout is not None
        while "victim" not in (line := victim.stdout.readline()):
            assert line or victim.poll() is None, "the second process did not start"
        gone = time.monotonic()
        output, _ = survivor.communicate(timeout=60)
        assert time.monotonic() - gone < 60
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    assert survivor.returncode not in (0, None)
    for words in expected:
        assert words in output, output
