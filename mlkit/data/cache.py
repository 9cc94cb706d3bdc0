"""The pixel cache: every image is decoded once, then training reads uint8 pixels from a memory map.

A cache is a folder. `pixels.u8`, `pixels-1.u8` ... hold rows of (size, size, 3) bytes, each written once; `index.csv` says
which row belongs to which file (path, size, times) and is replaced whole. A row counts only once the index names it, so a
cache is whole at any moment: an interrupted build goes on where it stopped, a changed or added image costs one decode, a
part that is gone those of its images. Of a file that was touched in any way, even if size and mtime are the same (as in
archives that store no times), the content is read again and decides.
What else is computed of every image's pixels may be kept beside them, by the content of the file.
Once most rows belong to files that are no more, they are begun anew; processes that have the old ones open keep them.
"""

import errno
import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from stat import S_ISREG
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from filelock import FileLock

from mlkit.data.images import DECODER, decode_image, digest_content, notes, read_bytes
from mlkit.data.levels import Levels
from mlkit.data.memmap import PartedRows, Parts, RowWriter
from mlkit.data.reading import AS_USUAL, Reading
from mlkit.data.remote import REQUESTS, State, states
from mlkit.errors import ImageError, MlkitError, WriteError
from mlkit.files import address, atomic, check_space, make_folder, outputs_root, shown, write_csv
from mlkit.progress import bar

_COLUMNS = {
    "image": str,
    "bytes": np.int64,
    "mtime_ns": np.int64,
    "ctime_ns": np.int64,
    "row": np.int64,
    "digest": str,
    "problem": str,
    "several": np.int64,
    "kind": str,
    "low": np.float64,
    "high": np.float64,
    "levels": np.int64,
    "kept": np.int64,
}
_COMMIT_SECONDS = 10.0  # an interruption loses at most this much work


@dataclass(frozen=True)
class Entry:
    """One image of the cache: where its pixels are, or why there are none."""

    bytes: int
    mtime_ns: int
    ctime_ns: int  # which nobody sets by hand
    row: int  # -1 where the file cannot be decoded
    digest: str  # of the file's content: equal digests, equal files; empty where it cannot be read
    problem: str  # empty where all is well
    several: int = 0  # whether it has more pages or frames
    kind: str = ""  # with what follows: of files deeper than 8 bits, see `Levels`
    low: float = 0.0
    high: float = 0.0
    levels: int = 0
    kept: int = 0

    @property
    def deep(self) -> Levels | None:
        """What became of the values of a file deeper than 8 bits."""
        return Levels(self.kind, self.low, self.high, self.levels, self.kept) if self.kind else None


