"""Pieces of work: run in order, or by the workers of a cluster, each until it is done or has failed three times."""

import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, TypeVar

from mlkit.errors import FailureError
from mlkit.fanout.cluster import DASK
from mlkit.progress import SWITCH, listed, say
from mlkit.runs import outputs_root
from mlkit.runs.claims import TAKE_OVER

if TYPE_CHECKING:
    from distributed import Client, Future

ATTEMPTS = 3
Answer = TypeVar("Answer")
_AT_ONCE = 256  # pieces that the scheduler knows of, at least: of millions it would need gigabytes


@dataclass(frozen=True)
class Piece:
    """One of many: what it is called, and the arguments of the function, which are small: data travel by path."""

    name: str
    arguments: tuple[Any, ...]


def run_pieces(
    client: "Client | None", function: Callable[..., object], pieces: Iterable[Piece], variables: Iterable[str] = ()
) -> Iterator[Piece]:
    """Run pieces, and yield each when it is done; without a client in order, and the first error is raised.

    On a cluster a piece whose worker dies runs again elsewhere; one that fails three times is left out, and the others go
    on. Who stops looking, by Ctrl-C say, cancels those that have not begun; what a worker has begun it brings to its end.

    Args:
        client: of `open_cluster`.
        function: of a module, or a `functools.partial` of one. What it returns is not looked at: a worker may die with it.
            It may run twice, so it must be idempotent, and write files whole or not at all; a process runs one at a time.
        pieces: looked up as they are needed.
        variables: of the environment, which the workers need too.

    Raises:
        FailureError: at the end, if pieces failed; it names them. At once, if the scheduler is gone.
    """
    if client is None:
        for piece in pieces:
            function(*piece.arguments)
            yield piece
        return
    from distributed import KilledWorker

    from mlkit.fanout.worker import run_piece

    common, left, failed = (pickle.dumps(function), _environment(variables)), iter(pieces), dict[str, str]()
    running: dict[Future[Any], Piece] = {}
    done: Queue[Future[Any]] = Queue()
    most = max(_AT_ONCE, 2 * sum(client.nthreads().values()))
    try:
        while True:
            for piece in islice(left, most - len(running)):
                future = client.submit(run_piece, *common, *piece.arguments, retries=ATTEMPTS - 1, pure=False)
                running[future] = piece
                future.add_done_callback(done.put)
            if not running:
                break
            future = _next(done, client)
            if future.status == "cancelled":
                raise FailureError("the scheduler is gone; what is finished is kept, and the same command goes on")
            piece = running.pop(future)
            if future.status != "error":  # finished, or pending again, for its worker has died since
                yield piece
                continue
            killed = isinstance(error := future.exception(), KilledWorker)
            failed[piece.name] = "its worker died each time, for want of memory perhaps" if killed else str(error)
            say(f"{piece.name} failed {ATTEMPTS} times: {failed[piece.name]}")
    finally:
        if running and client.status == "running":
            client.cancel(list(running))
    if failed:
        name, why = next(iter(failed.items()))
        what = f"{len(failed)} failed {ATTEMPTS} times each, the others are done: {listed(failed)}"
        raise FailureError(f"{what}; of {name}: {why}; the same command goes on with what is left")


def ask(client: "Client | None", function: Callable[..., Answer]) -> Answer:
    """What a function says in the process of a worker; without a client, in this one. Raises FailureError if it fails."""
    if client is None:
        return function()
    from mlkit.fanout.worker import run_piece

    answer: Answer = client.submit(run_piece, pickle.dumps(function), _environment(), pure=False).result()
    return answer


def _environment(variables: Iterable[str] = ()) -> dict[str, str]:
    """Variables of a worker while it runs a piece: where this process writes, no bars, and no cluster within the cluster.

    What a dead worker of another machine has claimed is taken over: the scheduler gives a piece to one worker at a time.
    """
    own = {"MLKIT_OUTPUTS": str(outputs_root()), SWITCH: "off", TAKE_OVER: "yes", DASK: ""}
    return {name: os.environ[name] for name in variables if name in os.environ} | own


def _next(done: "Queue[Future[Any]]", client: "Client") -> "Future[Any]":
    """The next that ends. Raises FailureError if the cluster is one's own, and no worker of it is left."""
    while client.cluster is None or client.cluster.workers:
        with suppress(Empty):
            return done.get(timeout=1)  # in short turns: in Windows nothing interrupts a wait without end
    raise FailureError("no worker is left; what is finished is kept, and the same command goes on")
