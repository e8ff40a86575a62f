"""Put the tables of `results/` into the README and the pages of `docs/`, between their markers.

    python -m eval.docs

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

from eval.lib import results, tables
from hyperasr.util.files import atomic_write_text

ROOT = Path(__file__).parents[1]
STAR = "\\* p < 0.05, permutation of speakers, adjusted for the table by Holm's method."
NUMBERS = ("severity", "budget")  # fields whose values are no names
MARKER = re.compile(r"(<!-- table: (\S+)([^>]*) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def table(path: str, options: str) -> str:
    """Return one table as Markdown, with the command that made its file."""
    where: dict[str, Any] = {"corpus": None, "subset": None}
    columns = ["cohort"]
    shown: dict[str, Any] = {}
    for option in options.split():
        key, value = option.split("=")
        if key == "columns":
            columns = value.split(",")
        elif key in ("differences", "show"):
            shown[key] = value if key == "show" else value == "true"
        else:
            values = [float(v) if key in NUMBERS else v for v in value.split(",")]
            where[key] = values if len(values) > 1 else values[0]
    content = results.read(ROOT / path)
    rows = content["rows"]
    if measures := where.get("measures"):
        names = measures if isinstance(measures, list) else [measures]
        made = tables.confidence_table(rows, names, where.get("cohort"), where.get("domain"))
    elif "points" in where:
        from eval.sweep import points_table  # which imports what trains

        made = points_table(rows)
    else:
        made = tables.table(rows, columns, **shown, **where)
    text = tables.markdown(made)
    star = f"{STAR}\n\n" if "]*" in text else ""
    return f"{text}\n\n{star}`{content['command'].strip()}` → `{path}`\n"


def pages() -> list[Path]:
    """Return the pages that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rendered(text: str) -> str:
    """Return a page with every table made anew."""
    return MARKER.sub(lambda m: m[1] + table(m[2], m[3]) + m[5], text)


def main() -> None:
    """Rewrite the pages that differ."""
    if sys.argv[1:]:
        raise SystemExit(f"error: eval.docs takes no arguments, such as {sys.argv[1]}")
    for page in pages():
        old = page.read_text(encoding="utf-8")
        if (new := rendered(old)) != old:
            atomic_write_text(page, new)


if __name__ == "__main__":
    main()
