"""One suite for the chain and the ledger: what the coordinator relies on."""

import dataclasses

import msgspec
import pytest
from sqlalchemy import Engine
from tests.integration.settlement.chain_fixture import drain
from tests.unit.coordinator.settlement.fleet_fixture import (
    JOB_ID,
    SPEC_HASH,
    bindings,
    job_terms,
    make_fleet,
    make_round,
    model_hash,
)

from fedge_coordinator.settlement.checkpoints import checkpoint_of
from fedge_coordinator.settlement.documents import hex_bytes
from fedge_coordinator.settlement.epochs import reward_root
from fedge_coordinator.settlement.errors import (
    BindingRefusedError,
    DocumentError,
    EquivocationError,
    UnknownJobError,
)
from fedge_coordinator.settlement.interface import Balance, Settlement
from fedge_protocol.eip712 import Genesis, struct_hash

FLEET = make_fleet(5)


async def test_three_rounds_and_two_epochs_are_published_and_paid_to_the_last_unit(settlement: Settlement):
    assert await settlement.register_devices(bindings(FLEET, settlement.domains)) == 5
    assert await settlement.open_job(job_terms()) == JOB_ID
    first = await settlement.publish_checkpoint(make_round(FLEET, 1, settlement.domains, budget=1000))
    second = await settlement.publish_checkpoint(make_round(FLEET, 2, settlement.domains, budget=1001, absent=[4]))
    epoch_1 = await settlement.settle_epoch(JOB_ID)
    await drain(settlement)
    assert await settlement.claim_all(JOB_ID) == 5
    await drain(settlement)
    third = await settlement.publish_checkpoint(make_round(FLEET, 3, settlement.domains, budget=7))
    epoch_2 = await settlement.settle_epoch(JOB_ID)
    await drain(settlement)
    assert await settlement.claim_all(JOB_ID) == 5
    await drain(settlement)

    view = await settlement.view(JOB_ID)
    assert [checkpoint for _, checkpoint in view.checkpoints] == [
        checkpoint_of(record.checkpoint) for record in (first, second, third)
    ]
    assert view.checkpoints[0][1].parent == struct_hash(Genesis(JOB_ID, SPEC_HASH, model_hash(0)))
    assert [checkpoint.parent for _, checkpoint in view.checkpoints[1:]] == [head for head, _ in view.checkpoints[:-1]]
    assert epoch_1 is not None
    assert epoch_2 is not None
    assert view.reward_roots == (reward_root(epoch_1), reward_root(epoch_2))
    assert (epoch_1.total, epoch_2.total) == ("2001", "2008")
    assert view.funded == 10**18
    assert sum(payment.amount for payment in view.payments) == 2008
    assert {payment.account: payment.recipient for payment in view.payments} == {
        device.key.address: device.payout for device in FLEET
    }
    balances = await settlement.balances(JOB_ID)
    assert all(balance.earned == balance.paid for balance in balances.values())
    assert sum(balance.paid for balance in balances.values()) == 2008


async def test_the_same_requests_again_change_nothing(settlement: Settlement):
    signed = bindings(FLEET, settlement.domains)
    body = make_round(FLEET, 1, settlement.domains)
    await settlement.register_devices(signed)
    await settlement.open_job(job_terms())
    record = await settlement.publish_checkpoint(body)
    assert await settlement.settle_epoch(JOB_ID) is not None
    await drain(settlement)
    await settlement.claim_all(JOB_ID)
    await drain(settlement)
    before = await settlement.view(JOB_ID)
    assert await settlement.register_devices(signed) == 0
    assert await settlement.open_job(job_terms()) == JOB_ID
    assert await settlement.publish_checkpoint(body) == record
    assert await settlement.settle_epoch(JOB_ID) is None
    assert await settlement.claim_all(JOB_ID) == 0
    await drain(settlement)
    assert dataclasses.replace(await settlement.view(JOB_ID), source="") == dataclasses.replace(before, source="")


