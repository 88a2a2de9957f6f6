"""Runs migrations on the connection that `store.migrate` passes; there is no other way in."""

from alembic import context

from fedge_coordinator.settlement.tables import metadata as settlement_metadata
from fedge_coordinator.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=[metadata, settlement_metadata],
    render_as_batch=True,
    transactional_ddl=True,
    transaction_per_migration=False,
)
context.run_migrations()
