"""Bad inputs end with 0, 1 or 2, in time, in memory, and write nothing elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.inputs import KINDS

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_bad_inputs(tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.fuzz.run", "--n", "1000", "--out", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    rows = json.loads(out.read_text())["rows"]
    assert sum(row["n"] for row in rows) == 1000
    assert {row["kind"] for row in rows} == set(KINDS)
    assert {row["outcome"] for row in rows} >= {"0", "2"}, "some are taken, some refused"
