"""Who may work at something: one process at a time; in a run folder, the kernel of the notebook that it executes, too."""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from filelock import FileLock, Timeout

from mlkit.errors import ClaimError
from mlkit.files import make_folder, shown, unlink_link

TAKE_OVER = "MLKIT_TAKE_OVER"  # set: what processes of other machines did not give back is taken, see `mlkit --take-over`


class Claim:
    """The right to work at something, which one process has at a time: a locked file, and one beside it with who holds it.

    The operating system drops the lock of a process that dies, however it dies: no claim is ever left behind. Windows lets
    nobody read or write the locked file itself.
    """

    def __init__(self, path: Path, what: str) -> None:
        """Take it.

        Args:
            path: the file; it stays, since to delete a lock that others look at would make two of it.
            what: is claimed, for the error.

        Raises:
            ClaimError: if another process has it; on another machine, if that did not give it back, unless `TAKE_OVER` is
                set.
        """
        make_folder(path.parent)
        self._by, self._lock = path.with_name(f"{path.name}.by"), FileLock(path, timeout=0)
        for own_file in (path, self._by):
            unlink_link(own_file)
        try:
            self._lock.acquire()
        except Timeout:
            raise ClaimError(what, **_holder(self._by)) from None
        before, own = _holder(self._by), {"pid": os.getpid(), "host": platform.node()}
        # not every network file system tells other machines of a lock
        if before and before["host"] != own["host"] and not os.environ.get(TAKE_OVER):
            self._lock.release(force=True)
            raise ClaimError(what, **before)
        self._by.write_text(json.dumps(own), encoding="utf-8")

    def release(self) -> None:
        """Give it back."""
        with suppress(OSError):  # the folder may be gone, or Windows refuse since somebody is reading
            self._by.unlink()
        self._lock.release(force=True)

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _holder(path: Path) -> dict[str, Any]:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return {name: holder[name] for name in ("pid", "host")}
    except (OSError, ValueError, TypeError, KeyError):  # given back, or being written
        return {}


_CLAIMS: WeakValueDictionary[Path, Claim] = WeakValueDictionary()  # of this process
HELD = "MLKIT_HELD"  # folder of a run: who executes notebooks in it lets their kernel train there, and no process below that
_HELD = os.environ.pop(HELD, "")


def claim_of(folder: Path) -> Claim | None:
    """This process's claim of a run folder, new or not; None in the kernel of a notebook that its holder executes."""
    if str(folder) == _HELD:
        return None
    if (claim := _CLAIMS.get(folder)) is None:
        claim = _CLAIMS[folder] = Claim(folder / "lock", shown(folder))
    return claim


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Within: this process has the claim of a run folder, which is given back at the end, whoever took it."""
    claim = claim_of(folder)
    try:
        yield
    finally:
        if claim is not None:
            _CLAIMS.pop(folder, None)
            claim.release()