class PixelCache:
    """Decoded pixels of the images below one folder, at one size, read in one way."""

    def __init__(self, path: Path, size: int, reading: Reading, entries: dict[str, Entry], missing: dict[str, str]) -> None:
        self.path = path
        self.size = size
        self.reading = reading
        self.entries = entries
        self.problems = missing | {image: e.problem for image, e in entries.items() if e.problem}
        self._pixels = PartedRows(_parts(path, size))

    @property
    def levels(self) -> list[Levels]:
        """Of the files deeper than 8 bits."""
        return [deep for entry in self.entries.values() if (deep := entry.deep)]

    @property
    def notes(self) -> list[str]:
        """What a person should know of how the files were read, a line each."""
        return notes({image: (entry.deep, bool(entry.several)) for image, entry in self.entries.items()}, self.reading)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Pixels of the given cache rows, uint8 (len(rows), size, size, 3)."""
        return self._pixels.read(rows).reshape(-1, self.size, self.size, 3)

    def kept(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """What `keep` has kept; nothing where there is no such file, or a garbled one."""
        try:
            with np.load(self.path / f"{name}.npz") as file:
                return file["digests"], file["rows"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return np.empty(0, str), np.empty(0)

    def keep(self, name: str, digests: np.ndarray, rows: np.ndarray) -> None:
        """Keep one row for each content of a file, named by its digest; those of old files only while they are few."""
        if len(digests) > 2 * len(self.entries):
            current = np.isin(digests, [entry.digest for entry in self.entries.values()])
            digests, rows = digests[current], rows[current]
        with suppress(WriteError), atomic(self.path / f"{name}.npz") as temporary:  # a disk that is full costs time later
            np.savez(temporary, digests=digests, rows=rows)


def cores() -> int:
    """Cores that this process may use; as many as `OMP_NUM_THREADS` says, where processes share a machine by that."""
    if (said := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() and int(said):
        return int(said)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def build_cache(folder: Path, images: Sequence[str], size: int, reading: Reading = AS_USUAL) -> PixelCache:
    """Pixel cache of `images` (paths relative to `folder`), decoding those that it does not hold yet.

    Raises:
        MlkitError: if the disk has no room for it or cannot be written. Images that are missing or broken are no error:
            see `problems`.
    """
    what = (address(folder) or str(folder.resolve())) + ("" if reading == AS_USUAL else f"\0{reading}")
    key = hashlib.blake2b(what.encode(), digest_size=4).hexdigest()
    path = make_folder(outputs_root() / "cache" / f"{folder.name[:80]}-{key}-{size}px-{DECODER}")
    with FileLock(path / "lock"):
        parts = _parts(path, size)
        known = _with_pixels(_read_index(path / "index.csv"), parts)
        stats, missing = states(folder, images) if address(folder) else _stats(folder, images)
        for image in missing:
            known.pop(image, None)
        touched = [i for i, s in stats.items() if i not in known or not _same(known[i], s)]
        renewed = _with_same_content(folder, touched, stats, known)
        known |= renewed
        todo = [image for image in touched if image not in renewed]
        if todo and sum(parts.counts().values()) > 2 * len(known):
            (path / "index.csv").unlink(missing_ok=True)  # first: it must never speak of another file's rows
            for part in parts.counts():
                with suppress(PermissionError):  # Windows, where another process reads it: then it stays, until a later time
                    parts.file(part).unlink()
            known = _with_pixels(known, parts)
            todo = list(dict.fromkeys([*todo, *(image for image in stats if image not in known)]))
        if touched:
            try:
                _decode_into(parts, folder, todo, stats, size, reading, known)
            except OSError as error:
                raise MlkitError(
                    f"{shown(path)}: the pixel cache cannot be written ({error.strerror}); mend that, or set MLKIT_OUTPUTS "
                    "to a folder on another disk"
                ) from error
        return PixelCache(path, size, reading, {image: known[image] for image in stats}, missing)


def _stats(folder: Path, images: Sequence[str]) -> tuple[dict[str, State], dict[str, str]]:
    """State of each image, and those that are missing, with the reason."""
    found: dict[str, State] = {}
    missing: dict[str, str] = {}
    for image in images:
        try:
            here = os.stat(folder / image)
        except OSError as error:
            missing[image] = "no such file" if error.errno == errno.ENOENT else os.strerror(error.errno or 0).lower()
            continue
        if S_ISREG(here.st_mode):
            found[image] = here.st_size, here.st_mtime_ns, here.st_ctime_ns
        else:
            missing[image] = "not a file"  # a pipe, say, which would be waited for
    return found, missing


def _threads(folder: Path) -> int:
    """Threads that read images: one a core, more where most of them wait for the network."""
    return max(cores(), REQUESTS) if address(folder) else cores()


def _parts(path: Path, size: int) -> Parts:
    return Parts(path / "pixels.u8", size * size * 3)


def _decode_into(
    parts: Parts,
    folder: Path,
    todo: list[str],
    stats: dict[str, State],
    size: int,
    reading: Reading,
    known: dict[str, Entry],
) -> None:
    """Decode images in parallel threads into new rows of the pixel files, committing the index now and then."""
    way_out = "free some, set MLKIT_OUTPUTS to a folder on a larger disk, or lower image_size"
    check_space(parts.path.parent.parent, len(todo) * parts.row_bytes, "the pixel cache needs", way_out)
    pixels = RowWriter(parts)
    start = parts.end()  # never into a row that another process may have open

    def decode(image: str, row: int) -> tuple[str, Entry]:
        digest = problem = ""
        facts: dict[str, Any] = {}
        try:
            data = read_bytes(folder / image)
            digest = digest_content(data)
            decoded = decode_image(data, folder / image, size, reading)
            facts = {"several": int(decoded.several)} | (asdict(decoded.levels) if decoded.levels else {})
            pixels.write(row, decoded.pixels.tobytes())
        except ImageError as error:
            problem = str(error).removeprefix(f"{shown(folder / image)}: ")
        return image, Entry(*stats[image], -1 if problem else row, digest, problem, **facts)

    executor = ThreadPoolExecutor(_threads(folder))
    committed = time.monotonic()
    try:
        futures = [executor.submit(decode, image, start + i) for i, image in enumerate(todo)]
        for future in bar(as_completed(futures), total=len(futures), desc="decoding", unit="image"):
            image, entry = future.result()
            known[image] = entry
            if time.monotonic() - committed > _COMMIT_SECONDS:
                _commit(parts.path.parent, pixels, known)
                committed = time.monotonic()
    finally:
        executor.shutdown(cancel_futures=True)
        _commit(parts.path.parent, pixels, known)


def _commit(path: Path, pixels: RowWriter, known: dict[str, Entry]) -> None:
    pixels.sync()  # before the index that vouches for them
    records: list[dict[str, Any]] = [{"image": image, **vars(entry)} for image, entry in known.items()]
    write_csv(path / "index.csv", pd.DataFrame(records, columns=list(_COLUMNS)), index=False)


def _read_index(path: Path) -> dict[str, Entry]:
    """Entries of the index; none where a system crash left it cut or garbled."""
    data = path.read_bytes() if path.exists() else b""
    try:
        table = pd.read_csv(BytesIO(data), dtype=_COLUMNS, keep_default_na=False)
    except ValueError:  # pandas' parser errors are such, and what is not a number or not UTF-8 raises it too
        return {}
    if list(table.columns) != list(_COLUMNS) or not data.endswith(b"\n"):
        return {}
    return {image: Entry(*values) for image, *values in table.itertuples(index=False, name=None)}


def _with_pixels(entries: dict[str, Entry], parts: Parts) -> dict[str, Entry]:
    """Those whose pixels are in a part that is there, and those that have none for a reason."""
    counts = parts.counts()

    def is_there(row: int) -> bool:
        return row >= 0 and row % parts.rows < counts.get(row // parts.rows, 0)

    return {image: entry for image, entry in entries.items() if entry.problem or is_there(entry.row)}


def _with_same_content(
    folder: Path, images: Sequence[str], stats: dict[str, State], known: dict[str, Entry]
) -> dict[str, Entry]:
    """New entries for those of the images whose content is still what the entry says: copied back, or touched."""

    def digest(image: str) -> str:
        try:
            return digest_content(read_bytes(folder / image))
        except ImageError:
            return ""

    again = [image for image in images if image in known and known[image].digest]
    with ThreadPoolExecutor(_threads(folder)) as executor:
        same = [image for image, now in zip(again, executor.map(digest, again), strict=True) if now == known[image].digest]
    renewed = {}
    for image in same:
        size, mtime, ctime = stats[image]
        renewed[image] = replace(known[image], bytes=size, mtime_ns=mtime, ctime_ns=ctime)
    return renewed


def _same(entry: Entry, found: State) -> bool:
    """Whether the file is still what the entry says; one that could not be read is worth another try."""
    unread = not entry.digest and entry.bytes > 0
    return (entry.bytes, entry.mtime_ns, entry.ctime_ns) == found and not unread
