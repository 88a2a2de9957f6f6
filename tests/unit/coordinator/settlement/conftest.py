"""A ledger with three rounds, two epochs and all payouts, published as a bundle."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine
from tests.unit.coordinator.settlement.fleet_fixture import (
    JOB_ID,
    bindings,
    job_terms,
    make_fleet,
    make_round,
    weights_after,
)

from fedge_coordinator.settlement.bundle import write_epoch, write_record, write_weights
from fedge_coordinator.settlement.ledger import LedgerSettlement
from fedge_coordinator.settlement.signer import LocalSigner
from fedge_coordinator.settlement.tables import metadata


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    database = create_engine(f"sqlite:///{tmp_path / 'coordinator.db'}")
    metadata.create_all(database)
    yield database
    database.dispose()


@pytest.fixture
def committee() -> list[LocalSigner]:
    return [LocalSigner(bytes([number]) * 32) for number in (0x21, 0x22, 0x23)]


@pytest.fixture
def ledger(engine: Engine, committee: list[LocalSigner]) -> LedgerSettlement:
    return LedgerSettlement(engine, committee=committee, threshold=2)


@pytest.fixture
async def published(ledger: LedgerSettlement, tmp_path: Path) -> Path:
    fleet = make_fleet(5)
    root = tmp_path / "bundle"
    await ledger.register_devices(bindings(fleet, ledger.domains))
    await ledger.open_job(job_terms())
    write_weights(root, 0, weights_after(0))
    for number in (1, 2, 3):
        body = make_round(fleet, number, ledger.domains, budget=1000 + number, absent=[number])
        write_record(root, await ledger.publish_checkpoint(body))
        write_weights(root, number, weights_after(number))
        if number != 2:
            document = await ledger.settle_epoch(JOB_ID)
            assert document is not None
            write_epoch(root, document)
            await ledger.claim_all(JOB_ID)
    return root
