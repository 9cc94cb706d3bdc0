"""Several processes for one training, started by torchrun, on this machine or as its part of several machines."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from mlkit import errors
from mlkit.data.cache import cores
from mlkit.errors import FailureError, MlkitError, ParameterError, Terminated, check_installed
from mlkit.files import write_json
from mlkit.parameters import Between, check_fields
from mlkit.progress import say
from mlkit.runs import HELD, Run
from mlkit.runs.claims import claim_of

PLAN, FAILURE = "plan.json", "failure.json"  # what the processes are to do; the first error of one


@dataclass(frozen=True)
class World:
    """How many processes share a training, and where.

    Raises:
        ParameterError: if a value is outside of what is possible, or what several machines need is missing.
    """

    processes: Annotated[int, Between(1, 1024), "on this machine, as on each"] = 1
    machines: Annotated[int, Between(1, 100_000), "that train together, each by the same command"] = 1
    rank: Annotated[int, Between(0), "number of this machine; machine 0 has the run folder"] = 0
    rendezvous: Annotated[str, "HOST:PORT of machine 0, which all machines can reach"] = ""
    restarts: Annotated[int, Between(0, 1000), "of all processes, from the last checkpoint, when one has died"] = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.rank < self.machines:
            raise ParameterError(f"rank is {self.rank}, of {self.machines} machines; it counts from 0")
        host, _, port = self.rendezvous.rpartition(":")
        if self.machines > 1 and not (host and port.isdigit()):
            raise ParameterError(
                f"rendezvous is {self.rendezvous!r}; {self.machines} machines need HOST:PORT, a free port of machine 0"
            )

    @property
    def size(self) -> int:
        """Of all machines' processes together."""
        return self.processes * self.machines

    def torchrun(self) -> list[str]:
        """Its options."""
        where = ["--standalone"]
        if self.machines > 1:
            where = [f"--nnodes={self.machines}", "--rdzv-backend=c10d", f"--rdzv-endpoint={self.rendezvous}"]
            where += ["--rdzv-id=mlkit", f"--rdzv-conf=is_host={'false' if self.rank else 'true'}"]
        return [*where, f"--nproc-per-node={self.processes}", f"--max-restarts={self.restarts}"]


ALONE = World()


def launch(world: World, parameters: Mapping[str, Any], fingerprint: str, run: Run | None) -> None:
    """Train in processes of their own, and wait for them.

    They end when this process does, however that ends; asked to end, they save first, as a training of one process does.

    Args:
        world: how many there are.
        parameters: of the recipe.
        fingerprint: of the data, which must be the same for all.
        run: its folder, on machine 0; None on others, which write nothing.

    Raises:
        ParameterError: if this machine has fewer GPUs than processes that need one each.
        FailureError: if one of them died.
        MlkitError: what one of them raised.
    """
    check_installed("distributed", "accelerate")
    environment = {"OMP_NUM_THREADS": str(max(1, cores() // world.processes))} | os.environ
    environment |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # torch 2.14: addresses of the dead stay in what is shared
    if run is not None:
        with run.claimed():  # and then given back, for the main process to take
            if claim_of(run.path) is None:  # this kernel trains where who executes its notebook has the claim
                environment |= {HELD: str(run.path)}
    with tempfile.TemporaryDirectory(prefix="mlkit-", ignore_cleanup_errors=True) as folder:
        plan = {"size": world.size, "parameters": dict(parameters), "data": fingerprint, "run": str(run.path) if run else ""}
        write_json(Path(folder, PLAN), plan)
        command = [sys.executable, "-m", "mlkit.training.worker", folder, *world.torchrun()]
        process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for line in process.stdout:
                say(line.rstrip("\n"))
            process.wait()
        except KeyboardInterrupt as stop:
            process.send_signal(signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
            for line in process.stdout:
                say(line.rstrip("\n"))
            raise
        finally:
            process.stdin.close()  # by which they see that nobody waits for them any more
            process.wait()
        if process.returncode:
            raise _failure(Path(folder, FAILURE))


def _failure(file: Path) -> MlkitError:
    """What went wrong: the error that a process has left, if it has."""
    error: MlkitError = FailureError("a process of the training has died, the others were ended; the same command goes on")
    with suppress(OSError, ValueError, KeyError):
        failure = json.loads(file.read_text(encoding="utf-8"))
        if failure["kind"]:
            kind: type[MlkitError] = getattr(errors, failure["kind"])
            error = kind.__new__(kind)  # some are made of other things than their text
            error.args = (failure["text"],)
        error.__cause__ = RuntimeError(failure["trace"])
    return error
