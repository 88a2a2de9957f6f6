"""Brings the tables up to date: the store's own, and those of settlement, which share its transactions."""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from fedge_coordinator.store.database import Database

MIGRATIONS: Final = Path(__file__).parent / "migrations"


def migrate(database: Database) -> None:
    """Run every migration the database has not seen, in one transaction."""
    with database.transaction() as connection:
        command.upgrade(alembic_config(connection), "head")


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for a connection that has a transaction open."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config
