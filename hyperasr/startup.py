"""Starting up: large packages imported without looking for garbage, and freed memory kept."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import platform
import sys
from collections.abc import Sequence
from types import ModuleType

__all__ = ["import_all", "keep_freed_memory"]

# From malloc.h, and what they are set to here. 32 MiB is the most that glibc takes for the first.
_M_MMAP_THRESHOLD, _LARGEST_BLOCK = -3, 32 << 20
_M_TRIM_THRESHOLD, _KEPT = -1, 128 << 20
_M_TOP_PAD, _AHEAD = -2, 16 << 20


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


def keep_freed_memory() -> bool:
    """Let this process reuse the memory of its last tensors for the next ones, with glibc.

    With the defaults a large block may go back to the kernel whenever it is freed (it depends on
    what lies above it), and every layer then waits until the kernel has zeroed new pages for its
    output. Here blocks of up to 32 MiB come from the heap, of which up to 128 MiB stay free for the
    next batch; larger ones are as before. What that is worth stands in
    results/kept_memory.json.

    Concerns all of the process, so programs call it and the library does not. What the environment
    says of malloc (``MALLOC_...``, ``GLIBC_TUNABLES``) is left alone.

    Returns:
        Whether it was done; not with another C library.
    Source: mallopt(3).
    """
    told = any(name.startswith("MALLOC_") for name in os.environ)
    if told or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    done = [
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK),
        mallopt(_M_TRIM_THRESHOLD, _KEPT),
        mallopt(_M_TOP_PAD, _AHEAD),
    ]
    return all(done)
