"""What a system cost: parameters, training time, memory, as its run folder recorded them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.lib.systems import System

__all__ = ["cost_row"]


def cost_row(
    system: System, n_backbone: int, measured: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Return a row with parameters (counted) and training cost (measured or recorded).

    Where `eval.benchmarks.training_cost` measured the system's training, that counts. Elsewhere
    peak memory and seconds a step come from the training log in the run folder; of the latter the
    median, so that a pause does not count, and the seconds in all are as many such steps. What a
    run started from is named and not added, nor are the other learning rates of a tuned one.

    Args:
        system: as `eval.lib.systems.open_system` gives it.
        n_backbone: parameters of the frozen backbone.
        measured: rows by system, as `eval.benchmarks.training_cost.read_costs` gives them.
    """
    row: dict[str, Any] = {
        "system": system.name,
        "cost": "training",
        "n_trained": system.n_trained,
        "share_trained": system.n_trained / n_backbone,
        "n_generated": system.n_generated,
        "share_generated": system.n_generated / n_backbone,
    }
    if system.folder is None:
        return row
    known = (measured or {}).get(system.name)
    row |= _recorded(_chosen(system.folder.parent)) if known is None else _costs_in(known)
    start = system.training.get("config", {}).get("init_from")
    return row | ({"started_from": str(start)} if start else {})


def _costs_in(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("steps", "step_s", "seconds", "peak_rss_mib", "peak_device_mib")
    return {name: row[name] for name in names if name in row}


def _chosen(run: Path) -> Path:
    """Return the run that a tuned one was copied from (`train.tune`)."""
    try:
        lr = json.loads((run / "tuning.json").read_text(encoding="utf-8"))["chosen"]["lr"]
        return run / f"lr-{lr:g}"
    except (OSError, ValueError, KeyError, TypeError):
        return run


def _recorded(run: Path) -> dict[str, Any]:
    """Return the steps, each as long as the middle one, and the most memory of any."""
    try:
        text = (run / "log.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        steps = max(line["step"] for line in lines)
        step_s = statistics.median(line["step_s"] for line in lines)
        cost = {"steps": steps, "step_s": step_s, "seconds": steps * step_s}
        for name in ("peak_rss_mib", "peak_device_mib"):
            if held := [line[name] for line in lines if name in line]:
                cost[name] = max(held)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return cost
