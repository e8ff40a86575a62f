"""Worker processes: fresh, prepared once, and gone with the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from hyperasr.util.workers import WorkerPool

KILLED = """
import os, time
from hyperasr.util.workers import WorkerPool

if __name__ == "__main__":
    with WorkerPool(2) as pool:
        print(*{pool.submit(os.getpid).result() for _ in range(4)}, flush=True)
        time.sleep(60)
"""

INTERRUPTED = """
import os, signal, time
from hyperasr.util.workers import WorkerPool

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
if __name__ == "__main__":
    with WorkerPool(2) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        jobs = [pool.submit(time.sleep, 0.2) for _ in range(1000)]
        print("asked", flush=True)
        [job.result() for job in jobs]
"""


def still_there(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_workers_are_other_processes_prepared_before_their_work() -> None:
    with WorkerPool(1, os.putenv, ("PREPARED", "yes")) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()
        assert pool.submit(subprocess.getoutput, "echo $PREPARED").result() == "yes"
    with WorkerPool(1) as pool:
        assert list(pool.map(abs, [-1, 2, -3])) == [1, 2, 3]


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_when_their_parent_is_killed(by: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert workers
    assert all(still_there(pid) for pid in workers)
    parent.send_signal(by)
    parent.wait()  # the pipe stays open as long as anybody can write to it
    parent.stdout.close()
    patience = time.monotonic() + 10
    while any(still_there(pid) for pid in workers) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not any(still_there(pid) for pid in workers)


def test_interruption_drops_the_work_that_waits() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert int(parent.stdout.readline())
    assert parent.stdout.readline() == "asked\n"
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
    _, stderr = parent.communicate(timeout=30)
    assert stderr.rstrip().endswith("KeyboardInterrupt")
    assert parent.returncode == -signal.SIGINT


def failing_work() -> None:
    with WorkerPool(1) as pool:
        jobs = [pool.submit(divmod, 1, 0), *(pool.submit(time.sleep, 0.2) for _ in range(200))]
        jobs[0].result()


def test_error_is_there_before_the_rest_is_done() -> None:
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        failing_work()
    assert time.monotonic() - began < 30
