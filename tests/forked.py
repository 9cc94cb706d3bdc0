"""Processes of their own that import nothing: one imports once what takes seconds, and they are forked of it."""

import gc
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver

import accelerate  # noqa: F401
import iterstrat.ml_stratifiers  # noqa: F401
import pytest
import tinynet  # noqa: F401

import mlkit.training.loop  # noqa: F401

FORKED = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")


@contextmanager
def warm():
    """Within: they find the tests' modules, and what is to be imported is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        if os.name == "posix":
            FORKED.set_forkserver_preload([__name__])
            forkserver.ensure_running()
        yield


def processes(count):
    """So many of them, in the environment of this one."""
    with warm():
        return ProcessPoolExecutor(count, FORKED, enter, (dict(os.environ),))


def enter(environment):
    os.environ |= environment


gc.freeze()  # pages that no garbage collection touches are shared
