"""The most memory that a training held at a time."""

from __future__ import annotations

import resource
import sys
import threading
from pathlib import Path
from typing import Self

import torch

_STATUS = Path("/proc/self/status")
_LOOK_S = 0.05  # between two looks; a peak shorter than that may be missed


class PeakMemory:
    """Watches this process's memory, see `anonymous_mib`, from a thread while it is entered."""

    def __init__(self) -> None:
        self._peak_mib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def measured(self) -> dict[str, float]:
        """Return ``peak_rss_mib`` so far and, where there is a GPU, ``peak_device_mib``."""
        self._peak_mib = max(self._peak_mib, anonymous_mib())
        measures = {"peak_rss_mib": round(self._peak_mib, 1)}
        if torch.cuda.is_available():
            measures["peak_device_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
        return measures

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_S):
            self._peak_mib = max(self._peak_mib, anonymous_mib())


def anonymous_mib() -> float:
    """Return the MiB of host memory that this process holds now, mapped files left out.

    The system takes back their pages whenever it needs them, and a memory-mapped cache of many GiB
    would drown everything else. Anywhere but on Linux: the most that it ever held, files included.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024