async def test_a_second_content_for_a_signed_round_is_refused(settlement: Settlement):
    await settlement.open_job(job_terms())
    body = make_round(FLEET, 1, settlement.domains)
    await settlement.publish_checkpoint(body)
    with pytest.raises(EquivocationError, match="round 1"):
        await settlement.publish_checkpoint(msgspec.structs.replace(body, budget="999"))
    with pytest.raises(EquivocationError, match="2 is"):
        await settlement.publish_checkpoint(make_round(FLEET, 3, settlement.domains))
    with pytest.raises(EquivocationError, match="another specification"):
        await settlement.open_job(dataclasses.replace(job_terms(), spec_hash=b"\1" * 32))


async def test_a_round_that_nobody_could_audit_is_refused(settlement: Settlement):
    with pytest.raises(UnknownJobError):
        await settlement.publish_checkpoint(make_round(FLEET, 1, settlement.domains))
    with pytest.raises(UnknownJobError):
        await settlement.settle_epoch(JOB_ID)
    await settlement.open_job(job_terms())
    body = make_round(FLEET, 1, settlement.domains)
    for changed in (
        msgspec.structs.replace(body, participants=()),
        msgspec.structs.replace(body, model_before=body.model_after),
        msgspec.structs.replace(body, cohort=body.cohort[1:]),
        msgspec.structs.replace(body, buckets=body.buckets[:1]),
        msgspec.structs.replace(body, budget="01"),
        msgspec.structs.replace(body, metrics={"loss": float("nan")}),
    ):
        with pytest.raises(DocumentError):
            await settlement.publish_checkpoint(changed)
    assert (await settlement.publish_checkpoint(body)).body == body


async def test_bindings_that_nobody_signed_are_refused_and_nothing_is_recorded(settlement: Settlement):
    good, other = bindings(FLEET[:2], settlement.domains)
    forged = dataclasses.replace(other, signature=good.signature)
    with pytest.raises(BindingRefusedError, match="did not sign"):
        await settlement.register_devices([good, forged])
    moved = dataclasses.replace(good, binding=dataclasses.replace(good.binding, payout=b"\7" * 20))
    assert await settlement.register_devices([good]) == 1
    with pytest.raises(BindingRefusedError, match="another identity or payout"):
        await settlement.register_devices([moved])
    expired = dataclasses.replace(other, binding=dataclasses.replace(other.binding, not_after=1))
    with pytest.raises(BindingRefusedError, match="expired"):
        await settlement.register_devices([expired])
    await drain(settlement)
    assert set((await settlement.view(JOB_ID)).devices) == {good.binding.device}


async def test_a_round_rolled_back_with_the_coordinators_transaction_was_never_published(
    settlement: Settlement, engine: Engine
):
    await settlement.open_job(job_terms())
    body = make_round(FLEET, 1, settlement.domains)
    with engine.connect() as connection:
        await settlement.publish_checkpoint(body, connection=connection)
        connection.rollback()
    other = msgspec.structs.replace(body, budget="5")
    with engine.begin() as connection:
        record = await settlement.publish_checkpoint(other, connection=connection)
    await drain(settlement)
    assert [head for head, _ in (await settlement.view(JOB_ID)).checkpoints] == [
        struct_hash(checkpoint_of(record.checkpoint))
    ]


async def test_a_device_without_registration_is_paid_at_its_own_address(settlement: Settlement):
    await settlement.open_job(job_terms())
    await settlement.publish_checkpoint(make_round(FLEET[:1], 1, settlement.domains, budget=9))
    await settlement.settle_epoch(JOB_ID)
    await drain(settlement)
    await settlement.claim_all(JOB_ID)
    await drain(settlement)
    address = FLEET[0].key.address
    assert await settlement.balances(JOB_ID) == {address: Balance(9, 9)}
    (payment,) = (await settlement.view(JOB_ID)).payments
    assert payment.recipient == address


async def test_rounds_without_budget_make_no_epoch(settlement: Settlement):
    await settlement.open_job(job_terms())
    record = await settlement.publish_checkpoint(make_round(FLEET, 1, settlement.domains, budget=0))
    assert hex_bytes(record.checkpoint.parent) == struct_hash(Genesis(JOB_ID, SPEC_HASH, model_hash(0)))
    assert await settlement.settle_epoch(JOB_ID) is None
    assert await settlement.claim_all(JOB_ID) == 0
    assert await settlement.balances(JOB_ID) == {}
