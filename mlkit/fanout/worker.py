"""What a worker of a Dask cluster is told when it joins, and how it runs a piece."""

import os
import pickle
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import lru_cache
from io import StringIO
from typing import Any

from distributed import Worker, WorkerPlugin

from mlkit.errors import FailureError, MlkitError
from mlkit.files import environment


class Setup(WorkerPlugin):
    """A worker runs one piece at a time, with as many threads as it has: a training owns its process's random numbers.

    Args:
        gpus: of the machine, of which each worker takes one, by its number; 0: whatever is there.
    """

    def __init__(self, gpus: int = 0) -> None:
        self._gpus = gpus

    def setup(self, worker: Worker) -> None:
        """Called on every worker before its first piece, those that join later too."""
        os.environ["OMP_NUM_THREADS"] = str(worker.state.nthreads)  # which torch and kernels ask as they start
        worker.state.nthreads = 1  # at once; the scheduler may hand it more, which wait, and go to those that are idle
        if self._gpus > 1:
            os.environ.setdefault("CUDA_VISIBLE_DEVICES", str(int(worker.name) % self._gpus))


def run_piece(work: bytes, variables: Mapping[str, str], *arguments: Any) -> Any:
    """Run a piece in the worker's process: `work` is the pickled function, `variables` are of its environment.

    Raises:
        FailureError: if it fails; of any error the text alone travels, since not all can be pickled.
    """
    with environment(**variables), redirect_stdout(StringIO()):
        try:
            function = _function(work)
            if torch := sys.modules.get("torch"):
                torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
            return function(*arguments)
        except MlkitError as error:
            raise FailureError(str(error)) from None
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            text = " ".join(str(error).split())
            raise FailureError(f"{type(error).__name__}: {text} ({at.filename}:{at.lineno})") from None


@lru_cache(maxsize=1)
def _function(work: bytes) -> Callable[..., Any]:
    """A pickled function; with what it has opened, a data set or a model, it stays for the next piece."""
    function: Callable[..., Any] = pickle.loads(work)
    return function
