"""The CA's own SQLite file: WAL, every commit on the disk before it is answered, one writer at a time."""

from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Engine,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    event,
)
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

METADATA = MetaData()

TOKENS = Table(
    "tokens",
    METADATA,
    Column("id", String(12), primary_key=True),
    Column("secret_sha256", LargeBinary(32), nullable=False, unique=True),
    Column("label", String(64), nullable=False),
    Column("uses", Integer, nullable=False),
    Column("uses_left", Integer, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("expires_at", Integer, nullable=False),
    Column("revoked_at", Integer),
)

DEVICES = Table(
    "devices",
    METADATA,
    Column("device_id", String(32), primary_key=True),
    Column("chain_address", LargeBinary(20), nullable=False, index=True),
    Column("payout", LargeBinary(20), nullable=False),
    Column("enrolled_at", Integer, nullable=False),
    Column("not_after", Integer, nullable=False),
    Column("revoked_at", Integer),
    Column("replaced_by", String(32), ForeignKey("devices.device_id")),
)

CERTIFICATES = Table(
    "certificates",
    METADATA,
    Column("serial", String(40), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("name", String(253), nullable=False, index=True),
    Column("der", LargeBinary(2048), nullable=False),
    # what entitled to it ("token:<id>", "renewal:<serial>", "operator") and the hash of the request it answers
    Column("origin", String(64), nullable=False),
    Column("csr_sha256", LargeBinary(32), nullable=False),
    Column("issued_at", Integer, nullable=False),
    Column("not_after", Integer, nullable=False),
    Column("revoked_at", Integer),
    UniqueConstraint("origin", "csr_sha256"),
)

LOG = Table(
    "log",
    METADATA,
    Column("seq", Integer, primary_key=True),
    Column("entry", LargeBinary(4096), nullable=False),
    Column("head", LargeBinary(256), nullable=False),
)


def open_database(path: Path) -> Engine:
    """Open the CA's database, making its tables when they are missing."""
    engine = durable_sqlite(path)
    METADATA.create_all(engine)
    return engine


def durable_sqlite(path: Path) -> Engine:
    """A SQLite file in which a transaction that reads also excludes other writers, and a commit survives power loss."""
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def _configure(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        # the driver must not begin transactions on its own: `BEGIN IMMEDIATE` below is the only one
        driver: Any = connection
        driver.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
