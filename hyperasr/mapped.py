"""Tables on disk, mapped into memory, whose pages are given back: reading all of it stays small.

A mapped file counts as resident memory page by page as it is read, so a training that has been
through its data holds all of them, as far as the machine has room. Pages that are given back stay
in the system's cache; only this process no longer counts them, and reads them again without a disk.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["MappedRows"]

_HELD_BYTES = 64 * 2**20  # as much again and more is mapped around what is read


class MappedRows:
    """The rows of datasets that `save_to_disk` wrote, one after the other.

    Args:
        folders: of the datasets, all with the same columns.
        held_bytes: how much of them may count as resident memory.
    """

    def __init__(self, folders: Sequence[Path], held_bytes: int = _HELD_BYTES) -> None:
        import pyarrow as pa
        from datasets import Dataset
        from datasets.table import InMemoryTable

        self.held_bytes, self._used = held_bytes, 0
        self._maps: list[mmap.mmap] = []
        tables = []
        for path in [file for folder in folders for file in sorted(folder.glob("*.arrow"))]:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps.append(mapped)
            tables.append(pa.ipc.open_stream(pa.BufferReader(pa.py_buffer(mapped))).read_all())
        # Else datasets makes a fingerprint of every byte.
        name = hashlib.sha256("\n".join(map(str, folders)).encode()).hexdigest()[:16]
        self.table: Dataset = Dataset(InMemoryTable(pa.concat_tables(tables)), fingerprint=name)

    def used(self, n_bytes: int) -> None:
        """Count bytes that were read, and give the pages back when they are too many."""
        self._used += n_bytes
        if self._used < self.held_bytes:
            return
        self._used = 0
        if hasattr(mmap, "MADV_DONTNEED"):  # Windows trims by itself
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)
