"""Memory that does not suffice, told apart from other errors; and freed memory, given back."""

from __future__ import annotations

import ctypes
import sys

import torch

from hyperasr.errors import HyperASRError

# torch on the CPU, oneDNN, and C++ itself have no class of their own for it.
_SIGNS = ("can't allocate memory", "not enough memory", "bad_alloc", "out of memory")


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory did not suffice, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def too_large(error: BaseException, what: str) -> HyperASRError:
    """Return the error of something that cannot be made smaller.

    Args:
        error: as it came.
        what: does not fit.
    """
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return HyperASRError(
        f"{what} does not fit into memory ({reason}); take fewer beams or samples, shorter "
        "segments, or weights in int8 or bfloat16"
    )


def give_back_freed() -> None:
    """Give memory that was freed back to the system, where its C library keeps it (Linux).

    glibc cannot always put a tensor where one of the same size was, and grows from batch to batch.
    It takes up to 50 ms.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
