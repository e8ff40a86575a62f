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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["MappedRows"]

_HELD_BYTES = 256 * 2**20
_AROUND = 2 * 2**20  # Linux maps a large page of its cache as a whole, for one byte of it
_ROWS = 1_024  # of some columns, read at a time


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

    def used(self, n_places: int, n_bytes: int) -> None:
        """Count bytes that were read, and give the pages back when they are too many.

        Args:
            n_places: how many apart from each other, in the worst case.
            n_bytes: read at all of them together.
        """
        self._used += max(n_bytes, n_places * _AROUND)
        if self._used >= self.held_bytes:
            self.give_back()

    def columns(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """Return columns as lists, in which equal values are one object.

        Speakers, cohorts and texts repeat: as an object a row they would take a kilobyte a row.
        """
        found: dict[str, list[Any]] = {name: [] for name in names}
        # One for each column: 1 and 1.0 are equal, and not the same.
        shared: dict[str, dict[Any, Any]] = {name: {} for name in names}
        for block in self.table.select_columns(list(names)).iter(_ROWS):
            for name, same in shared.items():
                found[name] += [same.setdefault(value, value) for value in block[name]]
            # The system maps a few pages around each one that is read, which adds up over files.
            self.give_back()
        return found

    def give_back(self) -> None:
        """Let no page of the files count as resident memory, until it is read again."""
        self._used = 0
        if hasattr(mmap, "MADV_DONTNEED"):  # Windows trims by itself
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)
