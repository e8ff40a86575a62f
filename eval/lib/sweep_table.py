"""What a sweep shows: its table, from the rows of its result file.

A sweep varies a weight of the objective (`ALONG`) and a second setting (`LINES`); a row of a point
has both as fields. Rows without them are of references: the backbone, and the LoRA of the same
matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.lib.forgetting import DEGRADATION, GAIN, TARGET_LOSS
from eval.lib.scores import ATYPICAL
from eval.lib.tables import Table
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError

__all__ = ["ALONG", "LINES", "REACHED", "axes_of", "points_table", "target_of"]

ALONG = {"beta": "\N{GREEK SMALL LETTER BETA}", "kl_weight": "KL weight"}
LINES = {"sigma": "prior \N{GREEK SMALL LETTER SIGMA}", "prior": "prior"}
REACHED = "reached"

Row = Mapping[str, Any]


def axes_of(rows: Sequence[Row]) -> tuple[str, str]:
    """Return what was varied: the field along a line, and the field that tells lines apart.

    Raises:
        ConfigError: rows without either.
    """
    found = [next((a for a in known if any(a in r for r in rows)), "") for known in (ALONG, LINES)]
    if not all(found):
        raise ConfigError("no row is of a point of a sweep; it was made by another program")
    return found[0], found[1]


def by_system(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Return for each system its rows by what they say: a cohort's error, or a measure.

    Raises:
        ConfigError: rows scored by different rules, or two of them on the same.
    """
    rules = sorted({str(row["protocol"]) for row in rows if "protocol" in row})
    if len(rules) > 1:
        raise ConfigError(f"one table cannot hold rows of the protocols {' and '.join(rules)}")
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        place = row["metric"] if "against" in row else row["cohort"]
        if place in found.setdefault(row["system"], {}):
            raise ConfigError(f"two rows for {row['system']} at {place}; the file is damaged")
        found[row["system"]][place] = row
    return found


def target_of(rows: Sequence[Row]) -> tuple[str, str]:
    """Return the cohort that stands for atypical speech, and what to call it.

    Raises:
        ConfigError: there is none.
    """
    errors = (row for row in rows if "against" not in row and row["cohort"] != TYPICAL)
    row = next(errors, None)
    if row is None:
        raise ConfigError("no row is of atypical speech; it was made by another program")
    # A file from before rows said so is of simulated cohorts.
    domain = "recorded" if row.get("domain") == "recorded" else "simulated"
    cohort = str(row["cohort"])
    return cohort, f"{domain} cohorts" if cohort == ATYPICAL else f"{cohort}, {domain}"


def points_table(rows: Sequence[Row]) -> Table:
    """Return a line for each reference and each point: errors, forgetting, and what it costs.

    Args:
        rows: of a sweep's result file. Where they say whether a goal was reached, the table does.
    Returns:
        Fractions in percent with their 95 % intervals.
    Raises:
        ConfigError: rows of something else, or of different protocols.
    """
    along, lines = axes_of(rows)
    systems = by_system(rows)
    unit = next(str(row["metric"]).upper() for row in rows if "against" not in row)
    target, called = target_of(rows)
    columns = {
        target: f"{unit}, {called}",
        TYPICAL: f"{unit}, typical speech",
        DEGRADATION: "backward degradation",
        GAIN: "backward gain",
        TARGET_LOSS: "target loss",
    }
    goal = any(REACHED in row for row in rows)
    made = []
    for name, own in systems.items():
        first = next(iter(own.values()))
        cells = [_cell(own.get(place)) for place in columns]
        where = [_setting(first.get(axis)) for axis in (lines, along)]
        reached = [{True: "yes", False: "no"}.get(own.get(GAIN, {}).get(REACHED), "")]
        made.append((name.partition(":")[0], *where, *cells, *(reached if goal else [])))
    header = ("system", LINES[lines], ALONG[along], *columns.values())
    return Table((*header, "goal reached") if goal else header, tuple(made))


def _setting(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, int | float) else str(value).replace("_", " ")


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row["value"] is None:
        return "n/a"
    value, low, high = (
        # Rounded first, so that a difference of -0.0001 does not read "-0.0".
        None if x is None else f"{round(100 * x, 1) + 0.0:.1f}"
        for x in (row["value"], row.get("low"), row.get("high"))
    )
    return f"{value}" if low is None or high is None else f"{value} [{low}, {high}]"
