"""The memory that transcribing takes: of a command that really ran."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from eval.benchmarks import memory
from eval.benchmarks.memory import MemoryConfig, peak_mib
from eval.lib import results
from hyperasr.errors import HyperASRError


@pytest.mark.slow
def test_from_clips_to_the_result_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = MemoryConfig(minutes=0.1, rows=1_000, seconds=1.0, out=tmp_path / "memory.json")
    monkeypatch.setattr(memory, "read_config", lambda kind: config)
    monkeypatch.setattr(sys, "argv", ["memory"])
    memory.main()
    rows = results.read(config.out)["rows"]
    assert [row["setting"].split(", ", 1)[1] for row in rows] == [
        "a recording of 0.1 minutes",
        "a manifest of 1,000 rows",
    ]
    # The one that came to its end had the weights in memory, the one ended at its start had not.
    assert 400 < rows[0]["mib"] < 1_500
    assert 10 < rows[1]["mib"] < rows[0]["mib"]


def test_a_command_that_fails_is_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = tmp_path / "nothing.jsonl"
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexit 2\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(HyperASRError, match="ended with 2"):
        peak_mib(nothing, None)
    with pytest.raises(HyperASRError, match="ended with 2"):
        peak_mib(nothing, 60.0)
