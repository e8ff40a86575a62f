"""Who is trained on and who is tested: leave-one-out folds, and the refusal of what leaks.

An error rate on people, sessions or recordings that were trained on says nothing. `check_leaks`
compares two manifests and refuses; every evaluation program calls it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hyperasr.errors import ConfigError, ManifestError
from hyperasr.metrics.normalisers import normaliser
from hyperasr.types import Utterance

log = logging.getLogger(__name__)

UNKNOWN = "unknown"  # the speaker of a row that names none
_NAMED = 3  # examples in a message
_EDGES = (0.25, 0.5, 0.75)  # between ranges of severity


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


def leave_one_out(utterances: Sequence[Utterance], by: str) -> Iterator[Fold]:
    """Hold out one cohort, speaker or range of severity after the other.

    What else the held-out people said is in neither part, so that no fold leaks a speaker.

    Args:
        utterances: of all parts.
        by: ``cohort``, ``speaker`` or ``severity`` (in quarters).
    Raises:
        ConfigError: another `by`, or a part that everybody is in, which leaves nothing to train on.
    """
    keys: dict[str, Callable[[Utterance], str]] = {
        "cohort": lambda u: u.cohort,
        "speaker": lambda u: u.speaker,
        "severity": lambda u: severity_bin(u.severity, _EDGES),
    }
    if by not in keys:
        raise ConfigError(f"folds are by {', '.join(keys)}, not by {by!r}")
    key = keys[by]
    for part in sorted({key(u) for u in utterances}):
        test = tuple(u for u in utterances if key(u) == part)
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
    text: str = "warn",
    name: str = "the training part",
) -> list[str]:
    """Refuse a split in which the test knows something of the training.

    - The same speaker name on both sides. Names must be unique over corpora.
    - The same session: a recording file is one, of which several utterances may be cut.
    - The same bytes under two names.
    - The same words, after the ``spoken`` normaliser. This is a warning unless `text` is ``error``:
      closed vocabularies (digits, commands) repeat by design, while in read sentences a prompt that
      was trained on is a leak (TORGO's are the known case).

    Args:
        train, test: the two sides.
        text: ``warn``, ``error`` or ``ignore``.
        name: of the training side, for messages.
    Returns:
        Warnings, one line each; they are logged too.
    Raises:
        ManifestError: a leak, with its size and examples.
        ConfigError: an unknown severity of a text leak, or an empty side.
    """
    if text not in ("warn", "error", "ignore"):
        raise ConfigError(f"a text leak is 'warn', 'error' or 'ignore', not {text!r}")
    if not train or not test:
        raise ConfigError("a leak check needs utterances on both sides; one side has none")
    digests: dict[str, str] = {}
    spoken = normaliser("spoken")
    keys: dict[str, Callable[[Utterance], str]] = {
        "speaker": lambda u: u.speaker,
        "session": lambda u: os.path.realpath(u.path),
        "audio": lambda u: _digest(u.path, digests),
        "text": lambda u: spoken(u.text_clean or u.text or ""),
    }
    warnings = []
    for check, key in keys.items():
        if check == "text" and text == "ignore":
            continue
        trained = {key(u) for u in train} - {""}
        shared = Counter(value for u in test if (value := key(u)) in trained)
        if check == "audio":
            for side, part in ((name, train), ("the test", test)):
                if n := sum(not key(u) for u in part):
                    warnings.append(
                        f"{n} of {len(part)} recordings of {side} cannot be read; their audio is "
                        "not compared"
                    )
        if shared:
            message = _message(check, shared, len(test), name)
            if check != "text" or text == "error":
                raise ManifestError(f"the split leaks: {message}")
            warnings.append(message)
    for warning in warnings:
        log.warning("%s", warning)
    return warnings


def _message(check: str, shared: Counter[str], n_test: int, name: str) -> str:
    share = f"{shared.total()} of {n_test} test utterances"
    if check == "text":
        # Not the words themselves: logs carry no transcript.
        return f"{share} say one of {len(shared)} texts that {name} has too"
    if check == "audio":
        return f"{share} are recordings that {name} has too, byte for byte"
    listed = ", ".join(repr(os.path.basename(value)) for value in sorted(shared)[:_NAMED])
    more = f" and {len(shared) - _NAMED} more" if len(shared) > _NAMED else ""
    hint = "hold them out of the training"
    if check == "speaker" and UNKNOWN in shared:
        hint = "rows without a speaker cannot be told apart; name their speakers"
    return f"{share} have a {check} of {name}: {listed}{more}; {hint}"


def _digest(path: str, digests: dict[str, str]) -> str:
    """Hash each recording file once; "" where it cannot be read."""
    if path not in digests:
        try:
            with open(path, "rb") as file:
                digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            digests[path] = ""
    return digests[path]
