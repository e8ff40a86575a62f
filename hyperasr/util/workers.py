"""Processes that work for this one, and end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Any


class WorkerPool(ProcessPoolExecutor):
    """Processes for a `with` block, each a fresh interpreter that ends when this process does.

    Spawned, not forked, because a fork of a process that has used torch's threads can hang. A
    worker whose parent was killed would otherwise wait for more work for ever, with all that it
    has loaded in memory. An interruption concerns the parent alone, and an exception in the block
    drops all work that has not begun; what has is finished.

    Args:
        workers: processes, at least 1.
        initializer: called once in each of them, before any work; found by its name there.
        initargs: its arguments.
    """

    def __init__(
        self,
        workers: int,
        initializer: Callable[..., None] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        context = multiprocessing.get_context("spawn")
        super().__init__(workers, context, initializer=_begin, initargs=(initializer, initargs))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the work; after an exception, for what has begun only."""
        self.shutdown(wait=True, cancel_futures=error is not None)


def _begin(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    # A terminal interrupts all of them, and one that ends while it holds a lock hangs the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    # Not sys.exit, which would end this thread alone.
    os._exit(1)
