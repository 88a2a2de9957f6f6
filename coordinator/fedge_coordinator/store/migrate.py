"""Brings the tables up to date."""

import importlib
import importlib.util
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, MetaData

from fedge_coordinator.store.database import Database

MIGRATIONS: Final = Path(__file__).parent / "migrations"
_SETTLEMENT_TABLES: Final = "fedge_coordinator.settlement.tables"


def migrate(database: Database) -> None:
    """Run every migration the database has not seen, in one transaction."""
    with database.transaction() as connection:
        command.upgrade(alembic_config(connection), "head")
        settlement = settlement_metadata()
        if settlement is not None:
            settlement.create_all(connection)


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for a connection that has a transaction open."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def settlement_metadata() -> MetaData | None:
    """The tables of settlement, made as they are now: they have no migrations of their own yet."""
    try:
        if importlib.util.find_spec(_SETTLEMENT_TABLES) is None:
            return None
    except ModuleNotFoundError:
        return None
    found = importlib.import_module(_SETTLEMENT_TABLES).metadata
    if not isinstance(found, MetaData):
        raise TypeError(f"{_SETTLEMENT_TABLES}.metadata is a {type(found).__name__}, not SQLAlchemy MetaData")
    return found
