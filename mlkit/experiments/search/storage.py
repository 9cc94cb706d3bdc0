"""Where the trials of a search are kept: a journal file in its folder, or a database."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit.errors import MlkitError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

STORAGE = "MLKIT_STORAGE"  # address of a database for the trials; never written down, since it may hold a password


def use_storage(address: str) -> None:
    """Keep trials in a database from here on, in the processes that this one starts, too."""
    from sqlalchemy.engine import make_url

    os.environ[STORAGE] = address
    if storage_name().startswith("sqlite"):  # the others work in another folder
        url = make_url(address)
        os.environ[STORAGE] = str(url.set(database=str(Path(url.database or "trials.db").absolute())))


def storage_name() -> str:
    """Where trials are kept, without a password."""
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
    try:
        return RDBStorage(address)
    except Exception as error:  # whatever the database's driver raises, or that there is none
        reason = " ".join(str(error).split())
        raise MlkitError(
            f"{storage_name()} cannot be used for the trials ({reason[:300]}); is the database there, and its driver "
            "installed (psycopg[binary] for PostgreSQL, pymysql for MySQL)?"
        ) from None
