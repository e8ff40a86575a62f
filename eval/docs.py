"""Put the tables of `results/` into the README and the pages of `docs/`, between their markers.

    python -m eval.docs            # rewrite
    python -m eval.docs --check    # exit 1 where a page and the results differ

A marker is a comment with the file and what to show of it:

    <!-- table: results/zero_shot.json domain=all cohort=stuttering,typical -->
    ...
    <!-- end -->

Options are fields and their values (several with commas, in their order); `columns`, `show` and
`differences=true` are those of `eval.lib.tables.table`. `measures=auroc,brier` makes a table
of the confidence of words instead: a line for each system and kind of confidence. `points=true`
makes that of a sweep: a line for each point.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from eval.lib import results
from eval.lib.error_tables import Table
from eval.lib.tables import confidence_table, points_table
from hyperasr.util.files import atomic_write_text

ROOT = Path(__file__).parents[1]
STAR = "\\* p < 0.05, permutation of speakers, adjusted for the table by Holm's method."
NUMBERS = ("severity", "budget")  # fields whose values are no names
MARKER = re.compile(r"(<!-- table: (\S+)([^>]*) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def table(path: str, options: str) -> str:
    """Return one table as Markdown, with the command that made its file."""
    where: dict[str, Any] = {"corpus": None, "subset": None}
    columns = ["cohort"]
    shown: dict[str, object] = {}
    for option in options.split():
        key, value = option.split("=")
        if key == "columns":
            columns = value.split(",")
        elif key == "differences":
            shown[key] = value == "true"
        elif key == "show":
            shown[key] = value
        else:
            values = [float(v) if key in NUMBERS else v for v in value.split(",")]
            where[key] = values if len(values) > 1 else values[0]
    content = results.read(ROOT / path)
    source = f"`{content['command'].strip()}` → `{path}`\n"
    if "measures" in where:
        names = where["measures"] if isinstance(where["measures"], list) else [where["measures"]]
        shape = confidence_table(content["rows"], names, where.get("cohort"), where.get("domain"))
        return f"{markdown(shape, n_names=2)}\n\n{source}"
    if "points" in where:
        return f"{markdown(points_table(content['rows']), n_names=3)}\n\n{source}"
    made = results.markdown_table(content["rows"], columns, **shown, **where)  # type: ignore[arg-type]
    star = f"{STAR}\n\n" if "]*" in made else ""
    return f"{made}\n\n{star}{source}"


def markdown(table: Table, n_names: int) -> str:
    """Return a table as Markdown; its first columns are names, the others numbers."""
    rule = ["---"] * n_names + ["---:"] * (len(table.header) - n_names)
    return "\n".join(f"| {' | '.join(line)} |" for line in (table.header, rule, *table.lines))


def pages() -> list[Path]:
    """Return the pages that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rendered(text: str) -> str:
    """Return a page with every table made anew."""
    return MARKER.sub(lambda m: m[1] + table(m[2], m[3]) + m[5], text)


def main() -> None:
    """Rewrite or check the pages."""
    for page in pages():
        old = page.read_text(encoding="utf-8")
        new = rendered(old)
        if "--check" in sys.argv[1:]:
            if old != new:
                sys.exit(f"{page.name} and results/ differ; run: python -m eval.docs")
        elif old != new:
            atomic_write_text(page, new)


if __name__ == "__main__":
    main()
