"""Rows of equal size in files, read through memory maps without filling the memory."""

import errno
import mmap
import os
import sys
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

_RELEASE_BYTES = 256 << 20  # pages of the map handed back after reading this much, so that resident memory stays flat
PART_BYTES = 4 << 30  # of a file at most: what any file system, archive and object store takes


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
                if sys.version_info >= (3, 13):  # without an open file for each map, of which a process may have few
                    self._memory = mmap.mmap(file.fileno(), count * row_bytes, access=mmap.ACCESS_READ, trackfd=False)
                else:
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


@dataclass(frozen=True)
class Parts:
    """Rows of `row_bytes` bytes in files of at most `PART_BYTES`: `path`, then `path` with -1, -2 ... after its stem."""

    path: Path
    row_bytes: int

    @property
    def rows(self) -> int:
        """Rows of a part that is full; row i lies in part i // rows."""
        return max(1, PART_BYTES // self.row_bytes)

    def file(self, part: int) -> Path:
        return self.path.with_stem(f"{self.path.stem}-{part}") if part else self.path

    def counts(self) -> dict[int, int]:
        """Whole rows of each part that is there; more than fit into a part, as older files have them, are no rows."""
        numbers = [file.stem.rpartition("-")[2] for file in self.path.parent.glob(f"{self.path.stem}-*{self.path.suffix}")]
        there = [0] * self.path.exists() + sorted(int(number) for number in numbers if number.isdecimal())
        return {part: min(count_rows(self.file(part), self.row_bytes), self.rows) for part in there}

    def end(self) -> int:
        """The first row after all that are there, also after one that was begun."""
        last = max(self.counts(), default=0)
        size = self.file(last).stat().st_size if self.file(last).exists() else 0
        return last * self.rows + min(-(-size // self.row_bytes), self.rows)


class PartedRows:
    """Rows of parts, all of which are mapped now: who deletes or replaces a part later does not disturb."""

    def __init__(self, parts: Parts) -> None:
        self._row_bytes, self._rows = parts.row_bytes, parts.rows
        self._parts = {part: MemmapRows(parts.file(part), parts.row_bytes) for part in parts.counts()}

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Copy of the given rows, uint8 (len(rows), row_bytes)."""
        part_of, within = np.divmod(rows, self._rows)
        parts = np.unique(part_of)
        if len(parts) == 1:
            return self._parts[int(parts[0])].read(within)
        batch = np.empty((len(rows), self._row_bytes), np.uint8)
        for part in parts:
            here = part_of == part
            batch[here] = self._parts[int(part)].read(within[here])
        return batch


class RowWriter:
    """Writes rows into parts, from any thread; they are on the disk after `sync`, which also closes the files."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._files: dict[int, IO[bytes]] = {}
        self._writing = threading.Lock()  # a file has one position; to write at another (os.pwrite) is not in Windows

    def write(self, row: int, data: bytes) -> None:
        """Write a row, over what was there. Raises OSError where the disk has no room for all of it."""
        part, within = divmod(row, self._parts.rows)
        with self._writing:
            if part not in self._files:
                self._parts.file(part).touch()
                self._files[part] = open(self._parts.file(part), "r+b", buffering=0)  # noqa: SIM115, see sync
            self._files[part].seek(within * self._parts.row_bytes)
            if self._files[part].write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        with self._writing:
            files, self._files = self._files, {}
        for file in files.values():
            with file:
                os.fsync(file.fileno())
