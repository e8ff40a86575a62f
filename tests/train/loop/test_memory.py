"""What a training held at most."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from hyperasr.util.memory import give_back_freed
from train.loop.memory import PeakMemory, anonymous_mib

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's account of memory"
)
MIB = 1 << 20


def test_a_peak_that_is_over_is_remembered() -> None:
    with PeakMemory() as memory:
        before = memory.measured()["peak_rss_mib"]
        block = np.ones(200 * MIB, np.uint8)
        time.sleep(0.2)
        del block
        assert anonymous_mib() < before + 100
        grown = memory.measured()["peak_rss_mib"] - before
    assert 190 < grown < 300


def test_mapped_files_do_not_count(tmp_path: Path) -> None:
    np.full(200 * MIB, 1, np.uint8).tofile(tmp_path / "cache")
    with PeakMemory() as memory:
        before = memory.measured()["peak_rss_mib"]
        assert np.memmap(tmp_path / "cache", np.uint8, "r").sum(dtype=np.int64) == 200 * MIB
        assert memory.measured()["peak_rss_mib"] - before < 50


def test_freed_memory_goes_back_although_something_lies_behind_it() -> None:
    np.ones(4 * MIB, np.uint8)  # freed: from here on glibc takes smaller blocks from its heap
    blocks = [np.ones(MIB, np.uint8) for _ in range(200)]
    last = np.ones(MIB, np.uint8)
    held = anonymous_mib()
    del blocks
    give_back_freed()
    assert anonymous_mib() < held - 150
    assert last.all()
