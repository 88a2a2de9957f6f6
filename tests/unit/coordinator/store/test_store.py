from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Integer, MetaData, text

from fedge_coordinator.settlement.tables import metadata as settlement_metadata
from fedge_coordinator.store import Store, open_store
from fedge_coordinator.store.errors import StoreLockedError, StoreUnavailableError
from fedge_coordinator.store.migrate import alembic_config
from fedge_coordinator.store.tables import metadata


def test_migrations_make_exactly_the_declared_tables(store: Store):
    declared = MetaData()
    for each in (metadata, settlement_metadata):
        for table in each.sorted_tables:
            table.to_metadata(declared)
    with store.transaction() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, declared) == []
        declared.tables["jobs"].append_column(Column("extra", Integer))
        assert len(compare_metadata(context, declared)) == 1, "the comparison sees nothing"


def test_every_migration_can_be_taken_back(store: Store):
    with store.transaction() as connection:
        command.downgrade(alembic_config(connection), "base")
        left = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars().all()
        assert left == ["alembic_version"]
        command.upgrade(alembic_config(connection), "head")


def test_the_database_is_durable_private_and_checks_references(store: Store, path: Path):
    with store.transaction() as connection:
        pragmas = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_opening_again_migrates_nothing(store: Store, path: Path):
    store.devices.seen("d")
    store.close()
    assert len(open_store(path).devices.all()) == 1


def test_only_one_coordinator_has_a_store_and_the_next_may_when_it_is_gone(tmp_path: Path):
    first = open_store(tmp_path / "store.db", exclusive=True)
    with pytest.raises(StoreLockedError, match="another coordinator"):
        open_store(tmp_path / "store.db", exclusive=True)
    open_store(tmp_path / "store.db").close()
    first.close()
    open_store(tmp_path / "store.db", exclusive=True).close()


def test_an_unusable_path_is_named(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailableError, match=r"file/store\.db"):
        open_store(tmp_path / "file" / "store.db")


def test_a_url_needs_a_folder_for_blobs():
    with pytest.raises(ValueError, match="folder of its blobs"):
        open_store("postgresql://db/fedge")
