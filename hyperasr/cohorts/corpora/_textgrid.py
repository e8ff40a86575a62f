"""Praat TextGrids, long and short text format: interval tiers and the phrases in them."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Interval", "phrases", "read_textgrid"]

_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?<![\w.\[])(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w.\]])')


@dataclass(frozen=True)
class Interval:
    """A labelled stretch; times in seconds."""

    start_s: float
    end_s: float
    text: str


def read_textgrid(text: str) -> dict[str, list[Interval]]:
    """Return the interval tiers by name; tiers of points are left out.

    Raises:
        ValueError: this is no TextGrid, or it breaks off.
    """
    if "ooTextFile" not in text[:200] or "TextGrid" not in text[:200]:
        raise ValueError("no TextGrid in text format")
    # Both formats are the same sequence of strings and numbers; the long one has names between.
    values: list[str | float] = []
    for token in _TOKEN.finditer(text):
        quoted, number = token.groups()
        values.append(quoted.replace('""', '"') if number is None else float(number))
    stream = iter(values[2:])  # after "ooTextFile" and "TextGrid"
    try:
        next(stream), next(stream)  # the times of the whole
        tiers = {}
        for _ in range(_count(next(stream))):
            kind, name = next(stream), str(next(stream))
            next(stream), next(stream)
            n_values = 3 if kind == "IntervalTier" else 2
            entries = [[next(stream) for _ in range(n_values)] for _ in range(_count(next(stream)))]
            if kind == "IntervalTier":
                tiers[name] = [Interval(float(a), float(b), str(c).strip()) for a, b, c in entries]
    except (StopIteration, RuntimeError) as error:
        raise ValueError("the TextGrid breaks off") from error
    return tiers


def phrases(
    tier: list[Interval], *, pause_s: float = 0.3, longest_s: float = 25.0
) -> list[Interval]:
    """Join labelled intervals that follow each other into phrases.

    Args:
        tier: words or phrases; silences have no text.
        pause_s: a silence this long ends a phrase, in seconds.
        longest_s: so does this length, in seconds, unless one interval alone is longer.
    """
    joined: list[Interval] = []
    for interval in tier:
        if not interval.text:
            continue
        last = joined[-1] if joined else None
        if (
            last is not None
            and interval.start_s - last.end_s < pause_s
            and interval.end_s - last.start_s <= longest_s
        ):
            text = f"{last.text} {interval.text}"
            joined[-1] = Interval(last.start_s, interval.end_s, text)
        else:
            joined.append(interval)
    return joined


def _count(value: str | float) -> int:
    if not isinstance(value, float) or not value.is_integer() or value < 0:
        raise ValueError(f"expected a number of items in the TextGrid, not {value!r}")
    return int(value)
