"""The section on severity: error against it, and the gaps between groups of speakers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval import report_figures as figures
from eval.report_behaviour import rate
from eval.report_blocks import Block, figure, from_table, label, picked, words_table
from eval.report_errors import is_control, metric_of

__all__ = ["group_blocks", "severity_blocks"]

Rows = Sequence[Mapping[str, Any]]


def severity_blocks(rows: Rows) -> list[Block]:
    """Return error against severity, and each system's worst group and gap."""
    metric = metric_of(rows)
    errors = [r for r in rows if "measure" not in r and r.get("severity") is not None]
    chosen = picked(errors, False, metric=metric)
    blocks = []
    cohorts = {label(r): (r["cohort"], r.get("domain")) for r in chosen}
    drawn = [r for r in chosen if not is_control(r["system"])]
    if drawn:
        note = "Thin lines are 95 percent intervals; systems are set beside each other."
        plot = figures.lines_by_severity(drawn, list(cohorts))
        blocks.append(figure("Error against severity", note, plot))
    for name, (cohort, domain) in cohorts.items():
        title = f"{metric.upper()} by severity, {name}"
        where: dict[str, Any] = {"cohort": cohort, "domain": domain, "metric": metric}
        blocks.append(from_table(errors, title, ("severity",), **where))
    blocks += group_blocks(rows)
    slopes = [{**r, "cohort": label(r)} for r in rows if r.get("measure") == "slope"]
    if slopes:
        note = "Points of error from severity 0 to 1, by a straight line."
        blocks.append(words_table(slopes, "Rise with severity", (), note, across="cohort"))
    return blocks


_GROUPINGS = {"cohort": "cohorts", "cohort_severity": "cohorts and severities"}


def group_blocks(rows: Rows) -> list[Block]:
    """Return each system's worst group, its gap to the best, and the gap beside the backbone's."""
    blocks = []
    for grouping, shown in _GROUPINGS.items():
        own = [r for r in rows if r.get("grouping") == grouping]
        by = {(r["measure"], r["system"]): r for r in own}
        lines = []
        for name in dict.fromkeys(r["system"] for r in own):
            worst, gap = by["worst_group", name], by["gap", name]
            change = by.get(("gap_difference", name))
            cells = (rate(worst), (worst["best"], ""), rate(gap), rate(change))
            lines.append(((name, ""), (worst["worst"], ""), *cells))
        if lines:
            header = ("system", "worst", "its error, %", "best", "gap, points", "against backbone")
            about = (
                "The largest of several noisy rates is too large on average, and the gap with it; "
                f"differences of gaps suffer less. {own[0]['n_speakers']} speakers."
            )
            title = f"Worst group, and its gap to the best: {shown}"
            blocks.append(Block("table", title, about, header, tuple(lines), n_names=2))
    return blocks
