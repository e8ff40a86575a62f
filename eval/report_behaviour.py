"""The section on the loop guard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.report_blocks import Block

__all__ = ["guard_blocks"]

Row = Mapping[str, Any]
_GUARD = {
    ("free", "false_alarm_rate"): "false alarms",
    ("no_end", "detection_rate"): "endless found",
    ("no_end", "words_kept"): "words kept",
    ("looped_text", "detection_rate"): "loops found",
    ("looped_text", "words_kept"): "words kept",
}


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
