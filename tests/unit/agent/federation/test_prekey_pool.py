import asyncio
import os

import pytest
from tests.unit.agent.federation.conftest import FLEET

from fedge_agent.federation.prekey_pool import PrekeyPool
from fedge_protocol.cose import context_of, decode, verify, verify_raw
from fedge_protocol.messages import Prekeys, prekey_statement


@pytest.fixture
def pool(identity, store, voice) -> PrekeyPool:
    return PrekeyPool(FLEET, identity, store, voice, os.urandom)


def published(store, identity) -> list[Prekeys]:
    """The batches that were signed, oldest first."""
    context = context_of(FLEET, identity.device_id, "prekeys")
    key = identity.key.public_key()
    return [decode(verify(signed.message, key, context), Prekeys) for signed in reversed(store.outbox(100))]


def test_a_batch_is_signed_prekey_by_prekey(pool, store, identity):
    pool.refill()
    (batch,) = published(store, identity)
    assert [statement.prekey_id for statement in batch.statements] == list(range(1, 33))
    for one in batch.statements:
        signed = prekey_statement(FLEET, identity.device_id, one.prekey_id, one.mask_public, one.channel_public)
        verify_raw(identity.key.public_key(), one.signature, signed)


def test_refilling_again_before_the_acknowledgement_says_the_same(pool, store, identity):
    for _ in range(3):
        pool.refill()
    assert len(published(store, identity)) == 1


def test_only_what_was_acknowledged_is_used_and_a_new_batch_comes_when_few_are_left(pool, store, identity):
    pool.refill()
    assert store.reserve_prekey() is None
    pool.acknowledged(1)
    assert store.published_count() == 32
    for _ in range(25):
        assert store.reserve_prekey() is not None
    pool.refill()
    assert [batch.statements[0].prekey_id for batch in published(store, identity)] == [1, 33]


async def test_taking_waits_for_the_coordinator_to_have_some(pool, store):
    taking = asyncio.create_task(pool.take())
    await asyncio.sleep(0)
    assert not taking.done()
    pool.acknowledged(1)
    assert (await asyncio.wait_for(taking, 1)).prekey_id == 1
    assert (await pool.take()).prekey_id == 2


async def test_taking_in_vain_reserves_nothing(pool, store):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await pool.take()
    pool.acknowledged(1)
    assert store.published_count() == 32


def test_a_refused_batch_is_burned_and_leapt_over_once(pool, store, identity):
    """After a restore from a backup, the coordinator knows these ids with other keys."""
    pool.refill()
    pool.refused(1)
    first, second = published(store, identity)
    assert first.statements[0].prekey_id == 1
    assert second.statements[0].prekey_id > 1_000_000
    assert store.published_count() == 0
    pool.refused(second.statements[0].prekey_id)
    assert len(published(store, identity)) == 2  # a coordinator that refuses everything is not argued with
    assert store.unpublished() == []
    pool.refill()
    third = published(store, identity)[2]
    pool.acknowledged(third.statements[0].prekey_id)
    assert store.published_count() == 32


def test_a_restarted_device_publishes_the_waiting_batch_byte_for_byte(pool, store, voice, identity):
    pool.refill()
    again = PrekeyPool(FLEET, identity, store, voice, os.urandom)
    again.refill()
    assert len(store.outbox(10)) == 1
