"""Notice a run that hangs and a process that is gone, say where, and let nobody wait for ever.

A thread beside the training loop. Where a stage (drawing a batch, forward and backward, evaluating)
takes too long it names the stage and writes the stack of every thread. In a run of several
processes each one's thread also tells the others every few seconds that it lives, through the
store that started them: a process that was killed leaves the others in a collective call, which
some backends never leave, so the threads end them and say who is missing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import torch.distributed

__all__ = ["Watchdog", "progress"]

log = logging.getLogger(__name__)

BEAT_S = 2.0  # between two signs of life
SILENT_S = 40.0  # without one a process counts as gone; the others stop within the minute


def progress() -> None:
    """Tell the watchdog of this process, if there is one, that a long stage gets on."""
    if Watchdog.current is not None:
        Watchdog.current._since = time.monotonic()


class Watchdog:
    """Watch the stages of one training run; use it as a context.

    Args:
        limit_s: longest time in one stage, in seconds; 0 for none. A single process then writes
            its stacks and goes on, several stop, because each waits for the one that hangs.
        folder: where ``hang-RANK.txt`` goes.
        rank, n_processes: of this run.
        store: of ``torch.distributed``, for several processes.
    """

    current: ClassVar[Watchdog | None] = None
    _runs = 0  # every process counts the same ones, so that keys of an earlier run do not matter

    def __init__(
        self,
        limit_s: float,
        folder: Path,
        rank: int = 0,
        n_processes: int = 1,
        store: Any = None,
    ) -> None:
        Watchdog._runs += 1
        self.limit_s, self.folder = limit_s, folder
        self.rank, self.n_processes, self.store = rank, n_processes, store
        self.verdict = ""
        self._prefix = f"watchdog/{Watchdog._runs}"
        self._stage, self._since, self._timed = "start", time.monotonic(), True
        self._beats: dict[int, tuple[str, float]] = {}
        self._count = 0
        self._over = threading.Event()
        self._judged = threading.Event()
        self._asked = False
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    @classmethod
    def of(cls, accelerator: Any, limit_s: float, folder: Path) -> Watchdog:
        """Build the watchdog of a process of `accelerator`."""
        rank, n_processes = accelerator.process_index, accelerator.num_processes
        store = None
        if n_processes > 1:
            # A connection of its own: the first is held by whoever waits in a collective call.
            store = torch.distributed.distributed_c10d._get_default_store().clone()
        return cls(limit_s, folder, rank, n_processes, store)

    def __enter__(self) -> Watchdog:
        Watchdog.current = self
        self._since = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        Watchdog.current = None
        self._over.set()
        if self._thread is not threading.current_thread():
            self._thread.join(2 * BEAT_S)
        with contextlib.suppress(Exception):  # the store may be gone with its process
            if self.store is not None and error is not None and not self.verdict:
                said = " ".join(str(error).split())[:500]
                self._set("verdict", f"process {self.rank} stopped: {said or type(error).__name__}")
            elif self.store is not None:
                self._set(f"left/{self.rank}", "1")

    def stage(self, name: str, timed: bool = True) -> None:
        """Say what comes next; `timed` is False where waiting long is nobody's fault."""
        self._stage, self._timed, self._since = name, timed, time.monotonic()

    def missing(self) -> str:
        """Wait, after a collective call failed, until it is known who is gone; "" if nobody is."""
        self._asked = True
        self._judged.wait(SILENT_S + 5 * BEAT_S)
        return self.verdict

    def _watch(self) -> None:
        while not self._over.wait(BEAT_S):
            self._check_progress()
            if self.store is None:
                continue
            try:
                found = self._exchange()
            except Exception as error:  # of many kinds, when the store's process is gone
                if self._over.wait(BEAT_S):
                    return
                said = " ".join(str(error).split())[:200]
                found = f"the process that keeps the store, usually process 0, is gone ({said})"
            if found:
                self._stop(found)

    def _check_progress(self) -> None:
        waited = time.monotonic() - self._since
        if not (self.limit_s and self._timed and waited > self.limit_s):
            return
        path = self.folder / f"hang-{self.rank}.txt"
        what = f"process {self.rank}: no progress for {waited:.0f} s in stage {self._stage!r}"
        what += self._elsewhere()
        with contextlib.suppress(OSError), path.open("a") as file:  # also on a full disk
            file.write(f"{what}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        log.error("%s; the stacks are in %s", what, path)
        if self.store is None:
            self._since = time.monotonic()  # again after as long
        else:
            self._stop(what)

    def _exchange(self) -> str:
        """Give a sign of life and return why to stop, or nothing.

        Process 0 looks at everybody, the others at process 0 and at what it found, so that the
        store is asked little however many there are.
        """
        self._count += 1
        self._set(f"beat/{self.rank}", f"{self._count} {self._stage}")
        if found := self._get("verdict"):
            return found
        others = range(1, self.n_processes) if self.rank == 0 else (0,)
        now = time.monotonic()
        for other in others:
            beat = self._get(f"beat/{other}")
            if beat != self._beats.get(other, ("?", 0.0))[0]:
                self._beats[other] = (beat, now)
            elif now - self._beats[other][1] > SILENT_S and not self._get(f"left/{other}"):
                stage = beat.partition(" ")[2] or "start"
                return f"process {other} is gone; it was last in stage {stage!r}"
        return ""

    def _elsewhere(self) -> str:
        """Say which processes are in another stage: one of them is what the others wait for."""
        found = []
        with contextlib.suppress(Exception):
            for other in range(self.n_processes if self.store is not None else 0):
                stage = self._get(f"beat/{other}").partition(" ")[2]
                if other != self.rank and stage != self._stage:
                    found.append(f"process {other} is in stage {stage!r}")
        return "".join(f"; {said}" for said in found[:5])

    def _stop(self, why: str) -> None:
        self.verdict = why
        with contextlib.suppress(Exception):
            if not self._get("verdict"):
                self._set("verdict", why)
        self._judged.set()
        # A process about to fail by itself says better what happened; others get time to read.
        if self._asked or self._over.wait(2 * BEAT_S):
            return
        log.error("process %d stops in stage %r: %s", self.rank, self._stage, why)
        logging.shutdown()
        # The main thread may sit in a call that no exception reaches.
        os._exit(1)

    def _set(self, key: str, value: str) -> None:
        self.store.set(f"{self._prefix}/{key}", value)

    def _get(self, key: str) -> str:
        """Return a value without waiting for it; "" where there is none."""
        key = f"{self._prefix}/{key}"
        return self.store.get(key).decode() if self.store.check([key]) else ""
