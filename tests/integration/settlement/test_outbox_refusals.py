"""What the chain refuses is told by its name, waits or fails, and never blocks what does not depend on it."""

import dataclasses
from itertools import pairwise

import pytest
from sqlalchemy import Engine, select
from tests.integration.settlement.chain_fixture import POLICY, Anvil, deployment_terms, drain
from tests.unit.coordinator.settlement.fleet_fixture import JOB_ID, job_terms, make_fleet, make_round

from fedge_coordinator.settlement.chain import ChainSettlement
from fedge_coordinator.settlement.deploy import deploy
from fedge_coordinator.settlement.errors import RevertError, WrongChainError
from fedge_coordinator.settlement.manifest import Manifest, read_manifest, verify_deployment, write_manifest
from fedge_coordinator.settlement.rpc import JsonRpc
from fedge_coordinator.settlement.signer import LocalSigner
from fedge_coordinator.settlement.tables import transactions
from fedge_coordinator.settlement.transaction import Transaction

FLEET = make_fleet(3)
POOR = LocalSigner(b"\x77" * 32)


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def build(engine: Engine, rpc: JsonRpc, manifest: Manifest, committee: list[LocalSigner], sender: LocalSigner, clock):
    def _build(**changes) -> ChainSettlement:
        parts = {"committee": committee, "sender": sender, "policy": POLICY, "clock": clock}
        return ChainSettlement(engine, rpc, changes.pop("manifest", manifest), **(parts | changes))

    return _build


async def advance(settlement: ChainSettlement, clock: Clock, steps: int = 12):
    backlog = await settlement.advance()
    for _ in range(steps):
        clock.now_s += 5
        backlog = await settlement.advance()
    return backlog


async def test_a_pool_that_the_sender_cannot_fund_is_told_by_the_tokens_error(build, clock):
    settlement = build()
    await settlement.open_job(job_terms(funds=10**30))
    await settlement.publish_checkpoint(make_round(FLEET, 1, settlement.domains))
    backlog = await advance(settlement, clock)
    assert [line.split("(")[0] for line in backlog.blocked] == ["fund 0: ERC20InsufficientBalance"]
    assert "1000000000000000000000000)" not in backlog.blocked[0]
    assert len((await settlement.view(JOB_ID)).checkpoints) == 1  # provenance does not wait for money


async def test_after_too_many_refusals_a_row_fails_and_a_person_can_retry_it(build, clock, committee):
    settlement = build(policy=dataclasses.replace(POLICY, max_refusals=3), committee=committee[:1])
    await settlement.open_job(job_terms(funds=0))
    await settlement.publish_checkpoint(make_round(FLEET, 1, settlement.domains))
    backlog = await advance(settlement, clock)
    assert (backlog.failed, backlog.waiting) == (1, 0)
    assert settlement.retry_failed() == 1
    assert (await settlement.advance()).failed == 0


async def test_a_root_above_the_funds_is_refused_with_its_figures(build, clock):
    settlement = build()
    await settlement.open_job(job_terms(funds=10))
    await settlement.publish_checkpoint(make_round(FLEET, 1, settlement.domains, budget=100))
    await settlement.settle_epoch(JOB_ID)
    backlog = await advance(settlement, clock)
    assert backlog.blocked[0].endswith(", 0, 100, 10)")
    assert "TotalOutOfRange" in backlog.blocked[0]
    await settlement.fund(JOB_ID, 90)
    assert (await advance(settlement, clock)).blocked == ()
    assert (await settlement.view(JOB_ID)).funded == 100


async def test_a_sender_without_the_role_is_told_so(build, clock, rpc: JsonRpc):
    await rpc.call("anvil_setBalance", "0x" + POOR.address.hex(), hex(10**18))
    settlement = build(sender=POOR)
    await settlement.open_job(job_terms(funds=0))
    backlog = await advance(settlement, clock, 2)
    assert "create-job 0: AccessControlUnauthorizedAccount(0x" + POOR.address.hex() in backlog.blocked[0]


