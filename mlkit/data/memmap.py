"""Rows of equal size in a file, read through a memory map without filling the memory."""

import mmap
import os
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np

_RELEASE_BYTES = 256 << 20  # pages of the map handed back after reading this much, so that resident memory stays flat


class MemmapRows:
    """Rows of `row_bytes` bytes. The map holds the rows that are in the file now; what is appended later does not matter.

    Args:
        source: the file, which need not be there; or an open one, which may be closed and without a name afterwards.
        row_bytes: of one row.
    """

    def __init__(self, source: Path | IO[bytes], row_bytes: int) -> None:
        self._made_of = source, row_bytes
        count = count_rows(source, row_bytes)
        self._memory = mmap.mmap(-1, 1)
        self._rows = np.empty((0, row_bytes), np.uint8)
        if count:
            with open(source, "rb") if isinstance(source, Path) else nullcontext(source) as file:
                self._memory = mmap.mmap(file.fileno(), count * row_bytes, access=mmap.ACCESS_READ)
            self._rows = np.frombuffer(self._memory, np.uint8).reshape(count, row_bytes)
        self._unreleased = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Opened anew in another process: a map cannot be sent, and not every system forks."""
        return MemmapRows, self._made_of

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Copy of the given rows, uint8 (len(rows), row_bytes)."""
        batch: np.ndarray = self._rows[rows]
        self._unreleased += batch.nbytes
        if self._unreleased > _RELEASE_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            # The system's page cache keeps the data; only this process's count of resident memory falls.
            self._memory.madvise(mmap.MADV_DONTNEED)
            self._unreleased = 0
        return batch


def count_rows(source: Path | IO[bytes], row_bytes: int) -> int:
    """Number of whole rows in a file, 0 where there is none."""
    if isinstance(source, Path) and not source.exists():
        return 0
    return os.stat(source if isinstance(source, Path) else source.fileno()).st_size // row_bytes
