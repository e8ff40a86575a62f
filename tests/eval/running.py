"""Run an evaluation program as its command line would, and save people who enrolled."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from eval.lib import results
from eval.lib.bench import Bench, BenchConfig
from hyperasr.adapters import SourceConfig
from hyperasr.hub import HyperASR
from hyperasr.speaker.encoder import SpeakerConfig
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


def save_people(folder: Path, bench: Bench, n_people: int | None = None) -> dict[str, list[str]]:
    """Save factors by person into ``folder/best``; each enrolled with the first of their rows.

    Returns:
        Ids of the rows of all people; only the first `n_people` are on record.
    """
    people = sorted({view.person for view in bench.views})
    settings = {"by": "speaker", "groups": people, "rank": 1}
    model = HyperASR(bench.backbone, SpeakerConfig(), SourceConfig("static", settings=settings))
    model.save_pretrained(folder / "best", backbone=bench.config.backbone)
    rows = {p: [v.id for v in bench.views if v.person == p] for p in people}
    record = {p: {"enrolled": rows[p][:1], "recognised": rows[p][1:]} for p in people[:n_people]}
    (folder / "people.json").write_text(json.dumps({"people": record}))
    return rows
