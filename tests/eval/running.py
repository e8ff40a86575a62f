"""Run an evaluation program as its command line would."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from eval.lib import results
from eval.lib.bench import BenchConfig
from hyperasr.util.config import to_dict


def run_program(
    program: Any, bench: BenchConfig, folder: Path, patch: pytest.MonkeyPatch, **values: Any
) -> dict[str, Any]:
    """Write a configuration into a folder, run the program with it, return its result file."""
    path, out = folder / "config.yaml", folder / f"{program.__name__.rpartition('.')[2]}.json"
    content = {"bench": to_dict(bench), "out": out, **values}
    path.write_text(json.dumps(content, default=str))
    patch.setattr(sys, "argv", ["program", "--config", str(path)])
    program.main()
    return results.read(out)
