"""Tables of measurements: systems down, cohorts across, the same in a terminal and in Markdown."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from hyperasr.errors import ConfigError

__all__ = ["Table", "markdown_table", "print_table", "table"]

SHOWN = ("value", "clipped", "macro", "insertions", "deletions", "substitutions")
SIGNIFICANT = 0.05  # of an adjusted p-value
# A pipe or a file has no width of its own, and wrapped cells are hard to read there.
WIDTH_WITHOUT_TERMINAL = 200

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Cells of a table as text; the first column holds names, the others numbers."""

    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def print_table(
    rows: Sequence[Row],
    columns: Sequence[str] = ("cohort",),
    *,
    title: str | None = None,
    console: Console | None = None,
    show: str = "value",
    differences: bool = False,
    **where: Any,
) -> None:
    """Print the rows of a result file as one table; arguments and errors as in `table`.

    Args:
        title: a line above the table.
        console: where to print; standard output if None.
    """
    made = table(rows, columns, show=show, differences=differences, **where)
    if console is None:
        console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
    grid = RichTable(title=title)
    for i, name in enumerate(made.header):
        # As Text, since brackets of an interval may read as markup.
        grid.add_column(Text(name), justify="right" if i else "left", overflow="fold")
    for line in made.lines:
        grid.add_row(*map(Text, line))
    console.print(grid)


def markdown_table(
    rows: Sequence[Row],
    columns: Sequence[str] = ("cohort",),
    *,
    show: str = "value",
    differences: bool = False,
    **where: Any,
) -> str:
    """Return the table of `print_table` as GitHub Markdown, ending without a line end."""
    made = table(rows, columns, show=show, differences=differences, **where)
    rule = ["---"] + ["---:"] * (len(made.header) - 1)
    lines = [[_cell(text) for text in line] for line in (made.header, *made.lines)]
    lines.insert(1, rule)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def table(
    rows: Sequence[Row],
    columns: Sequence[str] = ("cohort",),
    *,
    show: str = "value",
    differences: bool = False,
    **where: Any,
) -> Table:
    """Arrange rows: a system a line, in the order of the rows; rates in percent with interval.

    Rows of `speed_row` give one line each instead. Where all cells of a column were measured on
    the same number of speakers, the header says how many.

    Args:
        rows: of a result file; those of another kind are passed over.
        columns: fields whose values make the columns, such as ``("cohort", "domain")``.
        show: ``value`` (with its interval), ``clipped``, ``macro`` (mean over speakers), or one
            kind of error over the reference units: ``insertions``, ``deletions``,
            ``substitutions``; ``cost`` gives a line for each row of costs instead.
        differences: take the rows of `difference_row` (in percentage points) and not the errors;
            a star marks those whose p-value, adjusted for the table, is below 0.05.
        where: take the rows with these values. `metric` is ``wer`` unless given, and rows with a
            severity count only if `severity` is given or among the columns. A list or tuple
            takes any of its values, in its order.
    Raises:
        ConfigError: no row is left, two of them claim one cell, they were scored under different
            protocols or by different normalisers, or `show` is unknown.
    """
    if rows and all("benchmark" in row for row in rows):
        return _speed_table(_chosen(rows, where))
    if show == "cost":
        return _cost_table([row for row in rows if "cost" in row])
    if show not in SHOWN or (differences and show != "value"):
        raise ConfigError(
            f"a table of {'differences' if differences else 'errors'} cannot show {show!r}; "
            f"it shows {'value' if differences else ', '.join(SHOWN)}"
        )
    picked = _pick(rows, columns, differences, where)
    if not picked:
        raise ConfigError(f"no row has {_words(where) or 'what was asked for'}; nothing to show")
    if "protocol" not in columns:
        _check_protocol(picked)
    cells: dict[tuple[str, tuple[Any, ...]], Row] = {}
    for row in picked:
        place = _system(row), tuple(row.get(name) for name in columns)
        if place in cells:
            raise ConfigError(
                f"two rows for {place[0]} at {', '.join(map(str, place[1]))}; "
                "add a field that tells them apart to `columns`, or choose one value of it"
            )
        cells[place] = row
    names = list(dict.fromkeys(system for system, _ in cells))
    keys = list(dict.fromkeys(key for _, key in cells))
    header = [_heading(key, [row for (_, k), row in cells.items() if k == key]) for key in keys]
    lines = [
        (name, *(_number(cells.get((name, key)), show, differences) for key in keys))
        for name in names
    ]
    return Table(("system", *header), tuple(lines))


