"""Who is trained on and who is tested: leave-one-out folds, and the refusal of what leaks.

An error rate on people, sessions or recordings that were trained on says nothing. `check_leaks`
compares two manifests and refuses; every evaluation program calls it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hyperasr.errors import ConfigError, ManifestError
from hyperasr.metrics.normalisers import normaliser
from hyperasr.types import Utterance

__all__ = ["LEAKS", "Fold", "check_leaks", "leave_one_out", "severity_bin"]

log = logging.getLogger(__name__)

LEAKS = ("speaker", "session", "audio", "text")
UNKNOWN = "unknown"  # the speaker of a row that names none
_NAMED = 3  # examples in a message


@dataclass(frozen=True)
class Fold:
    """One part held out for testing, and what is left to train on.

    Attributes:
        name: of the part: a cohort, a speaker or a range of severity.
        train, test: utterances; no speaker is in both.
        n_dropped: utterances outside the part whose speaker is in it, in neither.
    """

    name: str
    train: tuple[Utterance, ...]
    test: tuple[Utterance, ...]
    n_dropped: int


def leave_one_out(
    utterances: Sequence[Utterance],
    by: str,
    *,
    parts: Sequence[str] | None = None,
    edges: Sequence[float] = (0.25, 0.5, 0.75),
) -> Iterator[Fold]:
    """Hold out one cohort, speaker or range of severity after the other.

    What else the held-out people said is in neither part, so that no fold leaks a speaker.

    Args:
        utterances: of all parts.
        by: ``cohort``, ``speaker`` or ``severity``.
        parts: which to hold out; None for each in the order of their names.
        edges: between ranges of severity, ascending, in (0, 1); for ``severity`` only.
    Raises:
        ConfigError: another `by`, edges out of order, a part that nobody is in, or one that
            everybody is in, which leaves nothing to train on.
    """
    keys: dict[str, Callable[[Utterance], str]] = {
        "cohort": lambda u: u.cohort,
        "speaker": lambda u: u.speaker,
        "severity": lambda u: severity_bin(u.severity, edges),
    }
    if by not in keys:
        raise ConfigError(f"folds are by {', '.join(keys)}, not by {by!r}")
    if list(edges) != sorted(set(edges)) or not all(0 < e < 1 for e in edges):
        raise ConfigError(f"edges of severity ascend within (0, 1); these do not: {list(edges)}")
    key = keys[by]
    found = sorted({key(u) for u in utterances})
    for part in found if parts is None else parts:
        test = tuple(u for u in utterances if key(u) == part)
        if not test:
            raise ConfigError(f"no utterance has the {by} {part!r}; there are {', '.join(found)}")
        held_out = {u.speaker for u in test}
        others = [u for u in utterances if key(u) != part]
        train = tuple(u for u in others if u.speaker not in held_out)
        if not train:
            raise ConfigError(
                f"without the {by} {part!r} and its speakers nothing is left to train on"
            )
        yield Fold(part, train, test, len(others) - len(train))


def severity_bin(severity: float | None, edges: Sequence[float]) -> str:
    """Return the range a severity is in, such as ``0.25-0.50``; ``unknown`` for None.

    A severity on an edge belongs to the range above it.
    """
    if severity is None:
        return UNKNOWN
    limits = [0.0, *edges, 1.0]
    index = sum(severity >= edge for edge in edges)
    return f"{limits[index]:.2f}-{limits[index + 1]:.2f}"


def check_leaks(
    train: Sequence[Utterance],
    test: Sequence[Utterance],
    *,
    over: Sequence[str] = LEAKS,
    text: str = "warn",
    session: Callable[[Utterance], str] | None = None,
    name: str = "the training part",
) -> list[str]:
    """Refuse a split in which the test knows something of the training.

    - ``speaker``: the same speaker name on both sides. Names must be unique over corpora.
    - ``session``: the same session; unless `session` says otherwise, a recording file is one, of
      which several utterances may be cut.
    - ``audio``: the same bytes under two names.
    - ``text``: the same words, after the ``spoken`` normaliser. This is a warning unless `text` is
      ``error``: closed vocabularies (digits, commands) repeat by design, while in read sentences
      a prompt that was trained on is a leak (TORGO's are the known case).

    Args:
        train, test: the two sides.
        over: which checks to make.
        text: ``warn``, ``error`` or ``ignore``.
        session: names the session of an utterance, for corpora that know it.
        name: of the training side, for messages.
    Returns:
        Warnings, one line each; they are logged too.
    Raises:
        ManifestError: a leak, with its size and examples.
        ConfigError: an unknown check or severity of a text leak, or an empty side.
    """
    if unknown := sorted(set(over) - set(LEAKS)):
        raise ConfigError(f"leaks are over {', '.join(LEAKS)}, not {unknown[0]!r}")
    if text not in ("warn", "error", "ignore"):
        raise ConfigError(f"a text leak is 'warn', 'error' or 'ignore', not {text!r}")
    if not train or not test:
        raise ConfigError("a leak check needs utterances on both sides; one side has none")
    keys: dict[str, Callable[[Utterance], str]] = {
        "speaker": lambda u: u.speaker,
        "session": session or (lambda u: os.path.realpath(u.path)),
        "audio": _audio_hash({}),
        "text": lambda u: _words(u.text_clean or u.text or ""),
    }
    warnings = []
    for check in (check for check in LEAKS if check in over):
        if check == "text" and text == "ignore":
            continue
        found = _shared(train, test, keys[check])
        if check == "audio":
            warnings += _unread(train, test, keys[check], name)
        if not found:
            continue
        message = _message(check, found, len(test), name)
        if check != "text" or text == "error":
            raise ManifestError(f"the split leaks: {message}")
        warnings.append(message)
    for warning in warnings:
        log.warning("%s", warning)
    return warnings


def _shared(
    train: Sequence[Utterance], test: Sequence[Utterance], key: Callable[[Utterance], str]
) -> dict[str, int]:
    """Return what is on both sides, with the number of test utterances it concerns."""
    known = {key(u) for u in train} - {""}
    found: dict[str, int] = {}
    for utterance in test:
        if (value := key(utterance)) in known:
            found[value] = found.get(value, 0) + 1
    return found


def _unread(
    train: Sequence[Utterance],
    test: Sequence[Utterance],
    digest: Callable[[Utterance], str],
    name: str,
) -> list[str]:
    """Say how many recordings could not be compared, because they are not there."""
    sides = ((name, train), ("the test", test))
    counts = [(side, sum(not digest(u) for u in part), len(part)) for side, part in sides]
    return [
        f"{n} of {n_all} recordings of {side} cannot be read; their audio is not compared"
        for side, n, n_all in counts
        if n
    ]


def _message(check: str, found: dict[str, int], n_test: int, name: str) -> str:
    n = sum(found.values())
    share = f"{n} of {n_test} test utterances"
    if check == "text":
        # Not the words themselves: logs carry no transcript.
        return f"{share} say one of {len(found)} texts that {name} has too"
    if check == "audio":
        return f"{share} are recordings that {name} has too, byte for byte"
    listed = ", ".join(repr(os.path.basename(value)) for value in sorted(found)[:_NAMED])
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    hint = "hold them out of the training"
    if check == "speaker" and UNKNOWN in found:
        hint = "rows without a speaker cannot be told apart; name their speakers"
    return f"{share} have a {check} of {name}: {listed}{more}; {hint}"


def _audio_hash(known: dict[str, str]) -> Callable[[Utterance], str]:
    """Return a function that hashes each recording file once; "" where it cannot be read."""

    def digest(utterance: Utterance) -> str:
        path = utterance.path
        if path not in known:
            try:
                with open(path, "rb") as file:
                    known[path] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError:
                known[path] = ""
        return known[path]

    return digest


def _words(text: str) -> str:
    return normaliser("spoken")(text)
