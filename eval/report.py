"""One page of everything that was measured: tables, figures, and where each number comes from.

    python -m eval.report --results results --out results/report.html

Reads every result file of a folder, whoever made it, and writes one HTML page that needs nothing
else: figures are inside, there are no scripts, and it opens without a network. Every file has a
section: the command and the commit behind it, error rates (systems by cohort, what was recorded
apart from what was simulated), a figure of them, differences, errors by severity, speed, and a
table of its fields for whatever else was measured. The tables of single corpora, subsets and
further metrics are folded below.

A damaged file, a file that is none of ours, and rows that do not say what rows must say stop the
program with one line, and nothing is written.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from eval.lib import results
from eval.lib.scores import RECORDED
from eval.lib.tables import Table, table
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError, MissingExtra
from hyperasr.metrics.error_rates import METRICS
from hyperasr.util.files import atomic_write_text
from train.loop.program import read_config, run_program

FIRST = ("unadapted", "zero_shot", "leave_one_cohort_out", "comparison")
# Rows of different values of these stand in different tables.
APART = ("metric", "protocol", "subset", "corpus", "held_out", "budget", "compared")
FURTHER = ("subset", "corpus")  # rows that have one of these are no headline
SHOWN = {
    "clipped": "errors of an utterance count up to its length only",
    "macro": "mean over speakers",
    "insertions": "insertions only",
    "deletions": "deletions only",
    "substitutions": "substitutions only",
}
TITLE = "Recognition of atypical speech"
LONGEST_OPEN = 30  # lines of a table of fields that is not folded
MOST_LINES = 5000  # of a table of fields
WIDEST = 40  # letters of a cell that are kept on one line
STYLE = """
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.5rem; color: #1b1b1b; background: #fff;
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { margin: 0; line-height: 1.2; }
h2 { margin: 3rem 0 0; padding-top: .8rem; border-top: 2px solid #1b1b1b; }
p { max-width: 50rem; margin: .4rem 0; }
nav { columns: 3; margin: 1rem 0; }
nav a { display: block; }
code { font: .88em ui-monospace, "DejaVu Sans Mono", Consolas, monospace; overflow-wrap: anywhere; }
summary { cursor: pointer; color: #0072b2; margin: .8rem 0; }
.made, .note { color: #5a5a5a; font-size: .85rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
caption span { font-weight: 400; color: #5a5a5a; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #d9d9d9;
  white-space: nowrap; vertical-align: baseline; }
th { border-bottom: 1.5px solid #1b1b1b; vertical-align: bottom; white-space: normal; }
.name, .long { text-align: left; }
.long { white-space: normal; min-width: 14rem; }
svg { max-width: 100%; height: auto; }
@media (max-width: 40rem) { nav { columns: 1; } body { padding: 1rem; } }
@media print { @page { size: A4 landscape; margin: 12mm; } table { font-size: 7pt; }
  nav { display: none; } tr, svg { break-inside: avoid; } .wide { overflow: visible; } }
"""
ABOUT = (
    "Error rates are in percent, differences in percentage points: below 0 the first system makes "
    "fewer errors. Brackets hold 95 % intervals over draws of whole speakers. * p &lt; 0.05 by "
    "permutation of speakers, adjusted for its table by Holm’s method. <strong>Simulated speech is "
    "made from typical recordings and says nothing about real patients.</strong>"
)

Row = dict[str, Any]
Rows = Sequence[Row]


@dataclass(frozen=True)
class ReportConfig:
    """What to read, and where to write the page."""

    results: Path = Path("results")
    """Folder of result files."""
    out: Path = Path("results/report.html")
    """The page."""

    def __post_init__(self) -> None:
        if self.out.suffix != ".html":
            raise ConfigError(f"out is {self.out}; the page is HTML, give it the ending .html")


@dataclass(frozen=True)
class Block:
    """A piece of a section: HTML, and the heading under which it is folded, if it is."""

    html: str
    fold: str = ""


def kind_of(row: Mapping[str, Any]) -> str:
    """Return what a row is: ``error``, ``difference``, ``forgetting``, ``speed`` or ``other``."""
    if "ratio" in row:
        return "speed"
    # A note without a value says why nothing was measured.
    if "measure" in row or ("note" in row and row.get("value") is None):
        return "other"
    if row.get("metric") in METRICS or "errors" in row:
        return "difference" if "against" in row else "error"
    return "forgetting" if "against" in row and "cohort" not in row else "other"


def is_further(row: Mapping[str, Any]) -> bool:
    """Say whether a row is of one corpus or subset, and not of the headline."""
    return any(row.get(name) is not None for name in FURTHER)


def grouped(rows: Iterable[Row], fields: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """Return rows by the values of some fields, in the order of the rows."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(name) for name in fields), []).append(row)
    return found


# Tables


def html_table(made: Table, caption: str, note: str = "") -> str:
    """Return a table as HTML; every text is escaped, and the first column holds names."""

    def line(tag: str, texts: Sequence[str]) -> str:
        cells = []
        for place, text in enumerate(texts):
            name = "name" if place == 0 else "long" if len(text) > WIDEST else ""
            kind = f' class="{name}"' if name else ""
            cells.append(f"<{tag}{kind}>{escape(text)}</{tag}>")
        return f"<tr>{''.join(cells)}</tr>"

    said = f" <span>{escape(note)}</span>" if note else ""
    body = "\n".join(line("td", texts) for texts in made.lines)
    return (
        f'<div class="wide"><table><caption>{escape(caption)}{said}</caption>\n'
        f"<thead>{line('th', made.header)}</thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def block(title: str, made: Table, place: Mapping[str, Any], fold: str = "") -> Block:
    """Return a table with what all its rows have in common, such as ``corpus an4``."""
    common = (f"{k.replace('_', ' ')} {v}" for k, v in place.items() if v is not None)
    return Block(html_table(made, title, ", ".join(common)), fold)


def rate_blocks(rows: Rows, differences: bool) -> list[Block]:
    """Return tables of error rates, or of their differences; the headline comes first.

    The headline is of the metric that comes first in the file, of all corpora together. Each
    cohort's errors by severity have a table of their own.
    """
    blocks = []
    ordered = sorted(rows, key=lambda r: (r["cohort"] == TYPICAL, str(r["domain"])))
    for key, own in grouped(ordered, APART).items():
        place = dict(zip(APART, key, strict=True))
        metric = place.pop("metric")
        further = is_further(place) or metric != rows[0]["metric"]
        what = f"Differences in {metric.upper()}" if differences else metric.upper()
        unit = "points" if differences else "percent"
        fold = "Further differences" if differences else "Further error rates"
        options: Row = {"differences": differences, "metric": metric}
        plain = [row for row in own if row.get("severity") is None]
        levels = [row for row in own if row.get("severity") is not None]
        if plain:
            made = table(plain, ("cohort", "domain"), **options)
            blocks.append(block(f"{what}, {unit}", made, place, fold if further else ""))
        for (cohort, domain), of_cohort in grouped(levels, ("cohort", "domain")).items():
            made = table(of_cohort, ("severity",), **options)
            title = f"{what} by severity, {cohort}, {domain}, {unit}"
            blocks.append(block(title, made, place, fold if further or differences else ""))
        counted = [row for row in plain if "errors" in row]
        if counted and not (further or differences):
            for show, said in SHOWN.items():
                made = table(counted, ("cohort", "domain"), show=show, metric=metric)
                blocks.append(block(f"{what}, {said}, {unit}", made, place, fold))
    return blocks


def forgetting_blocks(rows: Rows) -> list[Block]:
    """Return tables of differences that are of no cohort, such as backward degradation."""
    blocks = []
    for key, own in grouped(rows, APART[1:]).items():
        place = dict(zip(APART[1:], key, strict=True))
        columns = ("metric", "domain") if any("domain" in row for row in own) else ("metric",)
        metrics = tuple(dict.fromkeys(row["metric"] for row in own))
        made = table(own, columns, differences=True, metric=metrics)
        fold = "Further rows of forgetting" if is_further(place) else ""
        blocks.append(block("Forgetting, percent", made, place, fold))
    return blocks


def field_blocks(rows: Rows) -> list[Block]:
    """Return rows as they are: a table for each measure, a line a row, a column a field.

    A field that is the same in all rows stands in the caption, and lists stay in the file.
    """
    blocks = []
    for (measure, level, _), own in grouped(rows, ("measure", "level", "cost")).items():
        shown = [{k: _field(k, v) for k, v in row.items() if k != "measure"} for row in own]
        names = [n for n in dict.fromkeys(n for row in shown for n in row) if _plain(n, own)]
        same = [n for n in names if len(own) > 1 and len({row.get(n) for row in shown}) == 1]
        same = [name for name in same if name not in ("system", "value")]
        columns = [name for name in names if name not in same]
        lines = [tuple(row.get(name, "") for name in columns) for row in shown[:MOST_LINES]]
        notes = [f"{name.replace('_', ' ')} {shown[0][name]}" for name in same]
        if len(own) > MOST_LINES:
            notes.append(f"the first {MOST_LINES:,} of {len(own):,} rows")
        title = ", ".join(str(part) for part in (measure, level) if part is not None)
        title = title.replace("_", " ").capitalize() or "What was measured"
        made = Table(tuple(name.replace("_", " ") for name in columns), tuple(lines))
        fold = f"{title}, {len(own):,} rows" if len(own) > LONGEST_OPEN else ""
        blocks.append(Block(html_table(made, title, ", ".join(notes)), fold))
    return blocks


def _plain(name: str, rows: Rows) -> bool:
    return not any(isinstance(row.get(name), list | dict) for row in rows)


def _field(name: str, value: Any) -> str:
    if value is None:
        return "n/a" if name == "value" else ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def error_figure(rows: Rows, name: str) -> str:
    """Return the error rates of a file's headline as SVG: a panel a cohort, a line a system.

    Recorded cohorts have full points and come first, simulated ones open points.

    Args:
        rows: error rows; where a system has several of a panel, the first counts.
        name: of the file; makes the identifiers in the picture its own.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra(
            "the page's figures need matplotlib; install it with pip install -e .[report]"
        ) from error
    # A panel is a cohort; where one was held out, a panel is a cohort of that fold.
    shown: dict[tuple[str, str, str | None], dict[str, Row]] = {}
    for row in sorted(rows, key=lambda r: (r["cohort"] == TYPICAL, str(r["domain"]))):
        headline = row.get("severity") is None and not is_further(row)
        if headline and row["metric"] == rows[0]["metric"] and row["value"] is not None:
            panel = row["cohort"], row["domain"], row.get("held_out")
            shown.setdefault(panel, {}).setdefault(row["system"], row)
    if not shown:
        return ""
    systems = list(dict.fromkeys(system for panel in shown.values() for system in panel))
    style: Any = {"font.size": 9, "axes.titlesize": 9, "axes.grid": True, "grid.color": "#e2e2e2"}
    with rc_context({**style, "svg.fonttype": "none", "svg.hashsalt": name}):
        # Names on the left take 0.075 inches a letter, a line of text 0.2, a title 0.5.
        width = 0.075 * max(map(len, systems)) + 1.6 * max(2, len(shown))
        figure = Figure(figsize=(width, 1.1 + 0.21 * len(systems)), layout="constrained")
        axes = figure.subplots(1, len(shown), squeeze=False, sharex=True, sharey=True)[0]
        for axis, ((cohort, domain, held_out), panel) in zip(axes, shown.items(), strict=True):
            simulated = domain != RECORDED
            colour = "#D55E00" if simulated else "#0072B2"
            for system, row in panel.items():
                y = systems.index(system)
                if None not in (row.get("low"), row.get("high")):
                    axis.plot([100 * row["low"], 100 * row["high"]], [y, y], color=colour, lw=1.5)
                face = "white" if simulated else colour
                axis.plot(100 * row["value"], y, "o", color=colour, mfc=face, ms=5)
            title = [cohort, domain] + ([f"held out: {held_out}"] if held_out is not None else [])
            axis.set_title("\n".join(title), parse_math=False)
            axis.locator_params(axis="x", nbins=4)
        axes[0].set_xlim(left=0)
        axes[0].set_ylim(len(systems) - 0.5, -0.5)
        axes[0].set_yticks(range(len(systems)), systems, parse_math=False)
        unit = str(rows[0]["metric"]).upper()
        figure.supxlabel(f"{unit}, percent, with 95 % intervals", fontsize=9)
        stream = io.StringIO()
        about = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=about)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    own = re.sub(r"\W", "_", name)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{unit} by cohort"', 1)


# The page


def section(name: str, content: Mapping[str, Any]) -> str:
    """Return the section of one result file.

    Raises:
        ConfigError: rows that do not belong into one table.
    """
    rows = list(content["rows"])
    rows += [{"measure": n, **m} for n, m in (content.get("measures") or {}).items() if m]
    kinds = ("error", "difference", "forgetting", "speed", "other")
    by_kind = {kind: [row for row in rows if kind_of(row) == kind] for kind in kinds}
    blocks = rate_blocks(by_kind["error"], differences=False)
    if errors := by_kind["error"]:
        blocks.insert(1, Block(error_figure(errors, name)))
    blocks += rate_blocks(by_kind["difference"], differences=True)
    blocks += forgetting_blocks(by_kind["forgetting"])
    if speed := by_kind["speed"]:
        title = "Throughput, ours over the peer's (above 1: ours is the faster)"
        blocks.append(block(title, table(speed), {}))
    blocks += field_blocks(by_kind["other"])
    opened = "\n".join(block.html for block in blocks if not block.fold)
    for fold in dict.fromkeys(block.fold for block in blocks if block.fold):
        inside = "\n".join(block.html for block in blocks if block.fold == fold)
        opened += f"\n<details><summary>{escape(fold)}</summary>{inside}</details>"
    return (
        f'<section id="{escape(name)}">\n<h2>{escape(name.replace("_", " ").capitalize())}</h2>\n'
        f"{origin(content)}\n{opened or '<p>The file has no rows.</p>'}\n</section>"
    )


def origin(content: Mapping[str, Any]) -> str:
    """Return where a file comes from, as HTML."""
    norm, machine = content["normaliser"], content["machine"] or {}
    parts = [f"commit {content['git_commit']}", f"made {content['created']}"]
    parts += [str(content["protocol"])]
    parts += [f"normaliser {norm.get('name')} {norm.get('hash')}"] if norm else []
    parts.append(f"{machine.get('cpu')}, {machine.get('cores')} cores")
    parts += [str(machine["accelerator"])] if machine.get("accelerator") else []
    if skipped := content.get("skipped"):
        parts.append("left out: " + "; ".join(f"{name}, {why}" for name, why in skipped.items()))
    command = escape(str(content["command"]).strip())
    return f'<p class="made"><code>{command}</code><br/>{escape(" · ".join(parts))}</p>'


def page(contents: Mapping[str, Mapping[str, Any]], folder: Path) -> str:
    """Return the page as HTML: results of recognition first, then speed and the rest.

    Args:
        contents: result files by name.
        folder: where they are, for errors.
    Raises:
        ConfigError: a file that cannot be shown, with its name.
    """

    def place(name: str) -> tuple[bool, int, str]:
        no_errors = all(kind_of(row) != "error" for row in contents[name]["rows"])
        return no_errors, FIRST.index(name) if name in FIRST else len(FIRST), name

    sections, links = [], []
    for name in sorted(contents, key=place):
        try:
            sections.append(section(name, contents[name]))
        except ConfigError as error:
            raise ConfigError(f"{folder / name}.json: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{folder / name}.json: a head or row is not as it must be ({error!r}); make it "
                "again, or move it elsewhere"
            ) from error
        links.append(f'<a href="#{escape(name)}">{escape(name.replace("_", " ").capitalize())}</a>')
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{TITLE}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{TITLE}</h1>\n<p class="note">{ABOUT}</p>\n'
        f"<nav>{''.join(links)}</nav>\n<main>\n" + "\n".join(sections) + "\n</main>\n</body>\n"
        "</html>\n"
    )


def main() -> None:
    """Read the results, write the page."""
    config = read_config(ReportConfig)
    contents = {path.stem: results.read(path) for path in sorted(config.results.glob("*.json"))}
    if not contents:
        raise ConfigError(f"{config.results} has no result file; run an evaluation program first")
    html = page(contents, config.results)
    atomic_write_text(config.out, html)
    print(f"{config.out}: {len(contents)} result files, {len(html) / 1e6:.1f} MB")


if __name__ == "__main__":
    run_program(main)
