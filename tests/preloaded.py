"""What the workers of a cluster load before a test: tiny networks, trials that are played, and a way to be killed once."""

import os
import signal
import sys
from pathlib import Path

from mlkit.fanout import worker

DIES = Path(os.environ["MLKIT_TEST_DIES"])  # who finds this file in the middle of a piece removes it, and is killed
MIDDLE = {  # of a piece: a function that it calls
    "mlkit.inference.predictor": "Predictor._table",
    "mlkit.experiments.study.cells": "_compute",
    "mlkit.experiments.search.worker": "execute",
}


def dying(function):
    """The function, in whose place its process may be killed."""

    def called(*arguments, **options):
        if DIES.exists():
            DIES.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return called


def loaded(work, real=worker._function):
    """The function of a piece of mlkit's, changed here once it is there: to import it takes seconds."""
    if b"mlkit" in work:
        import tinynet  # noqa: F401
    function = real(work)
    for module in MIDDLE.keys() & sys.modules.keys():
        owner, name = sys.modules[module], MIDDLE.pop(module)
        for part in name.split(".")[:-1]:
            owner = getattr(owner, part)
        name = name.split(".")[-1]
        called = getattr(owner, name)
        if name == "execute":
            from played import play as called
        setattr(owner, name, dying(called))
    return function


worker._function = loaded