def _pick(
    rows: Sequence[Row], columns: Sequence[str], differences: bool, where: Mapping[str, Any]
) -> list[Row]:
    wanted = {"metric": "wer"} | dict(where)
    if "severity" not in columns:
        wanted = {"severity": None} | wanted
    if "metric" in columns and "metric" not in where:
        del wanted["metric"]
    picked = [
        row
        for row in rows
        if "system" in row
        and ("against" in row) == differences
        and ("severity" not in columns or row.get("severity") is not None)
        and all(row.get(key) in _choices(value) for key, value in wanted.items())
    ]
    for key, value in reversed(wanted.items()):
        if isinstance(value, (list, tuple)):
            picked.sort(key=lambda row, key=key, order=value: order.index(row[key]))  # type: ignore[misc]
    return picked


def _check_protocol(rows: Sequence[Row]) -> None:
    """Raise ConfigError where rows of one table were scored by different rules."""
    scored: dict[tuple[Any, ...], str] = {}
    for row in rows:
        norm = row.get("normaliser") or {}
        rules = row.get("protocol"), norm.get("name"), norm.get("hash")
        scored.setdefault(rules, row["system"])
    if len(scored) > 1:
        (a, first), (b, second) = list(scored.items())[:2]
        raise ConfigError(
            f"one table cannot hold {first}, scored by {_rules(a)}, and {second}, scored by "
            f"{_rules(b)}; choose one protocol, or score one of them again"
        )


def _rules(rules: tuple[Any, ...]) -> str:
    name, norm, digest = rules
    return f"protocol {name!r} (normaliser {norm} {digest})" if name else "a protocol not named"


def _choices(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)


def _system(row: Row) -> str:
    return f"{row['system']} \N{MINUS SIGN} {row['against']}" if "against" in row else row["system"]


def _heading(key: tuple[Any, ...], rows: Sequence[Row]) -> str:
    name = ", ".join(str(part) for part in key)
    numbers = {row.get("n_speakers") for row in rows}
    if len(numbers) != 1 or None in numbers:
        return name
    n = numbers.pop()
    return f"{name} ({n} speaker{'' if n == 1 else 's'})"


def _number(row: Row | None, show: str, differences: bool) -> str:
    """Return one cell in percent, such as ``12.3 [10.1, 14.6]``."""
    if row is None:
        return ""
    sign = "+" if differences else ""
    if show in ("insertions", "deletions", "substitutions"):
        errors = row["errors"]
        units = errors["hits"] + errors["substitutions"] + errors["deletions"]
        return _percent(errors[show] / units if units else None)
    if show in ("clipped", "macro"):
        return _percent(row.get(show))
    low, high = row.get("low"), row.get("high")
    text = _percent(row["value"], sign)
    if low is None or high is None:
        return f"{text} ({row['reason']})" if row.get("reason") else text
    star = "*" if (row.get("p_holm") or 1.0) < SIGNIFICANT else ""
    return f"{text} [{_percent(low, sign)}, {_percent(high, sign)}]{star}"


def _percent(fraction: float | None, sign: str = "") -> str:
    if fraction is None:
        return "n/a"
    # Rounded first, so that a difference of -0.0001 does not read "-0.0".
    return f"{round(100 * fraction, 1) + 0.0:{sign}.1f}"


def _chosen(rows: Sequence[Row], where: Mapping[str, Any]) -> list[Row]:
    """Return the rows of `speed_row` with these values; None, which they do not have, is any."""
    wanted = {key: value for key, value in where.items() if value is not None}
    chosen = [row for row in rows if all(row.get(k) in _choices(v) for k, v in wanted.items())]
    if not chosen:
        raise ConfigError(f"no row has {_words(wanted)}; nothing to show")
    return chosen


def _speed_table(rows: Sequence[Row]) -> Table:
    lines = []
    for row in rows:
        low, high = row.get("low"), row.get("high")
        interval = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
        ratio = "n/a" if row["ratio"] is None else f"{row['ratio']:.2f}{interval}"
        lines.append((row["benchmark"], row["peer"], row["setting"], ratio, str(row["rounds"])))
    return Table(("benchmark", "peer", "setting", "ratio", "rounds"), tuple(lines))


def _cost_table(rows: Sequence[Row]) -> Table:
    if not rows:
        raise ConfigError("no row says what a system costs; run eval.comparison")
    header = ("system", "trained", "generated", "training", "a step", "peak memory")
    lines = [
        (
            row["system"],
            f"{row['n_trained']:,} ({100 * row['share_trained']:.2g} %)",
            f"{row['n_generated']:,}" if row["n_generated"] else "",
            f"{row['seconds'] / 60:.1f} min" if row.get("seconds") is not None else "",
            f"{1000 * row['step_s']:.0f} ms" if row.get("step_s") is not None else "",
            f"{row['peak_rss_mib']:.0f} MiB" if row.get("peak_rss_mib") is not None else "",
        )
        for row in rows
    ]
    return Table(header, tuple(lines))


def _words(where: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value!r}" for key, value in where.items())
