"""What keeping memory is worth: ratios of pairs of processes, right way round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from eval import kept_memory
from eval.kept_memory import WORK, KeptMemoryConfig, row
from hyperasr import results
from hyperasr.errors import ConfigError

SMALL = KeptMemoryConfig(n_utt=2, seconds=1.5, n_tokens=3, pairs=3, rounds=1, threads=1)


def test_the_ratio_is_how_much_faster_the_one_is_that_keeps(monkeypatch: Any) -> None:
    """Seconds made up here: kept 1, 2, 4; returned 2, 3, 5; ratios 2, 1.5, 1.25."""
    seconds = iter(([[1.0, 2.0]], [[2.0, 3.0]], [[4.0, 5.0]]))
    asked: list[bool] = []

    class Process:
        def __init__(self, make: Any, *arguments: Any, keep_memory: bool) -> None:
            assert make is WORK["adapted decoding"]
            assert [len(wave) for wave in arguments[0]] == [24_000, 24_000]
            self.keeps = keep_memory
            asked.append(keep_memory)

        def close(self) -> None:
            asked.pop()

    def timed(jobs: list[Process], rounds: int) -> np.ndarray:
        assert [job.keeps for job in jobs] == [True, False], "seconds of the keeping one come first"
        return np.array(next(seconds))

    monkeypatch.setattr(kept_memory, "OwnProcess", Process)
    monkeypatch.setattr(kept_memory, "interleaved", timed)
    found = row("adapted decoding", SMALL)
    assert found["ratio"] == 1.5
    assert 1.25 <= found["low"] <= found["ratio"] <= found["high"] <= 2
    assert found["rounds"] == 3
    assert found["peer"] == "glibc's defaults"
    assert not asked, "processes are left running"


@pytest.mark.slow
@pytest.mark.parametrize("what", WORK)
def test_both_pieces_of_work_run(what: str) -> None:
    found = row(what, replace(SMALL, pairs=2))
    assert found["benchmark"] in results.BENCHMARKS
    assert 0.1 < found["ratio"] < 10


@pytest.mark.parametrize("field", ["rounds", "threads", "n_utt", "n_tokens"])
def test_nothing_to_time_is_refused(field: str) -> None:
    with pytest.raises(ConfigError, match="at least"):
        replace(SMALL, **{field: 0})
    with pytest.raises(ConfigError, match="pairs must be at least 2"):
        replace(SMALL, pairs=1)
