"""A ledger that is read while it grows says what it would say when read at once."""

from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, select, update
from tests.unit.coordinator.settlement.fleet_fixture import JOB_ID, job_terms

from fedge_coordinator.settlement.errors import LedgerCorruptError
from fedge_coordinator.settlement.ledger import LedgerSettlement
from fedge_coordinator.settlement.ledger_view import LedgerReader, read_ledger
from fedge_coordinator.settlement.signer import LocalSigner
from fedge_coordinator.settlement.tables import ledger as rows


def test_lines_taken_one_by_one_give_the_view_of_all_at_once(
    ledger: LedgerSettlement, published: Path, committee: list[LocalSigner]
):
    members = frozenset(member.address for member in committee)
    reader = LedgerReader(members, 2)
    for line in ledger.lines():
        reader.take([line])
    assert reader.view(JOB_ID) == read_ledger(ledger.lines(), JOB_ID, members, 2)


def test_a_second_reader_cannot_continue_at_another_line(
    ledger: LedgerSettlement, published: Path, committee: list[LocalSigner]
):
    reader = LedgerReader(frozenset(member.address for member in committee), 2)
    lines = ledger.lines()
    reader.take(lines[:4])
    with pytest.raises(LedgerCorruptError, match="ledger line 4 does not follow"):
        reader.take(lines[5:])


async def test_what_a_rolled_back_transaction_had_appended_is_not_seen_again(ledger: LedgerSettlement, engine: Engine):
    with engine.connect() as connection, connection.begin() as transaction:
        await ledger.open_job(job_terms(), connection=connection)
        assert await ledger.settle_epoch(JOB_ID, connection=connection) is None
        transaction.rollback()
    assert (await ledger.view(JOB_ID)).funded == 0
    await ledger.open_job(job_terms(funds=7))
    assert (await ledger.view(JOB_ID)).funded == 7


async def test_a_ledger_that_is_cut_or_altered_under_a_running_coordinator_is_found(
    ledger: LedgerSettlement, published: Path, engine: Engine
):
    whole = await ledger.view(JOB_ID)
    with engine.begin() as connection:
        last = connection.execute(select(rows).order_by(rows.c.sequence.desc()).limit(1)).one()
        connection.execute(delete(rows).where(rows.c.sequence == last.sequence))
    assert len((await ledger.view(JOB_ID)).payments) == len(whole.payments) - 1
    with engine.begin() as connection:
        connection.execute(update(rows).where(rows.c.sequence == last.sequence - 1).values(line=last.line))
    with pytest.raises(LedgerCorruptError, match="does not follow"):
        await ledger.view(JOB_ID)
