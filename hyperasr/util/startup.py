"""Starting up: the command line imports no more of torch and transformers than it needs."""

from __future__ import annotations

import gc
import importlib
import sys
from types import ModuleType
from typing import Any, ClassVar

_WHISPER = "transformers.models.whisper.modeling_whisper"  # with all that it imports
# What transformers imports for compilation, training and many devices. It brings in packages of
# seconds (torch._dynamo, sympy, scipy, accelerate), and transcribing uses nothing of them.
_UNNEEDED = (
    "torch._dynamo",
    "torch._dynamo._trace_wrapped_higher_order_op",
    "transformers.loss.loss_utils",
)
_UNAVAILABLE = ("is_accelerate_available", "is_torch_distributed_available")


class _Unneeded(ModuleType):
    """Stands in for a module while others are imported that decorate functions with it."""

    LOSS_MAPPING: ClassVar[dict[str, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _unchanged


def _unchanged(function: Any = None, *_: Any, **__: Any) -> Any:
    """Decorate nothing, with settings or without."""
    return _unchanged if function is None else function


def import_late(name: str, *, transcribes: bool) -> ModuleType:
    """Import a module and return it, in a process that imports torch for this.

    What torch and transformers define is there to stay, so a collector that walks through it
    finds nothing: again and again while they are imported, and once more when Python ends. It
    rests meanwhile and never looks at them. Where torch is there already, as in somebody's
    notebook, the collector and their transformers are left alone.

    Args:
        name: of the module.
        transcribes: import transformers' Whisper first, as far as it transcribes.
    """
    if "torch" in sys.modules or not gc.isenabled():
        return importlib.import_module(name)
    gc.disable()
    try:
        if transcribes:
            _import_whisper()
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def _import_whisper() -> None:
    homes = [importlib.import_module(f"transformers.utils{end}") for end in ("", ".import_utils")]
    places = [(home, name) for home in homes for name in _UNAVAILABLE if hasattr(home, name)]
    real = {(home, name): getattr(home, name) for home, name in places}
    try:
        for home, name in real:
            setattr(home, name, lambda *_: False)
        sys.modules.update({name: _Unneeded(name) for name in _UNNEEDED})
        importlib.import_module(_WHISPER)
    finally:
        for name in _UNNEEDED:
            del sys.modules[name]
        for (home, name), function in real.items():
            setattr(home, name, function)
