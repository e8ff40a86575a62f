"""What a system cost: parameters, training time, memory, as its run folder recorded them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from eval.systems import System

__all__ = ["cost_row"]


def cost_row(system: System, n_backbone: int) -> dict[str, Any]:
    """Return a row with parameters (counted) and training cost (recorded).

    Peak memory and seconds a step come from the training log in the run folder; of the latter the
    median, so that a pause does not count, and the seconds in all are as many such steps. What a
    run started from is named and not added, nor are the other learning rates of a tuned one.

    Args:
        system: as `eval.systems.open_system` gives it.
        n_backbone: parameters of the frozen backbone.
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
    run = system.folder.parent
    row |= _recorded(_chosen(run))
    start = system.training.get("config", {}).get("init_from")
    return row | ({"started_from": str(start)} if start else {})


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
