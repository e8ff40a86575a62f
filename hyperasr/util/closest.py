"""The valid name that a mistyped one resembles most, for messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

__all__ = ["closest"]


def closest(name: object, known: Iterable[str], at_least: float = 0.0) -> str | None:
    """Return the name in `known` most like `name`, the first of several that are equally so.

    Args:
        name: what was given.
        known: what there is.
        at_least: likeness in [0, 1] that the name must reach.
    Returns:
        One of `known`; None where none reaches that likeness.
    """
    alike = {choice: SequenceMatcher(None, choice, str(name)).ratio() for choice in known}
    found = max(alike, key=alike.__getitem__, default=None)
    return found if found is not None and alike[found] >= at_least else None
