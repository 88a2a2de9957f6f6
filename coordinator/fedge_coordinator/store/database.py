"""One database, and transactions that several repositories can share."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from fedge_coordinator.store.errors import StoreUnavailableError

BUSY_TIMEOUT_MS: Final = 5000

_SQLITE_PRAGMAS: Final = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}",
)


class Database:
    """An engine, and the transaction of the calling thread if one is open.

    On SQLite every transaction begins as a writer (BEGIN IMMEDIATE) and is on disk when the block ends.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._open = threading.local()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction; a block inside another joins it, and commits or rolls back with the outermost.

        Never await inside the block: another task of the same thread would join it.
        """
        joined: Connection | None = getattr(self._open, "connection", None)
        if joined is not None:
            yield joined
            return
        with self.engine.begin() as connection:
            self._open.connection = connection
            try:
                yield connection
            finally:
                self._open.connection = None

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def open_database(url_or_path: str | Path) -> Database:
    """Connect to a SQLite file (made with mode 0600 when missing) or to any SQLAlchemy URL.

    Raises:
        StoreUnavailableError: the file or the server cannot be opened.
    """
    text = str(url_or_path)
    if "://" not in text:
        path = Path(text).absolute()
        _create_private(path)
        text = f"sqlite:///{path}"
    url = make_url(text)
    engine = create_engine(url, pool_pre_ping=url.get_backend_name() != "sqlite")
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_as_writer)
    try:
        with engine.connect():
            pass
    except OperationalError as error:
        engine.dispose()
        raise StoreUnavailableError(f"cannot open {url.render_as_string()}: {error.orig}") from error
    return Database(engine)


def _create_private(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreUnavailableError(f"cannot open {path}: {error.strerror}") from error


def _configure_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver must not open transactions on its own: it would begin them as readers, and late.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in _SQLITE_PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin_as_writer(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
