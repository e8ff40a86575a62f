"""Commands that are killed and go on leave what they leave when nobody kills them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.kills import kill_command

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_kills_of_each_command(tmp_path: Path) -> None:
    out = tmp_path / "kills.json"
    command = [sys.executable, "-m", "tests.faults.kills", "--kills", "2", "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    rows = json.loads(out.read_text())["rows"]
    names = ["training", "caching", "transcription", "export", "enrolment"]
    assert [row["command"] for row in rows] == names
    assert all(row["kills"] == 2 and row["compared"] for row in rows)


def written_in_place() -> None:
    """Write a file that is not whole until its end."""
    with open("text", "w") as file:
        for line in range(20):
            print(line, file=file, flush=True)
            time.sleep(0.01)


def counted_on() -> None:
    """Write a whole file that depends on how often it was begun."""
    count = Path("count")
    n = int(count.read_text()) if count.exists() else 0
    Path("new").write_text(str(n + 1))
    Path("new").rename(count)
    time.sleep(0.1)


@pytest.mark.parametrize(
    ("run", "failure"),
    [(written_in_place, "text is not whole after a kill"), (counted_on, "count has other content")],
)
def test_what_is_not_whole_or_not_the_same_is_found(tmp_path: Path, run: Any, failure: str) -> None:
    tally = kill_command(run, 12, random.Random(0), tmp_path)
    assert any(failure in line for line in tally.failures), tally
