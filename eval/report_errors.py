"""Error rates in the report: tables by domain, kinds of errors, differences, harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eval import report_figures as figures
from eval.controls import CONTROLS
from eval.report_blocks import Block, by_cohort, figure, from_table, headline, label, picked
from eval.report_style import MINUS
from eval.scores import ATYPICAL, RECORDED, SIMULATED
from eval.systems import BACKBONE
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError

__all__ = [
    "atypical_of",
    "difference_blocks",
    "error_blocks",
    "is_control",
    "metric_of",
    "stability_blocks",
]

Row = Mapping[str, Any]
Rows = Sequence[Row]

# Domains of files from before rows said recorded or simulated.
_OLD = {"all": "all recordings", "synthetic": "synthetic voices", "real": "real recordings"}
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


def atypical_of(rows: Rows) -> list[tuple[str, str | None]]:
    """Return what stands for atypical speech: cohort and domain, one for each domain.

    That is all cohorts of the domain together, or the only one; what is simulated comes first.
    """
    found: dict[str | None, str] = {}
    for row in picked(rows, False, **headline(rows)):
        cohort, domain = row["cohort"], row.get("domain")
        if cohort == ATYPICAL or (cohort != TYPICAL and domain not in found):
            found[domain] = cohort
    order = [domain for domain in (*_OLD, SIMULATED, RECORDED) if domain in found]
    return [(found[domain], domain) for domain in order]


def error_blocks(rows: Rows, **where: Any) -> list[Block]:
    """Return tables of error rates, and of what the errors on atypical speech are."""
    metric = metric_of(rows)
    known = {row.get("domain") for row in rows}
    blocks = []
    if not known & set(_OLD):
        own: dict[str, Any] = {**headline(rows), "metric": metric, **where}
        blocks.append(from_table(rows, f"{metric.upper()} in percent", by_cohort(rows), **own))
    for domain, title in _OLD.items():
        if domain in known:
            own = {**headline(rows), "domain": domain, "metric": metric, **where}
            blocks.append(from_table(rows, f"{metric.upper()} in percent, {title}", **own))
    own = {**headline(rows), "severity": None, "metric": metric, **where}
    for cohort, domain in atypical_of(rows):
        blocks += kind_blocks(rows, {**own, "cohort": cohort, "domain": domain})
    return blocks


def kind_blocks(rows: Rows, where: Mapping[str, Any]) -> list[Block]:
    """Return what the errors on atypical speech are, clipped, and as a mean over speakers."""
    chosen = picked(rows, False, **where)
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
    title = f"What the errors are, {label(chosen[0])}"
    about = (
        "Percent of the reference units. Clipped: errors of an utterance count up to its length "
        "only. Mean over speakers: every speaker counts the same."
    )
    header = ("system", *_KINDS, "clipped", "mean over speakers")
    return [Block("table", title, about, header, tuple(lines))]


def difference_blocks(rows: Rows, note: str = "", **where: Any) -> list[Block]:
    """Return a forest plot and the table it is of; nothing where no pair was compared."""
    own: dict[str, Any] = {
        **headline(rows),
        "metric": metric_of(rows),
        "severity": None,
        **where,
    }
    chosen = picked(rows, differences=True, **own)
    if not chosen:
        return []
    against = {row["against"] for row in chosen}
    title = "Paired differences"
    table = from_table(rows, title, by_cohort(rows), differences=True, **own)
    if len(against) == 1:
        # The title names it, so that the lines need not.
        title = f"Paired differences to {against.pop()}"
        lines = tuple(((_first(line[0][0]), ""), *line[1:]) for line in table.lines)
        table = replace(table, title=title, lines=lines)
    said = (
        "Circles filled blue: fewer errors, squares filled red: more; open: zero is inside. Every "
        f"panel has a scale of its own. {note}"
    )
    return [figure(title, said, figures.forest(chosen)), table]


def _first(pair: str) -> str:
    """Return the first system of a line's name."""
    return pair.partition(f" {MINUS} ")[0]


def stability_blocks(rows: Rows) -> list[Block]:
    """Return gain on atypical speech against harm on typical speech."""
    own: dict[str, Any] = {**headline(rows), "metric": metric_of(rows), "severity": None}
    own["against"] = BACKBONE
    found = [r for r in picked(rows, True, **own) if not is_control(r["system"])]
    typical = [r for r in found if r["cohort"] == TYPICAL]
    blocks = []
    for cohort, domain in atypical_of(rows):
        target = [r for r in found if (r["cohort"], r.get("domain")) == (cohort, domain)]
        if not {row["system"] for row in target} & {row["system"] for row in typical}:
            continue
        note = (
            "Both against the frozen backbone, with 95 percent intervals. To the right: fewer "
            f"errors on {label(target[0])} speech. Below the line: typical speech got better as "
            "well."
        )
        plot = figures.stability_plasticity(target, typical)
        blocks.append(figure(f"Stability and plasticity, {label(target[0])}", note, plot))
    return blocks
