"""The valid name that a mistyped one resembles most, for messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher


def closest(name: object, known: Iterable[str], at_least: float = 0.0) -> str | None:
    """Return the name in `known` most like `name`, the first of several that are equally so.

    Args:
        name: what was given.
        known: what there is.
        at_least: likeness in [0, 1] that the name must reach.
    Returns:
        One of `known`; None where none reaches that likeness.
    """
    letters = sorted(str(name))

    def likeness(choice: str) -> float:
        # Two letters that changed places are the commonest slip of all.
        alike = SequenceMatcher(None, choice, str(name)).ratio()
        return 1.0 if sorted(choice) == letters else alike

    found = max(known, key=likeness, default=None)
    return found if found is not None and likeness(found) >= at_least else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message such as ``; did you mean --model?``, empty where nothing fits.

    Dotted names are also told by their last part: the right name in the wrong group is closer than
    a similar name.
    """
    known = sorted(known)
    last = name.lstrip("-").rpartition(".")[2]
    same = [choice for choice in known if choice.lstrip("-").rpartition(".")[2] == last]
    close = closest(name, same or known)
    if close is None:
        return ""
    return f"; did you mean {close if close.startswith('-') else repr(close)}?"
