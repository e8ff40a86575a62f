"""Work on several layers at a time: many small matrices keep one thread of torch busy, not two."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["in_threads"]

T = TypeVar("T")
R = TypeVar("R")


def in_threads(work: Callable[[T], R], items: Iterable[T], n_threads: int) -> list[R]:
    """Return work(item) of every item, in their order; torch runs single-threaded meanwhile.

    Args:
        work: must change nothing that another call reads; torch releases Python's lock.
        items: what to work on.
        n_threads: at a time, at least 1.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(
            n_threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(before)
