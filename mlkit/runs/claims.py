"""Who may work in a run folder: one process at a time, and the kernel of the notebook that it executes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from mlkit.files import Claim, shown

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
