"""A large corpus: seconds for a hundred thousand recordings, and memory that does not grow."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest

from eval.benchmarks.large_corpora import ua_speech
from hyperasr.cohorts import corpora

N_RECORDINGS = 5_000
LIMIT_S = 60.0  # for 100,000 recordings
LIMIT_BYTES = 300  # a row, for what tells a duplicate


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ua_speech(tmp_path_factory.mktemp("large"), N_RECORDINGS)


def test_seconds(large: Path) -> None:
    start = time.process_time()
    ready = corpora.prepare("ua_speech", large)
    n = sum(1 for _ in ready)
    seconds = time.process_time() - start
    assert n == N_RECORDINGS
    assert not ready.report.skipped
    assert seconds * 100_000 / n < LIMIT_S


def test_memory(large: Path) -> None:
    first = 1_000
    tracemalloc.start()
    try:
        for n, _ in enumerate(corpora.prepare("ua_speech", large), start=1):
            if n == first:
                at_first = tracemalloc.get_traced_memory()[0]
                tracemalloc.reset_peak()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n == N_RECORDINGS
    # One folder's names and one speaker's words come and go.
    assert peak - at_first < LIMIT_BYTES * (N_RECORDINGS - first)
