"""The store as one value: its repositories, and a transaction over several of them."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from fedge_coordinator.store.blobs import Blobs
from fedge_coordinator.store.clock import ClockMs, wall_clock_ms
from fedge_coordinator.store.database import Database, open_database
from fedge_coordinator.store.device_sessions import DeviceSessions
from fedge_coordinator.store.devices import Devices
from fedge_coordinator.store.jobs import Jobs
from fedge_coordinator.store.journal import RoundJournal
from fedge_coordinator.store.lock import StoreLock
from fedge_coordinator.store.migrate import migrate
from fedge_coordinator.store.prekeys import Prekeys


@dataclass(frozen=True)
class Store:
    """An open store. Sync and short: it may be called from the event loop."""

    database: Database
    journal: RoundJournal
    jobs: Jobs
    prekeys: Prekeys
    devices: Devices
    sessions: DeviceSessions
    blobs: Blobs
    lock: StoreLock | None = None

    def transaction(self) -> AbstractContextManager[Connection]:
        """Several calls as one: all durable when the block ends, or none. Never await inside."""
        return self.database.transaction()

    def close(self) -> None:
        """Close the database and let another coordinator have it."""
        self.database.close()
        if self.lock is not None:
            self.lock.release()


def open_store(
    url_or_path: str | Path,
    *,
    blobs: Path | None = None,
    clock_ms: ClockMs = wall_clock_ms,
    exclusive: bool = False,
) -> Store:
    """Open a store and bring its tables up to date.

    Args:
        url_or_path: a SQLite file, made when missing, or an SQLAlchemy URL.
        blobs: folder of the blobs; by default `blobs` beside the SQLite file, required with a URL.
        clock_ms: stamps the rows.
        exclusive: hold the store's lock, as a coordinator must: two of them would open different rounds of one job.

    Raises:
        StoreLockedError: another coordinator holds the lock.
        StoreUnavailableError: the database cannot be opened.
        ValueError: a URL without `blobs`.
    """
    if blobs is None:
        if "://" in str(url_or_path):
            raise ValueError(f"a store at {url_or_path} needs the folder of its blobs")
        blobs = Path(url_or_path).absolute().parent / "blobs"
    lock = StoreLock(blobs / ".lock") if exclusive else None
    database = open_database(url_or_path)
    migrate(database)
    return Store(
        database=database,
        journal=RoundJournal(database, clock_ms),
        jobs=Jobs(database, clock_ms),
        prekeys=Prekeys(database, clock_ms),
        devices=Devices(database, clock_ms),
        sessions=DeviceSessions(database, clock_ms),
        blobs=Blobs(blobs),
        lock=lock,
    )