async def test_a_sender_without_gas_money_waits_and_goes_on_once_it_has_some(
    engine, rpc: JsonRpc, committee, sender, clock
):
    terms = deployment_terms(committee, sender, registrar=POOR.address, job_creator=POOR.address)
    manifest = await deploy(rpc, sender, terms)
    settlement = ChainSettlement(engine, rpc, manifest, committee=committee, sender=POOR, policy=POLICY, clock=clock)
    await settlement.open_job(job_terms(funds=0))
    backlog = await advance(settlement, clock, 2)
    assert backlog.waiting == 2
    assert "nsufficient funds" in backlog.blocked[0]
    await rpc.call("anvil_setBalance", "0x" + POOR.address.hex(), hex(10**18))
    clock.now_s += 60
    await drain(settlement)
    assert (await settlement.view(JOB_ID)).spec_hash == job_terms().spec_hash


async def test_the_second_epoch_waits_until_the_first_root_is_active_and_claims_wait_too(
    engine, rpc: JsonRpc, committee, sender, clock
):
    manifest = await deploy(rpc, sender, deployment_terms(committee, sender, activation_delay_s=3600))
    settlement = ChainSettlement(
        engine,
        rpc,
        manifest,
        committee=committee,
        sender=sender,
        clock=clock,
        policy=dataclasses.replace(POLICY, max_refusals=2),
    )
    await settlement.open_job(job_terms())
    for number in (1, 2):
        await settlement.publish_checkpoint(make_round(FLEET, number, settlement.domains, budget=100))
        await settlement.settle_epoch(JOB_ID)
    backlog = await advance(settlement, clock, 30)
    assert [line.split("(")[0] for line in backlog.blocked] == ["propose-root 2: RootPending"]
    assert backlog.failed == 0  # time cures it, so it never fails
    assert await settlement.claim_all(JOB_ID) == 0
    await rpc.call("evm_increaseTime", "0xe11")
    await rpc.call("anvil_mine", "0x1")
    clock.now_s += 600
    assert await settlement.claim_all(JOB_ID) == 3
    await drain(settlement)
    view = await settlement.view(JOB_ID)
    assert len(view.reward_roots) == 2
    assert sum(payment.amount for payment in view.payments) == 100


async def test_a_bid_that_no_block_takes_is_raised_for_the_same_nonce(build, clock, rpc: JsonRpc, engine):
    settlement = build(policy=dataclasses.replace(POLICY, stuck_after_s=60))
    await settlement.open_job(job_terms(funds=0))
    await rpc.call("evm_setAutomine", *[False])
    await settlement.advance()
    await settlement.advance()
    for _ in range(3):
        clock.now_s += 61
        await settlement.advance()
        await settlement.advance()
    with engine.connect() as connection:
        bids = list(connection.execute(select(transactions).order_by(transactions.c.signed_at_ms)))
    assert len({bid.nonce for bid in bids}) == 1
    fees = [int(bid.max_fee_wei) for bid in bids]
    assert len(fees) == 4
    assert all(after * 8 >= before * 9 for before, after in pairwise(fees))
    await rpc.call("evm_setAutomine", *[True])
    await rpc.call("anvil_mine", "0x1")
    await drain(settlement)
    assert (await settlement.view(JOB_ID)).spec_hash == job_terms().spec_hash


async def test_a_nonce_spent_by_another_program_is_noticed_and_the_work_is_signed_anew(
    build, clock, rpc: JsonRpc, engine, sender: LocalSigner
):
    settlement = build()
    await settlement.open_job(job_terms(funds=0))
    await rpc.call("evm_setAutomine", *[False])
    await settlement.advance()
    with engine.connect() as connection:
        (bid,) = connection.execute(select(transactions))
    await rpc.call("anvil_dropTransaction", "0x" + bid.tx_hash.hex())
    foreign = sender.sign_transaction(Transaction(31337, bid.nonce, sender.address, 1, b"", 21_000, 10**11, 10**10))
    await rpc.call("eth_sendRawTransaction", "0x" + foreign.raw.hex())
    await rpc.call("evm_setAutomine", *[True])
    await rpc.call("anvil_mine", "0x1")
    await advance(settlement, clock, 8)
    await drain(settlement)
    assert (await settlement.view(JOB_ID)).spec_hash == job_terms().spec_hash
    with engine.connect() as connection:
        assert len(list(connection.execute(select(transactions)))) == 3


