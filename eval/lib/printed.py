"""Tables that evaluation programs print: of the headline, cohorts with their domain across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.lib import results

__all__ = ["BY_COHORT", "picked", "print_rows"]

BY_COHORT = ("cohort", "domain")

Row = Mapping[str, Any]


def picked(rows: Sequence[Row], differences: bool, **where: Any) -> list[Row]:
    """Return difference rows or error rows with these values (a tuple: any of them)."""
    return [
        row
        for row in rows
        if "system" in row
        and ("against" in row) == differences
        and all(
            row.get(key) in value if isinstance(value, tuple) else row.get(key) == value
            for key, value in where.items()
        )
    ]


def print_rows(
    rows: Sequence[Row],
    columns: Sequence[str] = BY_COHORT,
    *,
    title: str,
    differences: bool = False,
    **where: Any,
) -> None:
    """Print a table where there is a row for it; arguments as for `eval.lib.tables.table`.

    Rows of one corpus and those of a subset are left out unless `where` asks for them.
    """
    where = {"corpus": None, "subset": None} | where
    wanted = {k: tuple(v) if isinstance(v, list) else v for k, v in where.items()}
    found = picked(rows, differences, **wanted)
    if "severity" in columns:
        found = [row for row in found if row.get("severity") is not None]
    if found:
        results.print_table(rows, columns, title=title, differences=differences, **where)
