"""Sections on what decoding does around the model: loop guard, caution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.report_blocks import Block, by_cohort, from_table, label

__all__ = ["caution_blocks", "guard_blocks"]

Row = Mapping[str, Any]
_GUARD = {
    ("free", "false_alarm_rate"): "false alarms",
    ("no_end", "detection_rate"): "endless found",
    ("no_end", "words_kept"): "words kept",
    ("looped_text", "detection_rate"): "loops found",
    ("looped_text", "words_kept"): "words kept",
}


def cells(*texts: str) -> tuple[tuple[str, str], ...]:
    """Return cells without intervals."""
    return tuple((text, "") for text in texts)


def rate(row: Row | None) -> tuple[str, str]:
    """Return a share in percent with its interval, or why it has none."""
    if row is None or row["value"] is None:
        return "", ""
    low, high = row.get("low"), row.get("high")
    if low is None or high is None:
        return f"{100 * row['value']:.1f}", f"({row['reason']})" if row.get("reason") else ""
    return f"{100 * row['value']:.1f}", f"[{100 * low:.1f}, {100 * high:.1f}]"


def guard_blocks(rows: Sequence[Row]) -> list[Block]:
    """Return false alarms and what was found, a line a kind of speech."""
    speech = list(dict.fromkeys((r["cohort"], r.get("severity")) for r in rows))
    lines = []
    for cohort, severity in speech:
        own = [r for r in rows if (r["cohort"], r.get("severity")) == (cohort, severity)]
        found = {(r["condition"], r["metric"]): r for r in own}
        numbers = {str(r["n_utterances"]) for r in own}
        name = cohort if severity is None else f"{cohort}, severity {severity:g}"
        shown = (rate(found.get(key)) for key in _GUARD)
        lines.append(((name, ""), (" to ".join(sorted(numbers)), ""), *shown))
    header = ("speech", "recordings", *(f"{name}, %" for name in _GUARD.values()))
    about = (
        "False alarms are counted on what the model decodes by itself. Runaways are forced on the "
        "same recordings: end of text is forbidden (endless), or the last words of what was "
        "decoded are repeated many times (loops). Words kept: of what was said before the runaway. "
        "Intervals are of recordings, taken as independent."
    )
    return [Block("table", "The guard on free and on forced decoding", about, header, tuple(lines))]


def caution_blocks(rows: Sequence[Row]) -> list[Block]:
    """Return errors and differences on what the model was trained for and on what it was not."""
    blocks = []
    for seen, where in ((True, "cohorts of the training"), (False, "a cohort never trained on")):
        own = [r for r in rows if r.get("seen") is seen and r["metric"] != "trust"]
        if own:
            metric, columns = own[0]["metric"], by_cohort(own)
            blocks.append(from_table(own, f"{metric.upper()}, {where}", columns, metric=metric))
            title = f"Paired differences, {where}"
            blocks.append(from_table(own, title, columns, differences=True, metric=metric))
    trust = [r for r in rows if r["metric"] == "trust"]
    if trust:
        lines = tuple(
            cells(
                label(r),
                "yes" if r["seen"] else "no",
                *(f"{100 * r[name]:.0f}" for name in ("full", "none")),
                f"{r['value']:.2f}",
                f"{r['distance']:.2f}",
            )
            for r in trust
        )
        header = ("speech", "trained for", "in full, %", "not at all, %", "mean trust", "distance")
        about = (
            "Share of utterances that are adapted in full and not at all; trust is the factor on "
            "the update; distance is the median distance of embeddings to those of the training."
        )
        blocks.append(Block("table", "How much of the adaptation is left", about, header, lines))
    return blocks
