"""What a system cost: parameters, training time, memory, as its run folder recorded them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eval.systems import System

__all__ = ["cost_row"]


def cost_row(system: System, n_backbone: int) -> dict[str, Any]:
    """Return a row with parameters (counted) and training cost (recorded).

    Seconds, seconds a step and peak memory come from ``cost.json`` in the run folder; where a run
    has none, time is taken from its training log and memory is not known. What a run started from
    is named and not added, nor are the other learning rates of a tuned one.

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
    try:
        cost = json.loads((run / "cost.json").read_text(encoding="utf-8"))
        known = ("seconds", "step_s", "peak_rss_mib", "peak_device_mib", "steps", "processes")
        return {name: cost[name] for name in known if cost.get(name) is not None}
    except (OSError, ValueError, AttributeError):
        return _from_log(run / "log.jsonl")


def _from_log(path: Path) -> dict[str, Any]:
    """Estimate from the log: steps, each as long as they were on average."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        steps = max(line["step"] for line in lines)
        step_s = sum(line["step_s"] for line in lines) / len(lines)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {"steps": steps, "step_s": step_s, "seconds": steps * step_s}
