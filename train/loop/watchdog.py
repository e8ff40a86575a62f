"""Notice a run that hangs, say where, and let no other process wait for it for ever.

Where a stage (drawing a batch, forward and backward, evaluating) takes too long, a thread logs one
line, which names the stage and the last good checkpoint, and writes the stack of every thread. A
single process then goes on, because it may only be slow. One of several ends: either the others
wait for it, and their connection to it breaks, or it is in a collective call that waits for a
process that is gone, which no exception reaches.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import threading
import time
from pathlib import Path

from train.loop.state import last_good

log = logging.getLogger(__name__)
LOOK_S = 2.0  # between two looks at the clock


class Watchdog:
    """Watch the stages of one training run; use it as a context.

    Args:
        limit_s: longest time in one stage, in seconds; 0 for none.
        folder: of the run; ``hang-RANK.txt`` goes there.
        rank, n_processes: of this process.
    """

    def __init__(self, limit_s: float, folder: Path, rank: int = 0, n_processes: int = 1) -> None:
        self.limit_s, self.folder = limit_s, folder
        self.rank, self.n_processes = rank, n_processes
        self._stage, self._since = "start", time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> Watchdog:
        if self.limit_s:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self.limit_s:
            self._thread.join()

    def stage(self, name: str) -> None:
        """Say what comes next."""
        self._stage, self._since = name, time.monotonic()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            waited = time.monotonic() - self._since
            if waited > self.limit_s:
                self._report(waited)
                self._since = time.monotonic()  # again after as long

    def _report(self, waited_s: float) -> None:
        path = self.folder / f"hang-{self.rank}.txt"
        line = (
            f"process {self.rank}: no progress for {waited_s:.0f} s in stage {self._stage!r}. "
            f"{last_good(self.folder)}. The stacks are in {path}"
        )
        with contextlib.suppress(OSError), path.open("a") as file:  # also on a full disk
            file.write(f"{line}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        log.error("%s", line)
        if self.n_processes > 1:
            logging.shutdown()
            os._exit(1)
