"""Starting up: large packages imported without looking for garbage."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

__all__ = ["import_all"]


def import_all(names: Sequence[str]) -> ModuleType:
    """Import modules and return the last of them, in a process that imports torch for this.

    What torch and transformers define is there to stay, so a collector that walks through it
    finds nothing: again and again while they are imported, and once more when Python ends. It
    rests meanwhile and never looks at them: a first transcript takes a quarter less time.
    Where torch is there already, as in somebody's notebook, their collector is left alone.
    """
    if "torch" in sys.modules or not gc.isenabled():
        return [importlib.import_module(name) for name in names][-1]
    gc.disable()
    try:
        return [importlib.import_module(name) for name in names][-1]
    finally:
        gc.freeze()
        gc.enable()
