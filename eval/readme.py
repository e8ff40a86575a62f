"""Put the tables of `results/` into README.md, between their markers.

    python -m eval.readme            # rewrite
    python -m eval.readme --check    # exit 1 where the README and the results differ

A marker is a comment with the file and what to show of it:

    <!-- table: results/zero_shot.json domain=all cohort=stuttering,typical -->
    ...
    <!-- end -->

Options are fields and their values (several with commas, in their order); `columns`, `show` and
`differences=true` are those of `hyperasr.tables.table`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from hyperasr import results
from hyperasr.files import atomic_write_text

ROOT = Path(__file__).parents[1]
STAR = "\\* p < 0.05, permutation of speakers, adjusted for the table by Holm's method."
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
            values = [float(v) if key == "severity" else v for v in value.split(",")]
            where[key] = values if len(values) > 1 else values[0]
    content = results.read(ROOT / path)
    made = results.markdown_table(content["rows"], columns, **shown, **where)  # type: ignore[arg-type]
    star = f"{STAR}\n\n" if "]*" in made else ""
    return f"{made}\n\n{star}`{content['command'].strip()}` → `{path}`\n"


def rendered(text: str) -> str:
    """Return the README with every table made anew."""
    return MARKER.sub(lambda m: m[1] + table(m[2], m[3]) + m[5], text)


def main() -> None:
    """Rewrite or check the README."""
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = rendered(old)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if old == new else "README.md and results/ differ; run: python -m eval.readme")
    atomic_write_text(readme, new)


if __name__ == "__main__":
    main()
