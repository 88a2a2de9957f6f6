"""The coordinator is killed between any two steps, the chain too: every effect still happens exactly once."""

import dataclasses
import signal
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, select
from tests.integration.settlement.chain_fixture import POLICY, Anvil, drain
from tests.unit.coordinator.settlement.fleet_fixture import JOB_ID, bindings, job_terms, make_fleet, make_round

from fedge_coordinator.settlement.chain import ChainSettlement
from fedge_coordinator.settlement.manifest import Manifest
from fedge_coordinator.settlement.outbox import OutboxPolicy
from fedge_coordinator.settlement.outbox_rows import State
from fedge_coordinator.settlement.rpc import JsonRpc
from fedge_coordinator.settlement.signer import LocalSigner
from fedge_coordinator.settlement.tables import lease, outbox, transactions

FLEET = make_fleet(3)
DEEP = dataclasses.replace(POLICY, confirmations=8)
POINTS = ["before signing", "after signing", "before sending", "after sending", "before recording the receipt"]


class Killed(BaseException):
    """The process ends here."""


class Coordinator:
    """A settlement that can be killed at a named point and started again over the same database file."""

    def __init__(self, path: Path, rpc: JsonRpc, manifest: Manifest, committee: list[LocalSigner], sender: LocalSigner):
        self._path = path
        self._parts = (rpc, manifest, committee, sender)
        self.engine: Engine = create_engine(f"sqlite:///{path}")
        self._killed_at: str | None = None

    def start(self, killed_at: str | None = None, skip: int = 0, policy: OutboxPolicy = POLICY) -> ChainSettlement:
        self.engine.dispose()
        self.engine = create_engine(f"sqlite:///{self._path}")
        with self.engine.begin() as connection:  # the lease of the killed process has run out meanwhile
            connection.execute(lease.delete())
        left = skip

        def fault(point: str) -> None:
            nonlocal left
            if point == killed_at:
                left -= 1
                if left < 0:
                    raise Killed(point)

        rpc, manifest, committee, sender = self._parts
        return ChainSettlement(
            self.engine, rpc, manifest, committee=committee, sender=sender, policy=policy, fault=fault
        )

    def rows(self, kind: str) -> list[tuple[str, str | None]]:
        query = select(outbox.c.state, outbox.c.error).where(outbox.c.kind == kind).order_by(outbox.c.id)
        with self.engine.connect() as connection:
            return [(row.state, row.error) for row in connection.execute(query)]

    def signed(self) -> int:
        with self.engine.connect() as connection:
            return len(list(connection.execute(select(transactions))))


@pytest.fixture
def coordinator(
    engine: Engine, tmp_path: Path, rpc: JsonRpc, manifest: Manifest, committee: list[LocalSigner], sender: LocalSigner
) -> Coordinator:
    return Coordinator(tmp_path / "coordinator.db", rpc, manifest, committee, sender)


@pytest.mark.parametrize("skip", [0, 3])
@pytest.mark.parametrize("point", POINTS)
async def test_a_coordinator_killed_at_any_step_finishes_with_the_same_transactions(
    coordinator: Coordinator, rpc: JsonRpc, sender: LocalSigner, point: str, skip: int
):
    nonce_before = int(await rpc.call("eth_getTransactionCount", "0x" + sender.address.hex(), "latest"), 16)
    doomed = coordinator.start(killed_at=point, skip=skip)
    await doomed.register_devices(bindings(FLEET, doomed.domains))
    await doomed.open_job(job_terms(funds=500))
    await doomed.publish_checkpoint(make_round(FLEET, 1, doomed.domains, budget=100))
    await doomed.settle_epoch(JOB_ID)
    with pytest.raises(Killed, match=point):
        await drain(doomed)
    survivor = coordinator.start()
    await drain(survivor)
    assert await survivor.claim_all(JOB_ID) == 3
    await drain(survivor)
    view = await survivor.view(JOB_ID)
    assert (len(view.checkpoints), len(view.reward_roots), view.funded, len(view.devices)) == (1, 1, 500, 3)
    assert sum(payment.amount for payment in view.payments) == 100
    kinds = ["register", "create-job", "create-pool", "approve", "fund", "publish", "propose-root", "claim"]
    assert [coordinator.rows(kind) for kind in kinds] == [[(State.FINAL, None)]] * len(kinds)
    nonce_after = int(await rpc.call("eth_getTransactionCount", "0x" + sender.address.hex(), "latest"), 16)
    assert nonce_after - nonce_before == coordinator.signed() == len(kinds)


