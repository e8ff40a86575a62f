"""A pool of workers for tests: everything in this process, at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class InThisProcess:
    """Stands in for `WorkerPool`: the same work, without starting interpreters."""

    def __init__(self, workers: int, initializer: Any = None, initargs: Any = ()) -> None:
        if initializer is not None:
            initializer(*initargs)

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future
