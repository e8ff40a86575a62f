"""Tables of result files: printed ones, and those of confidence and sweeps, which docs show too."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from eval.lib.error_tables import WIDTH_WITHOUT_TERMINAL, Table, print_table
from eval.lib.forgetting import DEGRADATION, GAIN, TARGET_LOSS
from eval.lib.scores import ATYPICAL
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError

__all__ = [
    "ALONG",
    "BY_COHORT",
    "LINES",
    "REACHED",
    "confidence_table",
    "points_table",
    "print_lines",
    "print_rows",
    "with_interval",
]

BY_COHORT = ("cohort", "domain")
# What a sweep varies along a line, and from line to line. Rows of a point have both as fields; rows
# without them are of references.
ALONG = {"beta": "\N{GREEK SMALL LETTER BETA}", "kl_weight": "KL weight"}
LINES = {"sigma": "prior \N{GREEK SMALL LETTER SIGMA}", "prior": "prior"}
REACHED = "reached"

Row = Mapping[str, Any]


def print_lines(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print a table of text; the first column holds names, the others numbers."""
    grid = RichTable(title=title)
    for number, name in enumerate(header):
        # As Text, since brackets of an interval may read as markup.
        grid.add_column(Text(name), justify="right" if number else "left", overflow="fold")
    for line in lines:
        grid.add_row(*map(Text, line))
    Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL).print(grid)


def print_rows(
    rows: Sequence[Row],
    columns: Sequence[str] = BY_COHORT,
    *,
    title: str,
    differences: bool = False,
    **where: Any,
) -> None:
    """Print a table where there is a row for it; arguments as for `eval.lib.error_tables.table`.

    Rows of one corpus and those of a subset are left out unless `where` asks for them.
    """
    where = {"corpus": None, "subset": None} | where
    if "severity" in columns:
        rows = [row for row in rows if row.get("severity") is not None]
    if any(
        "system" in row
        and ("against" in row) == differences
        and all(row.get(k) in (v if isinstance(v, list) else (v,)) for k, v in where.items())
        for row in rows
    ):
        print_table(rows, columns, title=title, differences=differences, **where)


def with_interval(row: Row, digits: int = 3, factor: float = 1.0) -> str:
    """Return a row's value, with its interval where there is one."""
    if row["value"] is None:
        return "n/a"
    value, low, high = (
        # Rounded first, so that a difference of -0.0001 does not read "-0.0".
        None if x is None else f"{round(factor * x, digits) + 0.0:.{digits}f}"
        for x in (row["value"], row.get("low"), row.get("high"))
    )
    return f"{value}" if low is None or high is None else f"{value} [{low}, {high}]"


def confidence_table(
    rows: Sequence[Row], measures: Sequence[str], cohort: str | None, domain: str | None
) -> Table:
    """Return measures of the confidence of words: a line for each system and kind of confidence.

    Args:
        rows: of `eval.calibration`.
        measures: the columns.
        cohort, domain: of whom; any domain where it is None.
    Raises:
        ConfigError: no row has them.
    """
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        wanted = row.get("level") == "word" and row.get("measure") in measures
        here = wanted and row["cohort"] == cohort and domain in (None, row.get("domain"))
        if here and row["value"] is not None:
            line = cells.setdefault((row["system"], row["score"].replace("_", " ")), {})
            line[row["measure"]] = with_interval(row)
    if not cells:
        raise ConfigError(f"no row has the measures {', '.join(measures)} of words")
    lines = tuple((*key, *(line.get(m, "") for m in measures)) for key, line in cells.items())
    return Table(("system", "confidence", *measures), lines)


def points_table(rows: Sequence[Row]) -> Table:
    """Return a line for each reference and point of a sweep: errors, forgetting, what it costs.

    Args:
        rows: of `eval.sweep`. Where they say whether a goal was reached, the table does.
    Returns:
        Fractions in percent with their 95 % intervals.
    Raises:
        ConfigError: rows of another program.
    """
    varied = [next((a for a in known if any(a in r for r in rows)), "") for known in (LINES, ALONG)]
    errors = [row for row in rows if "against" not in row]
    target = next((row for row in errors if row["cohort"] != TYPICAL), None)
    if not all(varied) or target is None:
        raise ConfigError("no row is of a point of a sweep; it was made by another program")
    # A file from before rows said so is of simulated cohorts.
    domain = "recorded" if target.get("domain") == "recorded" else "simulated"
    cohort = target["cohort"]
    called = f"{domain} cohorts" if cohort == ATYPICAL else f"{cohort}, {domain}"
    unit = str(target["metric"]).upper()
    columns = {
        cohort: f"{unit}, {called}",
        TYPICAL: f"{unit}, typical speech",
        DEGRADATION: "backward degradation",
        GAIN: "backward gain",
        TARGET_LOSS: "target loss",
    }
    systems: dict[str, dict[str, Row]] = {}
    for row in rows:
        place = row["metric"] if "against" in row else row["cohort"]
        systems.setdefault(row["system"], {})[place] = row
    goal = any(REACHED in row for row in rows)
    lines = []
    for name, own in systems.items():
        point = next(iter(own.values()))
        cells = [with_interval(own[place], 1, 100) if place in own else "" for place in columns]
        reached = {True: "yes", False: "no"}.get(own.get(GAIN, {}).get(REACHED), "")
        setting = (_setting(point.get(axis)) for axis in varied)
        lines.append((name.partition(":")[0], *setting, *cells, *([reached] if goal else [])))
    header = ("system", LINES[varied[0]], ALONG[varied[1]], *columns.values())
    return Table((*header, "goal reached") if goal else header, tuple(lines))


def _setting(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, int | float) else str(value).replace("_", " ")
