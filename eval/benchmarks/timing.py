"""Timing of jobs beside each other: rounds in turn, and the ratio of their throughputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from eval.lib import results

__all__ = ["WARM_UP", "interleaved", "ratio_row"]

WARM_UP = 2  # rounds that are not counted


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
