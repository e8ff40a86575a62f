"""Sections on what decoding does around the model: loop guard, sessions, caution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.report_blocks import Block, by_cohort, from_table, headline, label, picked
from eval.report_errors import atypical_of
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError

__all__ = ["caution_blocks", "guard_blocks", "session_blocks"]

Row = Mapping[str, Any]
_GUARD = {
    ("free", "false_alarm_rate"): "false alarms",
    ("no_end", "detection_rate"): "endless found",
    ("no_end", "words_kept"): "words kept",
    ("looped_text", "detection_rate"): "loops found",
    ("looped_text", "words_kept"): "words kept",
}
_VOICES = {
    "same_person": "the same person goes on",
    "same_cohort": "another person, same cohort",
    "other_cohort": "another person, other cohort",
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


def session_blocks(rows: Sequence[Row]) -> list[Block]:
    """Return errors, differences, what the place in the conversation does, and new voices."""
    errors = [r for r in rows if "measure" not in r and "threshold" not in r and "place" not in r]
    metrics = [r["metric"] for r in errors if r.get("metric") in ("wer", "cer")]
    if not metrics:
        raise ConfigError("it has no error rates; it was made by another program")
    own: dict[str, Any] = {**headline(errors), "metric": metrics[0]}
    unit, columns = str(metrics[0]).upper(), by_cohort(errors)
    blocks = [
        from_table(errors, unit, columns, **own),
        from_table(errors, "Paired differences", columns, differences=True, **own),
    ]
    placed = [r for r in rows if "place" in r]
    typical = next((r.get("domain") for r in errors if r["cohort"] == TYPICAL), None)
    for cohort, domain in (*atypical_of(errors), (TYPICAL, typical)):
        where: dict[str, Any] = {"cohort": cohort, "domain": domain, "metric": metrics[0]}
        if chosen := picked(placed, False, **where):
            title = f"{unit} by place in the conversation, {label(chosen[0])}"
            blocks.append(from_table(placed, title, ("place",), **where))
    moved = [r for r in rows if "threshold" in r and "measure" not in r]
    if picked(moved, True):
        title = "Session minus each utterance alone, by the distance that counts as a new voice"
        many: dict[str, Any] = {"differences": True, "metric": metrics[0]}
        blocks.append(from_table(moved, title, (*columns, "threshold"), **many))
    return blocks + voice_blocks(rows)


def voice_blocks(rows: Sequence[Row]) -> list[Block]:
    """Return the distances of utterances to the voice so far, and how often a change is noticed."""
    blocks = []
    if distances := [r for r in rows if r.get("measure") == "distance"]:
        names = [name for name in distances[0] if name[:1] == "q" and name[1:].isdigit()]
        lines = tuple(
            cells(_VOICES.get(r["relation"], r["relation"]), *(f"{r[name]:.2f}" for name in names))
            for r in distances
        )
        header = ("who speaks next", *(f"{int(name[1:])} %" for name in names))
        title = "Distance of an utterance to the voice so far, quantiles"
        blocks.append(Block("table", title, "", header, lines))
    shares = [r for r in rows if r.get("measure") in ("new_voice_found", "new_voice_false")]
    if shares:
        limits = sorted({r["threshold"] for r in shares})
        by = {(r["relation"], r["threshold"]): r for r in shares}
        lines = tuple(
            ((_VOICES.get(name, name), ""), *(rate(by.get((name, limit))) for limit in limits))
            for name in dict.fromkeys(r["relation"] for r in shares)
        )
        header = ("who speaks next", *(f"beyond {limit:g}" for limit in limits))
        title = "How often an utterance is taken for a new voice, percent, by the distance allowed"
        blocks.append(Block("table", title, "The first line should be low.", header, lines))
    return blocks


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