async def test_bytes_sent_twice_take_effect_once(coordinator: Coordinator, rpc: JsonRpc):
    settlement = coordinator.start()
    await settlement.open_job(job_terms(funds=500))
    await drain(settlement)
    with coordinator.engine.begin() as connection:
        raws = [row.raw for row in connection.execute(select(transactions))]
        connection.execute(outbox.update().values(state=State.SIGNED, block_hash=None))
    assert len(raws) == 4
    await drain(settlement)  # every transaction is sent again: "nonce too low" means look for the receipt
    assert (await settlement.view(JOB_ID)).funded == 500
    assert coordinator.signed() == 4


async def test_a_database_restored_from_before_the_last_rounds_finds_them_on_the_chain(
    coordinator: Coordinator, tmp_path: Path
):
    settlement = coordinator.start()
    await settlement.open_job(job_terms(funds=500))
    await settlement.publish_checkpoint(make_round(FLEET, 1, settlement.domains, budget=100))
    await settlement.settle_epoch(JOB_ID)
    backup = (tmp_path / "coordinator.db").read_bytes()
    await drain(settlement)
    await settlement.claim_all(JOB_ID)
    await drain(settlement)
    coordinator.engine.dispose()
    (tmp_path / "coordinator.db").write_bytes(backup)
    restored = coordinator.start()
    await drain(restored)
    assert await restored.claim_all(JOB_ID) == 0
    noted = (State.FINAL, "the chain shows the effect already")
    for kind in ("create-job", "create-pool", "fund", "publish", "propose-root"):
        assert coordinator.rows(kind) == [noted]
    assert (await restored.view(JOB_ID)).funded == 500


async def test_a_chain_killed_and_restarted_from_its_state_goes_on(coordinator: Coordinator, anvil: Anvil):
    settlement = coordinator.start()
    await settlement.open_job(job_terms(funds=500))
    await drain(settlement)
    anvil.stop(signal.SIGTERM)
    for number in (1, 2):  # rounds go on without a chain
        await settlement.publish_checkpoint(make_round(FLEET, number, settlement.domains, budget=10))
    backlog = await settlement.advance()
    assert backlog.waiting == 2
    anvil.start()
    await drain(settlement)
    assert [checkpoint.round for _, checkpoint in (await settlement.view(JOB_ID)).checkpoints] == [1, 2]


async def test_a_chain_that_lost_its_last_blocks_is_given_the_same_bytes_again(coordinator: Coordinator, anvil: Anvil):
    settlement = coordinator.start()
    await settlement.open_job(job_terms(funds=500))
    await drain(settlement)
    anvil.stop(signal.SIGTERM)
    saved = anvil.state.read_bytes()
    anvil.start()
    settlement = coordinator.start(policy=DEEP)
    await settlement.publish_checkpoint(make_round(FLEET, 1, settlement.domains))
    assert await carried(settlement) == 1
    anvil.stop(signal.SIGKILL)
    anvil.state.write_bytes(saved)
    anvil.start()
    assert (await settlement.view(JOB_ID)).checkpoints == ()
    assert (await settlement.advance()).unconfirmed == 1
    await drain(coordinator.start())
    assert len((await settlement.view(JOB_ID)).checkpoints) == 1
    assert coordinator.signed() == 5


async def test_a_reorganisation_takes_a_block_and_its_transactions_come_back(coordinator: Coordinator, rpc: JsonRpc):
    settlement = coordinator.start(policy=DEEP)
    await settlement.open_job(job_terms(funds=500))
    await settlement.publish_checkpoint(make_round(FLEET, 1, settlement.domains, budget=100))
    await settlement.settle_epoch(JOB_ID)
    assert await carried(settlement) == 6
    await rpc.call("anvil_reorg", 2, [])
    assert (await settlement.view(JOB_ID)).reward_roots == ()
    assert (await settlement.view(JOB_ID)).checkpoints == ()
    for _ in range(10):
        await settlement.advance()
    await rpc.call("anvil_mine", "0x10")
    await drain(settlement)
    view = await settlement.view(JOB_ID)
    assert (len(view.checkpoints), len(view.reward_roots), view.funded) == (1, 1, 500)
    assert coordinator.signed() == 6


async def carried(settlement: ChainSettlement) -> int:
    """Advance until everything is mined; returns how much of it is not final."""
    backlog = await settlement.advance()
    while backlog.waiting:
        backlog = await settlement.advance()
    return backlog.unconfirmed
