"""Where the trials of a search are kept: a journal file in its folder, a database, or the journal of another machine."""

import os
import time
import warnings
from collections.abc import Callable
from functools import wraps
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.errors import FailureError, MlkitError, check_installed
from mlkit.progress import say

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

STORAGE = "MLKIT_STORAGE"  # address of a database for the trials; never written down, since it may hold a password
SERVED = "127.0.0.1:13000"  # where a journal is served, unless another place is named
_PATIENCE = 600.0  # seconds in which a server may be started again


def use_storage(address: str) -> None:
    """Keep trials in a database from here on, in the processes that this one starts, too."""
    from sqlalchemy.engine import make_url

    os.environ[STORAGE] = address
    if storage_name().startswith("sqlite"):  # the others work in another folder
        url = make_url(address)
        os.environ[STORAGE] = str(url.set(database=str(Path(url.database or "trials.db").absolute())))


def storage_name() -> str:
    """Where trials are kept, without a password: an address, grpc://HOST:PORT for a journal that another machine serves."""
    if not (address := os.environ.get(STORAGE)):
        return "journal.log"
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(address).render_as_string(hide_password=True)
    except ArgumentError:
        raise MlkitError(
            f"--storage is {address!r}; it must be the address of a database, postgresql://user@host/name say"
        ) from None


def open_storage(folder: Path) -> "BaseStorage":
    """The storage of the search in a folder. Raises MlkitError if the database cannot be used."""
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if not (address := os.environ.get(STORAGE)):
        journal = str(folder / "journal.log")
        return JournalStorage(JournalFileBackend(journal, JournalFileOpenLock(journal)))  # Windows has links for few
    if address.startswith("grpc://"):
        return _served(*place(address.removeprefix("grpc://")))
    try:
        return RDBStorage(address)
    except Exception as error:  # whatever the database's driver raises, or that there is none
        reason = " ".join(str(error).split())
        raise MlkitError(
            f"{storage_name()} cannot be used for the trials ({reason[:300]}); is the database there, and its driver "
            "installed (psycopg[binary] for PostgreSQL, pymysql for MySQL)?"
        ) from None


def place(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT. Raises MlkitError if it is none."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise MlkitError(f"{text!r} must be HOST:PORT, such as {SERVED}")
    return host, int(port)


def serve(folder: Path, where: str) -> None:
    """Serve the journal of the search in a folder to other machines, by Optuna's gRPC proxy, until it is interrupted.

    Raises:
        MlkitError: if gRPC is not installed, or the search is kept in a database, which machines reach by themselves.
    """
    check_installed("grpc", "grpc")
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import run_grpc_proxy_server

    if os.environ.get(STORAGE):
        raise MlkitError(f"--serve serves the journal of a search, and this one is kept in {storage_name()}; leave one out")
    host, port = place(where)
    say(f"other machines: mlkit tune --storage grpc://{where} ... (Ctrl-C ends)")
    if host != "localhost" and not _is_loopback(host):
        say(f"warning: who reaches {where} can read and change the search, without a password; serve in networks you trust")
    try:
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            run_grpc_proxy_server(open_storage(folder), host=host, port=port)
    except RuntimeError as error:  # that gRPC cannot listen there
        raise FailureError(f"{where} cannot be served ({error}); is it in use?") from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _served(host: str, port: int) -> "BaseStorage":
    """The journal that another process serves; calls wait for one that is started again, all but those that make a trial."""
    check_installed("grpc", "grpc")
    import grpc
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import BaseStorage, GrpcStorageProxy

    def patient(call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def waiting(*arguments: Any, **options: Any) -> Any:
            end = time.monotonic() + _PATIENCE
            while True:
                try:
                    return call(*arguments, **options)
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.UNAVAILABLE:
                        raise
                    if time.monotonic() > end or call.__name__.startswith("create"):  # a trial made twice would run twice
                        raise FailureError(
                            f"grpc://{host}:{port} does not answer; start it with `mlkit tune --serve`, and call again"
                        ) from None
                time.sleep(0.2)

        return waiting

    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        proxy = GrpcStorageProxy(host=host, port=port)
    for name in dir(BaseStorage):
        if not name.startswith("_") and callable(getattr(proxy, name)):
            setattr(proxy, name, patient(getattr(proxy, name)))
    return proxy
