"""Tables of measurements: systems down, cohorts across, the same in a terminal and in Markdown."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from hyperasr.errors import ConfigError

SHOWN = ("value", "clipped", "macro", "insertions", "deletions", "substitutions")
SIGNIFICANT = 0.05  # of an adjusted p-value
# A pipe or a file has no width of its own, and wrapped cells are hard to read there.
WIDTH_WITHOUT_TERMINAL = 200
BY_COHORT = ("cohort", "domain")

Row = Mapping[str, Any]


class NoRows(ConfigError):
    """No row is of what a table is to show."""


@dataclass(frozen=True)
class Table:
    """Cells of a table as text; the first `n_names` columns hold names, the others numbers."""

    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    n_names: int = 1


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
    rows: Sequence[Row], columns: Sequence[str] = BY_COHORT, *, title: str, **options: Any
) -> None:
    """Print a table where there is a row for it; options are those of `table`.

    Rows of one corpus and those of a subset are left out unless the options ask for them.
    """
    with suppress(NoRows):
        made = table(rows, columns, **{"corpus": None, "subset": None, **options})
        print_lines(title, made.header, made.lines)


def markdown(made: Table) -> str:
    """Return a table as GitHub Markdown, ending without a line end."""
    rule = ["---"] * made.n_names + ["---:"] * (len(made.header) - made.n_names)
    lines = [[t.replace("|", "\\|") for t in line] for line in (made.header, *made.lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def table(
    rows: Sequence[Row],
    columns: Sequence[str] = ("cohort",),
    *,
    show: str = "value",
    differences: bool = False,
    **where: Any,
) -> Table:
    """Arrange rows: a system a line, in the order of the rows; rates in percent with interval.

    Rows of `eval.lib.results.speed_row` give one line each instead. Where all cells of a column
    were measured on the same number of speakers, the header says how many.

    Args:
        rows: of a result file; those of another kind are passed over.
        columns: fields whose values make the columns, such as ``("cohort", "domain")``.
        show: ``value`` (with its interval), ``clipped``, ``macro`` (mean over speakers), or one
            kind of error over the reference units: ``insertions``, ``deletions``,
            ``substitutions``; ``cost`` gives a line for each row of costs instead.
        differences: take the differences (in percentage points) and not the errors; a star marks
            those whose p-value, adjusted for the table, is below 0.05.
        where: take the rows with these values. `metric` is ``wer`` unless given, and rows with a
            severity count only if `severity` is given or among the columns. A list or tuple
            takes any of its values, in its order.
    Raises:
        NoRows: no row is left.
        ConfigError: two rows claim one cell, they were scored under different protocols or by
            different normalisers, or `show` is unknown.
    """
    if rows and all("benchmark" in row for row in rows):
        return _speed_table(rows, {name: v for name, v in where.items() if v is not None})
    if show == "cost":
        return _cost_table([row for row in rows if "cost" in row])
    if show not in SHOWN or (differences and show != "value"):
        raise ConfigError(
            f"a table of {'differences' if differences else 'errors'} cannot show {show!r}; "
            f"it shows {'value' if differences else ', '.join(SHOWN)}"
        )
    picked = _pick(rows, columns, differences, where)
    if not picked:
        raise NoRows(f"no row has {_words(where) or 'what was asked for'}; nothing to show")
    if "protocol" not in columns:
        _check_protocol(picked)
    cells: dict[tuple[str, tuple[Any, ...]], Row] = {}
    for row in picked:
        system = (
            f"{row['system']} \N{MINUS SIGN} {row['against']}" if differences else row["system"]
        )
        place = system, tuple(row.get(name) for name in columns)
        if place in cells:
            raise ConfigError(
                f"two rows for {place[0]} at {', '.join(map(str, place[1]))}; "
                "add a field that tells them apart to `columns`, or choose one value of it"
            )
        cells[place] = row
    names, keys = (dict.fromkeys(place[side] for place in cells) for side in (0, 1))
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
    scored: dict[str, str] = {}
    for row in rows:
        rules, norm = "a protocol not named", row.get("normaliser") or {}
        if name := row.get("protocol"):
            rules = f"protocol {name!r} (normaliser {norm.get('name')} {norm.get('hash')})"
        scored.setdefault(rules, row["system"])
    if len(scored) > 1:
        (a, first), (b, second) = list(scored.items())[:2]
        raise ConfigError(
            f"one table cannot hold {first}, scored by {a}, and {second}, scored by {b}; choose "
            "one protocol, or score one of them again"
        )


def _choices(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)


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
    if show in ("insertions", "deletions", "substitutions"):
        errors = row["errors"]
        units = errors["hits"] + errors["substitutions"] + errors["deletions"]
        return with_interval({"value": errors[show] / units if units else None}, 1, 100)
    if show != "value":
        return with_interval({"value": row.get(show)}, 1, 100)
    text = with_interval(row, 1, 100, "+" if differences else "")
    if row.get("low") is None:
        return f"{text} ({row['reason']})" if row.get("reason") else text
    return f"{text}{'*' if (row.get('p_holm') or 1.0) < SIGNIFICANT else ''}"


def with_interval(row: Row, digits: int = 3, factor: float = 1.0, sign: str = "") -> str:
    """Return a row's value, with its interval where there is one; ``+`` as sign shows it always."""
    value, low, high = (
        # Rounded first, so that a difference of -0.0001 does not read "-0.0".
        None if x is None else f"{round(factor * x, digits) + 0.0:{sign}.{digits}f}"
        for x in (row["value"], row.get("low"), row.get("high"))
    )
    if value is None:
        return "n/a"
    return value if low is None or high is None else f"{value} [{low}, {high}]"


def _words(where: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value!r}" for key, value in where.items())


def _speed_table(rows: Sequence[Row], where: Mapping[str, Any]) -> Table:
    rows = [row for row in rows if all(row.get(k) in _choices(v) for k, v in where.items())]
    if not rows:
        raise NoRows(f"no row has {_words(where)}; nothing to show")
    names = ("benchmark", "peer", "setting")
    lines = []
    for row in rows:
        ratio = with_interval({**row, "value": row["ratio"]}, 2)
        lines.append((*(row[name] for name in names), ratio, str(row["rounds"])))
    return Table((*names, "ratio", "rounds"), tuple(lines))


def _cost_table(rows: Sequence[Row]) -> Table:
    if not rows:
        raise ConfigError("no row says what a system costs; run eval.comparison")

    def cell(row: Row, name: str, factor: float, form: str) -> str:
        return "" if row.get(name) is None else form.format(factor * row[name])

    header = ("system", "trained", "generated", "training", "a step", "peak memory")
    lines = [
        (
            row["system"],
            f"{row['n_trained']:,} ({100 * row['share_trained']:.2g} %)",
            f"{row['n_generated']:,}" if row["n_generated"] else "",
            cell(row, "seconds", 1 / 60, "{:.1f} min"),
            cell(row, "step_s", 1000, "{:.0f} ms"),
            cell(row, "peak_rss_mib", 1, "{:.0f} MiB"),
        )
        for row in rows
    ]
    return Table(header, tuple(lines))


def confidence_table(
    rows: Sequence[Row], measures: Sequence[str], cohort: str | None, domain: str | None = None
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
    return Table(("system", "confidence", *measures), lines, 2)
