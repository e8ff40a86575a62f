"""Blocks of the report: a table, a figure or a note, ready for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyperasr.errors import ConfigError
from hyperasr.tables import Table, table

__all__ = [
    "Block",
    "by_cohort",
    "figure",
    "from_table",
    "generic_table",
    "headline",
    "label",
    "note",
    "of_table",
    "picked",
    "words_table",
]

Row = Mapping[str, Any]
Cell = tuple[str, str]
MOST_LINES = 60  # of a table of rows that the report knows nothing about


@dataclass(frozen=True)
class Block:
    """One piece of a section.

    Attributes:
        kind: ``table``, ``figure`` or ``note``.
        title: above a table, below a figure.
        note: what to know about it.
        header, lines: of a table; a cell is a number and its interval, or a text and nothing.
        words: whether the cells of a table are words, set to the left.
        n_names: columns of a table that name a line, set to the left too.
        address: of a figure, an SVG in a data address.
    """

    kind: str
    title: str = ""
    note: str = ""
    header: tuple[str, ...] = ()
    lines: tuple[tuple[Cell, ...], ...] = ()
    words: bool = False
    address: str = ""
    n_names: int = 1


def figure(title: str, note: str, address: str) -> Block:
    """Return a figure."""
    return Block("figure", title, note, address=address)


def note(text: str) -> Block:
    """Return a remark."""
    return Block("note", note=text)


def headline(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what rows of all corpora together have, as options of a table.

    In files from before rows said recorded or simulated their domain is ``all``.
    """
    old = any(row.get("domain") == "all" for row in rows)
    return {"corpus": None, "subset": None, "domain": "all" if old else ("simulated", "recorded")}


def by_cohort(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the fields that make the columns of a table of cohorts."""
    return ("cohort",) if headline(rows)["domain"] == "all" else ("cohort", "domain")


def label(row: Row) -> str:
    """Return the cohort that a row is about, and whether it was recorded or simulated."""
    domain = row.get("domain")
    if row["cohort"] == "typical" or domain not in ("simulated", "recorded"):
        return str(row["cohort"])
    return f"{row['cohort']}, {domain}"


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


def from_table(
    rows: Sequence[Row], title: str, columns: Sequence[str] = ("cohort",), **options: Any
) -> Block:
    """Return the table that the program itself prints; arguments as in `hyperasr.tables.table`."""
    made = table(rows, columns, **options)
    return of_table(made, title, words=made.header[0] == "benchmark")


def of_table(made: Table, title: str, note: str = "", *, words: bool = False) -> Block:
    """Return a table that is already made, its intervals apart from their numbers."""
    lines = tuple(tuple(_cell(text) for text in line) for line in made.lines)
    return Block("table", title, note, made.header, lines, words)


def _cell(text: str) -> Cell:
    """Part a number from its interval, or from the reason why it has none."""
    for mark in (" [", " ("):
        value, found, rest = text.partition(mark)
        if found and value[-1:].isdigit():
            return value, found.strip() + rest
    return text, ""


def words_table(
    rows: Sequence[Row],
    title: str,
    columns: Sequence[str],
    note: str = "",
    *,
    percent: bool = True,
    across: str | None = None,
) -> Block:
    """Return measurements that have no cohorts for columns: a line each, or a field across.

    Args:
        rows: with ``system``, ``value`` and mostly an interval and ``n_speakers``.
        columns: further fields that name a line.
        percent: show fractions in percent.
        across: a field whose values make the columns; None for one column, ``value``.
    Raises:
        ConfigError: two rows claim one cell.
    """
    names = ("system", *columns)
    heads = list(dict.fromkeys(row[across] for row in rows)) if across else ["value"]
    lines: dict[tuple[str, ...], dict[str, Cell]] = {}
    speakers: set[Any] = set()
    for row in rows:
        line = lines.setdefault(tuple(str(row.get(name, "")) for name in names), {})
        head = row[across] if across else "value"
        if head in line:
            raise ConfigError(f"two rows for {row['system']} at {head}; the file is damaged")
        line[head] = _measured(row, percent)
        speakers.add(row.get("n_speakers"))
    if len(speakers) == 1 and None not in speakers:
        note = f"{note} {speakers.pop()} speakers.".strip()
    body = tuple(
        (*((text, "") for text in key), *(line.get(head, ("", "")) for head in heads))
        for key, line in lines.items()
    )
    header = (*names, *map(str, heads))
    return Block("table", title, note, header, body, n_names=len(names))


def _measured(row: Row, percent: bool) -> Cell:
    low, high = row.get("low"), row.get("high")
    if row["value"] is None:
        return "n/a", ""
    texts = [
        f"{100 * x:.1f}" if percent else f"{x:.3f}"
        for x in (row["value"], low, high)
        if x is not None
    ]
    if len(texts) == 3:
        return texts[0], f"[{texts[1]}, {texts[2]}]"
    return texts[0], f"({row['reason']})" if row.get("reason") else ""


def generic_table(rows: Sequence[Row], title: str) -> Block:
    """Return rows as they are: every field with a single value, the first lines of many."""
    names = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if any(isinstance(row.get(name), str | int | float) for row in rows)
    ]
    lines = tuple(tuple((_plain(row.get(name)), "") for name in names) for row in rows[:MOST_LINES])
    more = len(rows) - len(lines)
    rest = f"{more} more rows are in the file." if more > 0 else ""
    return Block("table", title, rest, tuple(names), lines)


def _plain(value: Any) -> str:
    if value is None or isinstance(value, dict | list):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
