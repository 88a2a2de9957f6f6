"""Both settlements over one set of scenarios; anvil starts only for those that need it."""

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine
from tests.integration.settlement.chain_fixture import ANVIL_KEY, CHAIN_ID, POLICY, Anvil, deployment_terms

from fedge_coordinator.settlement.chain import ChainSettlement
from fedge_coordinator.settlement.deploy import deploy
from fedge_coordinator.settlement.interface import Settlement
from fedge_coordinator.settlement.ledger import LedgerSettlement
from fedge_coordinator.settlement.manifest import Manifest
from fedge_coordinator.settlement.rpc import JsonRpc
from fedge_coordinator.settlement.signer import LocalSigner
from fedge_coordinator.settlement.tables import metadata


@pytest.fixture
def anvil(tmp_path: Path) -> Iterator[Anvil]:
    node = Anvil(tmp_path / "anvil.json")
    node.start()
    yield node
    node.stop(signal.SIGKILL)


@pytest.fixture
async def rpc(anvil: Anvil) -> AsyncIterator[JsonRpc]:
    async with JsonRpc([anvil.url], chain_id=CHAIN_ID, rounds=2, backoff_s=0.01) as client:
        yield client


@pytest.fixture
def sender() -> LocalSigner:
    return LocalSigner(ANVIL_KEY)


@pytest.fixture
def committee() -> list[LocalSigner]:
    return [LocalSigner(bytes([number]) * 32) for number in (0x21, 0x22, 0x23)]


@pytest.fixture
async def manifest(rpc: JsonRpc, committee: list[LocalSigner], sender: LocalSigner) -> Manifest:
    return await deploy(rpc, sender, deployment_terms(committee, sender))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    database = create_engine(f"sqlite:///{tmp_path / 'coordinator.db'}")
    metadata.create_all(database)
    yield database
    database.dispose()


@pytest.fixture(params=["chain", "ledger"])
def settlement(request: pytest.FixtureRequest, engine: Engine, committee: list[LocalSigner]) -> Settlement:
    """Each implementation in turn; anvil starts only for the one that needs it."""
    if request.param == "ledger":
        return LedgerSettlement(engine, committee=committee, threshold=2)
    return ChainSettlement(
        engine,
        request.getfixturevalue("rpc"),
        request.getfixturevalue("manifest"),
        committee=committee,
        sender=request.getfixturevalue("sender"),
        policy=POLICY,
    )