async def test_of_two_coordinators_over_one_database_only_one_sends(build, clock, rpc: JsonRpc):
    first, second, third = build(), build(), build()
    assert (await first.advance()).waiting == 0
    await first.open_job(job_terms(funds=0))
    for _ in range(5):
        assert (await second.advance()).waiting == 2
    clock.now_s += 31  # the first one died
    await drain(second)
    await second.publish_checkpoint(make_round(FLEET, 1, second.domains))
    assert (await third.advance()).waiting == 1
    second.close()  # and the second one stopped in order
    await drain(third)


async def test_the_committees_signatures_are_really_needed(build, clock, committee):
    settlement = build(committee=committee[:1])
    await settlement.open_job(job_terms(funds=0))
    await settlement.publish_checkpoint(make_round(FLEET, 1, settlement.domains))
    backlog = await advance(settlement, clock)
    assert backlog.blocked == ("publish 1: NotEnoughSignatures(1, 2)",)


async def test_a_deployment_is_checked_against_the_shipped_code(
    rpc: JsonRpc, manifest: Manifest, anvil: Anvil, tmp_path
):
    write_manifest(manifest, tmp_path / "deployment.json")
    assert read_manifest(tmp_path / "deployment.json") == manifest
    await verify_deployment(rpc, manifest)
    address = manifest.contracts["RewardDistributor"].address
    await rpc.call("anvil_setCode", address, "0x6000")
    with pytest.raises(WrongChainError, match=f"{address} does not hold the RewardDistributor"):
        await verify_deployment(rpc, manifest)
    async with JsonRpc([anvil.url], chain_id=1) as elsewhere:
        with pytest.raises(WrongChainError, match="serves chain 31337, configured is 1"):
            await verify_deployment(elsewhere, manifest)


async def test_a_deployer_that_is_not_the_admin_lists_the_grants_that_are_missing(rpc: JsonRpc, committee, sender):
    manifest = await deploy(rpc, sender, deployment_terms(committee, sender, admin=b"\x09" * 20))
    assert [grant.split(" to ")[0] for grant in manifest.pending_grants] == [
        "DeviceRegistry.REGISTRAR_ROLE",
        "ModelRegistry.JOB_CREATOR_ROLE",
        "RewardDistributor.GUARDIAN_ROLE",
    ]


async def test_a_constructor_that_refuses_is_told_by_its_error(rpc: JsonRpc, committee, sender):
    with pytest.raises(RevertError, match=r"InvalidThreshold\(4, 3\)"):
        await deploy(rpc, sender, deployment_terms(committee, sender, threshold=4))


async def test_gas_for_a_round_does_not_depend_on_the_fleet(build, clock, rpc: JsonRpc, engine, committee):
    settlement = build()
    await settlement.open_job(job_terms(funds=0))
    await settlement.publish_checkpoint(make_round(FLEET, 1, settlement.domains))
    await settlement.publish_checkpoint(make_round(make_fleet(40), 2, settlement.domains))
    await drain(settlement)
    with engine.connect() as connection:
        hashes = [row.tx_hash for row in connection.execute(select(transactions).order_by(transactions.c.nonce))]
    used = [
        int((await rpc.call("eth_getTransactionReceipt", "0x" + tx_hash.hex()))["gasUsed"], 16)
        for tx_hash in hashes[-2:]
    ]
    assert max(used) <= 75_000
    assert abs(used[0] - used[1]) < 1_000


async def test_without_a_depth_the_chains_own_finalized_block_decides(build, clock, rpc: JsonRpc):
    settlement = build(policy=dataclasses.replace(POLICY, confirmations=None))
    await settlement.open_job(job_terms(funds=0))
    backlog = await advance(settlement, clock)
    assert (backlog.waiting, backlog.unconfirmed) == (0, 2)
    await rpc.call("anvil_mine", "0x80")
    assert (await settlement.advance()).unconfirmed == 0
