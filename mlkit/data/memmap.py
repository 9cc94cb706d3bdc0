"""Rows of equal size in a file, read through a memory map without filling the memory."""

import mmap
from pathlib import Path

import numpy as np

_RELEASE_BYTES = 256 << 20  # pages of the map handed back after reading this much, so that resident memory stays flat


class MappedRows:
    """Rows of `row_bytes` bytes. The map holds the rows that are in the file now; what is appended later does not matter."""

    def __init__(self, path: Path, row_bytes: int) -> None:
        count = count_rows(path, row_bytes)
        self._memory = mmap.mmap(-1, 1)
        self._rows = np.empty((0, row_bytes), np.uint8)
        if count:
            with open(path, "rb") as file:
                self._memory = mmap.mmap(file.fileno(), count * row_bytes, access=mmap.ACCESS_READ)
            self._rows = np.frombuffer(self._memory, np.uint8).reshape(count, row_bytes)
        self._unreleased = 0

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Copy of the given rows, uint8 (len(rows), row_bytes)."""
        batch: np.ndarray = self._rows[rows]
        self._unreleased += batch.nbytes
        if self._unreleased > _RELEASE_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            # The system's page cache keeps the data; only this process's count of resident memory falls.
            self._memory.madvise(mmap.MADV_DONTNEED)
            self._unreleased = 0
        return batch


def count_rows(path: Path, row_bytes: int) -> int:
    """Number of whole rows in a file, 0 where there is none."""
    return path.stat().st_size // row_bytes if path.exists() else 0
