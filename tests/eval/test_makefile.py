"""The targets of the Makefile: each result by the command that its file names, where it is old."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from eval.docs import pages

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "results").glob("*.json"))

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def printed(folder: Path, *arguments: str) -> list[str]:
    """Return the programs of eval/ that make would call."""
    command = ["make", "--dry-run", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    lines = done.stdout.replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if "python -m eval." in line]


def command_of(path: Path) -> str:
    return str(json.loads(path.read_text(encoding="utf-8"))["command"]).strip()


def test_every_result_is_made_by_its_own_command() -> None:
    calls = [call.partition("bin/")[2] for call in printed(ROOT, "--always-make", "reproduce")]
    assert len(calls) == len(set(calls))
    made = {path.stem: command_of(path) for path in RESULTS}
    assert set(made.values()) <= set(calls)
    programs = {re.search(r"eval\.(\w+)", call).group(1) for call in calls}  # type: ignore[union-attr]
    assert programs >= {"docs", "notebooks", "report"}
    text = "".join(page.read_text(encoding="utf-8") for page in pages())
    shown = {Path(name).stem for name in re.findall(r"<!-- table: (\S+)", text)}
    assert shown <= set(made)


def test_a_result_is_made_again_where_something_is_newer(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    names = ("eval/zero_shot.py", "eval/configs/beam.yaml", "runs/a/best", "results/beam.json")
    for seconds, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("systems: {a: runs/a/best, gone: runs/gone/best}\n")
        os.utime(tmp_path / name, (1e9 + seconds, 1e9 + seconds))
    target = names[-1]
    assert printed(tmp_path, target) == []
    for name in names[:-1]:
        (call,) = printed(tmp_path, f"--what-if={name}", target)
        assert call == ".venv/bin/python -m eval.zero_shot --config eval/configs/beam.yaml"
    (tmp_path / target).unlink()
    assert len(printed(tmp_path, target)) == 1
