"""Readers of speech corpora as they are distributed; one module each, looked up by name.

Every reader has two names:

- ``ABOUT``, a `Description` out of ``about.yaml``: licence, how to get it, citation, languages,
  cohorts, speakers;
- ``prepare(root, **options) -> Prepared``: iterate over it for `Utterance` rows, then read its
  ``report`` for what was skipped, with reasons.

A module of this package is a reader unless it is `base` or its name starts with an underscore.
No reader changes or copies a corpus.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from types import ModuleType
from typing import Any

from hyperasr.cohorts.corpora.base import Prepared
from hyperasr.errors import ConfigError
from hyperasr.util.closest import closest


def names() -> list[str]:
    """Return the names of all readers, sorted; none is imported."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in modules if name != "base" and not name.startswith("_"))


def corpus(name: str) -> ModuleType:
    """Return the reader of a corpus; case, blanks, hyphens and underscores do not matter.

    Raises:
        ConfigError: there is none of this name; the closest one is named.
    """
    readers = {_plain(n): n for n in names()}
    if _plain(name) not in readers:
        close = closest(_plain(name), readers, at_least=0.5)
        hint = "" if close is None else f"did you mean {readers[close]!r}? "
        raise ConfigError(f"there is no corpus {name!r}; {hint}known are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{readers[_plain(name)]}")


def corpora() -> dict[str, ModuleType]:
    """Return every reader by name, in alphabetical order; this imports them all."""
    return {name: corpus(name) for name in names()}


def options(name: str) -> list[str]:
    """Return the names of the options of a corpus's reader, sorted."""
    return sorted(set(inspect.signature(corpus(name).prepare).parameters) - {"root"})


def prepare(name: str, root: str | os.PathLike[str], **given: Any) -> Prepared:
    """Read the corpus `name` below `root`; see `Prepared` and the options of the reader.

    Raises:
        ConfigError: no such corpus, no such folder, or an option that this reader does not have.
    """
    known = options(name)
    if unknown := sorted(set(given) - set(known)):
        close = closest(unknown[0], known, at_least=0.5)
        hint = "" if close is None else f"did you mean {close!r}? "
        raise ConfigError(
            f"the reader of {name} has no option {unknown[0]!r}; {hint}"
            f"it has {', '.join(known) or 'none'}"
        )
    return corpus(name).prepare(root, **given)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
