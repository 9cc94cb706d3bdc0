"""Pieces of work for a cluster, in a module that a worker imports at once."""

import os
import secrets
import signal
import time
from pathlib import Path


def square(number, folder):
    """A piece: writes down that it ran. One kills its worker the first time, one each time, one fails each time."""
    with open(Path(folder, str(number)), "a", encoding="utf-8") as file:
        file.write("ran\n")
    runs = len(Path(folder, str(number)).read_text(encoding="utf-8").splitlines())
    if number == -2:
        raise ValueError("no such number")
    if number == -3:
        time.sleep(2)  # the worker is to be up before it dies: one that never was is not started again
    if number == -3 or (number == 7 and runs == 1):
        os.kill(os.getpid(), signal.SIGKILL)


def threads(of_torch):
    """Writes down how many torch has, and a kernel would; refuses to run beside another piece in the same process."""
    with BUSY:
        time.sleep(0.05)
    file = Path(os.environ["MLKIT_OUTPUTS"], secrets.token_hex())
    file.write_text(f"{of_torch()} {os.environ['OMP_NUM_THREADS']}", encoding="utf-8")


def serve(address):
    """Be a worker of a scheduler, without a nanny."""
    from distributed.cli.dask_worker import main

    main([address, "--nthreads", "1", "--no-dashboard", "--no-nanny"])


class Busy:
    """Can be entered by one thread at a time."""

    def __enter__(self):
        assert not hasattr(self, "busy")
        self.busy = True

    def __exit__(self, *_):
        del self.busy


BUSY = Busy()
