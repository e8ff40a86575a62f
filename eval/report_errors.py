"""Error rates in the report: tables by domain, kinds of errors, differences, harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eval import report_figures as figures
from eval.controls import CONTROLS
from eval.report_blocks import Block, figure, from_table, picked
from eval.report_style import MINUS
from eval.scores import ATYPICAL
from eval.systems import BACKBONE
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError

__all__ = [
    "EVERYWHERE",
    "difference_blocks",
    "domains_of",
    "error_blocks",
    "is_control",
    "metric_of",
    "stability_blocks",
]

Row = Mapping[str, Any]
Rows = Sequence[Row]

EVERYWHERE = {"corpus": None, "subset": None}
TITLES = {"all": "all recordings", "synthetic": "synthetic voices", "real": "real recordings"}
_CONTROLS = tuple(f"_{name}" for name in CONTROLS)
_KINDS = ("insertions", "deletions", "substitutions")


def is_control(system: str) -> bool:
    """Say whether a system hears something else than the utterance; figures leave these out."""
    return system.endswith(_CONTROLS)


def metric_of(rows: Rows) -> str:
    """Return the error rate that comes first in a file: ``wer`` or ``cer``."""
    found = [row["metric"] for row in rows if row.get("metric") in ("wer", "cer")]
    if not found:
        raise ConfigError("it has no error rates; it was made by another program")
    return str(found[0])


def domains_of(rows: Rows) -> list[str]:
    known = {row.get("domain") for row in rows}
    return [domain for domain in ("all", "synthetic", "real") if domain in known]


def error_blocks(rows: Rows, **where: Any) -> list[Block]:
    """Return a table of error rates for each domain, and one of what the errors are."""
    metric = metric_of(rows)
    blocks = []
    for domain in domains_of(rows):
        own: dict[str, Any] = {**EVERYWHERE, "domain": domain, "metric": metric, **where}
        blocks.append(from_table(rows, f"{metric.upper()} in percent, {TITLES[domain]}", **own))
    own = {**EVERYWHERE, "severity": None, "domain": domains_of(rows)[0], "metric": metric, **where}
    return [*blocks, *kind_blocks(rows, own)]


def kind_blocks(rows: Rows, where: Mapping[str, Any]) -> list[Block]:
    """Return what the errors on atypical speech are, clipped, and as a mean over speakers."""
    chosen = picked(rows, False, **{**where, "cohort": ATYPICAL})
    lines = []
    for row in chosen:
        errors = row["errors"]
        units = errors["hits"] + errors["substitutions"] + errors["deletions"]
        shares = [errors[kind] / units if units else None for kind in _KINDS]
        shares += [row.get("clipped"), row.get("macro")]
        texts = ("n/a" if share is None else f"{100 * share:.1f}" for share in shares)
        lines.append(((row["system"], ""), *((text, "") for text in texts)))
    if not lines:
        return []
    title = f"What the errors are, atypical, {TITLES[where['domain']]}"
    about = (
        "Percent of the reference units. Clipped: errors of an utterance count up to its length "
        "only. Mean over speakers: every speaker counts the same."
    )
    header = ("system", *_KINDS, "clipped", "mean over speakers")
    return [Block("table", title, about, header, tuple(lines))]


def difference_blocks(rows: Rows, note: str = "", **where: Any) -> list[Block]:
    """Return a forest plot and the table it is of; nothing where no pair was compared."""
    metric = metric_of(rows)
    domain = domains_of(rows)[0]
    own: dict[str, Any] = {
        **EVERYWHERE,
        "domain": domain,
        "metric": metric,
        "severity": None,
        **where,
    }
    chosen = picked(rows, differences=True, **own)
    if not chosen:
        return []
    against = {row["against"] for row in chosen}
    title = "Paired differences"
    table = from_table(rows, title, differences=True, **own)
    if len(against) == 1:
        # The title names it, so that the lines need not.
        title = f"Paired differences to {against.pop()}"
        lines = tuple(((_first(line[0][0]), ""), *line[1:]) for line in table.lines)
        table = replace(table, title=title, lines=lines)
    said = (
        "Circles filled blue: fewer errors, squares filled red: more; open: zero is inside. Every "
        f"panel has a scale of its own. {note}"
    )
    return [figure(f"{title}, {TITLES[domain]}", said, figures.forest(chosen)), table]


def _first(pair: str) -> str:
    """Return the first system of a line's name."""
    return pair.partition(f" {MINUS} ")[0]


def stability_blocks(rows: Rows) -> list[Block]:
    """Return gain on atypical speech against harm on typical speech."""
    own: dict[str, Any] = {
        **EVERYWHERE,
        "domain": "all",
        "metric": metric_of(rows),
        "severity": None,
    }
    own["against"] = BACKBONE
    target, typical = (
        [r for r in picked(rows, True, cohort=cohort, **own) if not is_control(r["system"])]
        for cohort in (ATYPICAL, TYPICAL)
    )
    both = {row["system"] for row in target} & {row["system"] for row in typical}
    if not both:
        return []
    note = (
        "Both against the frozen backbone, with 95 percent intervals. To the right: fewer errors "
        "on the simulated cohorts. Below the line: typical speech got better as well."
    )
    plot = figures.stability_plasticity(target, typical)
    return [figure("Stability and plasticity", note, plot)]
