"""A peer of a benchmark in a process of its own, called as if it were in this one.

With CTranslate2 in our process, our decoding of one utterance took twice as long from its first
call on, with 2,500 voluntary context switches where there were none, while its own time stayed the
same. The likely reason is a shared OpenMP runtime that lets no thread wait actively once there are
more of them than cores; in use the two engines are not in one process either.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from hyperasr.errors import HyperASRError

__all__ = ["OwnProcess"]


class OwnProcess:
    """What `make(*args, **kwargs)` returns, kept and called in another process.

    Calls take a fraction of a millisecond more than the work itself. The process ends with this
    object, or with this process.

    Args:
        make: importable by name; what it returns takes no arguments and returns plain values.
        args, kwargs: of `make`, sent once.
    Raises:
        Exception: whatever `make` raised there.
    """

    def __init__(self, make: Callable[..., Callable[[], Any]], *args: Any, **kwargs: Any) -> None:
        # Spawned, not forked: a fork of a process with threads can hang.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, make, args, kwargs), daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            self._answer()
        except EOFError:
            raise self._gone() from None

    def __call__(self) -> Any:
        """Do the work once, there, and return what came of it.

        Raises:
            Exception: whatever the work raised there.
            HyperASRError: the process is gone.
        """
        try:
            self._pipe.send(True)
            return self._answer()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._gone() from None

    def close(self) -> None:
        """End the process; nothing happens the second time."""
        self._pipe.close()
        self._process.join()

    def _answer(self) -> Any:
        failed, value = self._pipe.recv()
        if failed:
            raise value
        return value

    def _gone(self) -> HyperASRError:
        self._process.join()
        status = self._process.exitcode
        return HyperASRError(
            f"the process of a peer ended with status {status}; is there memory enough for it?"
        )

    def __del__(self) -> None:
        pipe = getattr(self, "_pipe", None)  # there is none where making one failed
        if pipe is not None and not pipe.closed:
            pipe.close()


def _serve(
    pipe: Connection, make: Callable[..., Callable[[], Any]], args: Any, kwargs: Any
) -> None:
    """Make the peer, then do its work as often as asked, until the other end is closed."""
    try:
        work = make(*args, **kwargs)
    except Exception as error:
        pipe.send((True, error))
        return
    pipe.send((False, None))
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        try:
            answer = (False, work())
        except Exception as error:
            answer = (True, error)
        pipe.send(answer)
