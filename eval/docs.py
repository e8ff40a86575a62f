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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.lib import results
from eval.lib.sweep_table import points_table
from hyperasr.errors import ConfigError
from hyperasr.util.files import atomic_write_text

ROOT = Path(__file__).parents[1]
STAR = "\\* p < 0.05, permutation of speakers, adjusted for the table by Holm's method."
NUMBERS = ("severity", "budget")  # fields whose values are no names
MARKER = re.compile(r"(<!-- table: (\S+)([^>]*) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def table(path: str, options: str) -> str:
    """Return one table as Markdown, with the command that made its file."""
    where: dict[str, object] = {"corpus": None, "subset": None}
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
    if "measures" in where or "points" in where:
        if "points" in where:
            points = points_table(content["rows"])
            made = markdown(points.header, points.lines, n_names=3)
        else:
            made = measures_table(content["rows"], where)
        return f"{made}\n\n`{content['command'].strip()}` → `{path}`\n"
    made = results.markdown_table(content["rows"], columns, **shown, **where)  # type: ignore[arg-type]
    star = f"{STAR}\n\n" if "]*" in made else ""
    return f"{made}\n\n{star}`{content['command'].strip()}` → `{path}`\n"


def measures_table(rows: list[dict[str, Any]], where: dict[str, Any]) -> str:
    """Return measures of word confidence as Markdown: systems and confidences by measures."""
    domain = where.get("domain")
    names = where["measures"] if isinstance(where["measures"], list) else [where["measures"]]
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        if row.get("level") != "word" or row.get("measure") not in names:
            continue
        measured = row["value"] is not None and "against" not in row
        here = row["cohort"] == where.get("cohort") and domain in (None, row.get("domain"))
        if here and measured:
            text = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            cells.setdefault((row["system"], row["score"]), {})[row["measure"]] = text
    if not cells:
        raise ConfigError(f"no row has the measures {', '.join(names)} of words")
    lines = [
        (system, score.replace("_", " "), *(line.get(n, "") for n in names))
        for (system, score), line in cells.items()
    ]
    return markdown(("system", "confidence", *names), lines, n_names=2)


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]], n_names: int) -> str:
    """Return a table as Markdown; its first columns are names, the others numbers."""
    rule = ["---"] * n_names + ["---:"] * (len(header) - n_names)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))


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
