"""Measuring: jobs in turn, the ratio of their throughputs, memory, and work in a fresh process."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from eval.lib import results
from hyperasr.errors import HyperASRError

__all__ = ["WARM_UP", "OwnProcess", "in_own_process", "interleaved", "peak_mib", "ratio_row"]

WARM_UP = 2  # rounds that are not counted
T = TypeVar("T")


def interleaved(jobs: list[Callable[[], Any]], rounds: int) -> np.ndarray:
    """Time jobs in turn; returns seconds (rounds, n_jobs). The order alternates."""
    times = np.zeros((rounds + WARM_UP, len(jobs)))
    for index, row in enumerate(times):
        order = range(len(jobs)) if index % 2 else reversed(range(len(jobs)))
        for number in order:
            started = time.perf_counter()
            jobs[number]()
            row[number] = time.perf_counter() - started
    return times[WARM_UP:]


def ratio_row(name: str, times: np.ndarray, peer: str, setting: str, seed: int) -> results.Row:
    """Return the row of our throughput over the peer's, from seconds (rounds, 2), ours first."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(times), size=(2_000, len(times)))
    medians = np.median(times[draws], axis=1)
    low, high = np.quantile(medians[:, 1] / medians[:, 0], [0.025, 0.975])
    ratio = float(np.median(times[:, 1]) / np.median(times[:, 0]))
    return results.speed_row(name, ratio, float(low), float(high), len(times), peer, setting)


def peak_mib() -> float:
    """Return the largest resident memory of this process since its start, in MiB.

    Not that of `resource`, which counts what the process was before it became this program.

    Raises:
        HyperASRError: not on Linux.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError as error:
        raise HyperASRError("resident memory is measured on Linux alone") from error
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def in_own_process(work: Callable[..., T], *arguments: Any) -> T:
    """Return work(*arguments), done in a fresh process; what it raises is raised here."""
    # Spawned, not forked: a fork of a process with threads can hang, and has its memory.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


class OwnProcess:
    """What `make(*args, **kwargs)` returns, kept and called in another process.

    With CTranslate2 in our process, our decoding of one utterance took twice as long from its first
    call on; in use the two engines are not in one process either. Calls take a fraction of a
    millisecond more than the work itself. The process ends with this object.

    Args:
        make: importable by name; what it returns takes no arguments and returns plain values.
        args, kwargs: of `make`, sent once.
    Raises:
        Exception: whatever `make`, or later the work, raised there.
    """

    def __init__(self, make: Callable[..., Callable[[], Any]], *args: Any, **kwargs: Any) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self._pool.submit(_make, make, args, kwargs).result()

    def __call__(self) -> Any:
        """Do the work once, there, and return what came of it."""
        return self._pool.submit(_work).result()


_made: list[Callable[[], Any]] = []  # in the other process


def _make(make: Callable[..., Callable[[], Any]], args: Any, kwargs: Any) -> None:
    _made.append(make(*args, **kwargs))


def _work() -> Any:
    return _made[0]()
