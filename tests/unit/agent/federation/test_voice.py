import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.unit.agent.federation.conftest import FLEET, Clock, Wire, voice_of

from fedge_agent.federation.voice import Voice
from fedge_agent.identity.keys import Identity
from fedge_agent.store import AlreadySignedError, DeviceStore
from fedge_protocol.chunks import CHUNK_BYTES
from fedge_protocol.cose import context_of, decode, verify
from fedge_protocol.messages import BlobRef, Masked, Ready, Refusal, Shares, Survivor, Unmask, Up, Want

READY = Ready("demo", 1, 0, prekey_id=1, weight=1, nonce=bytes(16), versions=(1, 1))
REFUSAL = Refusal("demo", 1, 0, "not-admitted", "busy")


@asynccontextmanager
async def speaking(voice: Voice) -> AsyncIterator[None]:
    task = asyncio.create_task(voice.run())
    await settle()
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def name_of(message: bytes) -> bytes:
    return hashlib.sha256(message).digest()


def a_vector(outgoing: Path, size: int = CHUNK_BYTES + 10) -> Masked:
    content = b"v" * size
    ref = BlobRef(name_of(content), size)
    (outgoing / ref.sha256.hex()).write_bytes(content)
    return Masked(context=bytes(32), vector=ref, receipt=bytes(65))


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_what_is_said_is_signed_for_this_fleet_device_and_kind_and_stored_first(voice, wire, identity, store):
    voice.say("demo", 1, 0, Up.READY, READY, valid_s=10)
    assert store.has_signed("demo", 1, 0, "ready")
    assert wire.published == []
    async with speaking(voice):
        ((topic, message, retain),) = wire.published
    assert topic == f"fedge/v1/{FLEET}/device/{identity.device_id}/up/ready"
    assert not retain
    context = context_of(FLEET, identity.device_id, "ready")
    assert decode(verify(message, identity.key.public_key(), context), Ready) == READY


async def test_it_is_sent_again_until_the_coordinators_acknowledgement_and_no_longer(voice, wire, store, clock):
    async with speaking(voice):
        voice.say("demo", 1, 0, Up.READY, READY, valid_s=1000)
        await settle()
        clock.now_s += 3  # the wait is 2 s when the randomness is nought
        voice.hurry()
        await settle()
        first, second = wire.messages("ready")
        assert first == second
        item = voice.acknowledged(name_of(first))
        assert item is not None
        assert item.kind == "ready"
        voice.hurry()
        await settle()
        assert len(wire.messages("ready")) == 2
    assert store.unacknowledged(0) == []


async def test_an_acknowledgement_that_comes_late_is_noted_all_the_same(voice, wire, store):
    async with speaking(voice):
        voice.say("demo", 1, 0, Up.READY, READY, valid_s=10)
        await settle()
    voice.forget("demo", 1, 0)
    assert voice.acknowledged(name_of(wire.messages("ready")[0])) is None
    assert store.unacknowledged(0) == []


async def test_an_acknowledgement_of_a_message_nobody_sent_changes_nothing(voice, wire, store):
    async with speaking(voice):
        voice.say("demo", 1, 0, Up.READY, READY, valid_s=10)
        await settle()
        assert voice.acknowledged(bytes(32)) is None
        voice.hurry()
        await settle()
    assert len(wire.messages("ready")) == 2
    assert len(store.unacknowledged(0)) == 1


async def test_a_broken_wire_loses_nothing(voice, wire):
    wire.broken = True
    async with speaking(voice):
        voice.say("demo", 1, 0, Up.READY, READY, valid_s=1000)
        await settle()
        assert wire.published == []
        wire.broken = False
        voice.hurry()
        await settle()
    assert wire.kinds() == ["ready"]


async def test_after_its_time_nothing_is_sent_any_more(voice, wire, clock, outgoing):
    body = a_vector(outgoing)
    async with speaking(voice):
        wire.broken = True
        voice.say("demo", 1, 0, Up.MASKED, body, valid_s=10)
        await settle()
        clock.now_s += 11
        wire.broken = False
        voice.hurry()
        await settle()
    assert wire.published == []
    assert names(outgoing) == []


async def test_a_second_different_body_is_never_said(voice, wire):
    voice.say("demo", 1, 0, Up.READY, READY, valid_s=10)
    other = Ready("demo", 1, 0, prekey_id=2, weight=1, nonce=bytes(16), versions=(1, 1))
    with pytest.raises(AlreadySignedError):
        voice.say("demo", 1, 0, Up.READY, other, valid_s=10)
    async with speaking(voice):
        assert len(wire.messages("ready")) == 1


async def test_the_chunks_of_a_vector_follow_its_manifest_until_it_is_acknowledged(voice, wire, outgoing):
    body = a_vector(outgoing)
    async with speaking(voice):
        voice.say("demo", 1, 0, Up.MASKED, body, valid_s=100)
        await settle()
        assert wire.kinds() == ["masked", "UpChunkTopic", "UpChunkTopic"]
        chunks = [payload for _, payload, _ in wire.published[1:]]
        assert name_of(b"".join(chunks)) == body.vector.sha256
        assert len(chunks[0]) == CHUNK_BYTES
        voice.acknowledged(name_of(wire.messages("masked")[0]))
    assert names(outgoing) == []
    assert voice.bytes_sent == sum(len(payload) for _, payload, _ in wire.published)


async def test_the_vector_of_a_round_that_is_over_is_deleted(voice, wire, outgoing):
    body = a_vector(outgoing)
    async with speaking(voice):
        voice.say("demo", 1, 0, Up.MASKED, body, valid_s=100)
        await settle()
        voice.forget("demo", 1, 0)
        voice.hurry()
        await settle()
    assert len(wire.messages("masked")) == 1
    assert names(outgoing) == []


async def test_a_vector_that_went_missing_stops_nothing_else(voice, wire, outgoing):
    body = a_vector(outgoing)
    next(outgoing.iterdir()).unlink()
    async with speaking(voice):
        voice.say("demo", 1, 0, Up.MASKED, body, valid_s=100)
        voice.say("demo", 1, 0, Up.READY, READY, valid_s=100)
        await settle()
    assert sorted(wire.kinds()) == ["masked", "ready"]


async def test_forgetting_one_round_leaves_the_others(voice, wire):
    async with speaking(voice):
        voice.say("demo", 1, 0, Up.READY, READY, valid_s=100)
        voice.say("demo", 1, 1, Up.REFUSAL, REFUSAL, valid_s=100)
        await settle()
        voice.forget("demo", 1, 0)
        voice.hurry()
        await settle()
    assert wire.kinds().count("refusal") == 2
    assert wire.kinds().count("ready") == 1


async def test_nothing_is_remembered_of_what_was_acknowledged_or_forgotten(voice, wire):
    async with speaking(voice):
        for round_ in range(5):
            body = Ready("demo", round_, 0, prekey_id=1, weight=1, nonce=bytes(16), versions=(1, 1))
            for _ in range(2):
                voice.say("demo", round_, 0, Up.READY, body, valid_s=100)
        await settle()
        for message in wire.messages("ready")[:3]:
            voice.acknowledged(name_of(message))
        voice.forget("demo", 3, 0)
        voice.forget("demo", 4, 0)
    assert voice._of_round == {}
    assert len(voice._waiting) == 0


async def test_telling_is_sending_once_without_a_record(voice, wire, store):
    await voice.tell(Up.WANT, Want(bytes(32)))
    wire.broken = True
    await voice.tell(Up.WANT, Want(bytes(32)))
    assert wire.kinds() == ["want"]
    assert store.outbox(10) == []


async def test_after_a_restart_only_what_still_helps_is_said_again_byte_for_byte(
    voice: Voice, wire: Wire, identity: Identity, store: DeviceStore, outgoing: Path, clock: Clock
):
    """READY and SHARES would bring the device into a sum that it can contribute nothing to."""
    bodies = {
        Up.READY: READY,
        Up.SHARES: Shares(bytes(32), bytes(32), (bytes(56),)),
        Up.MASKED: a_vector(outgoing),
        Up.SURVIVOR: Survivor(bytes(32), bytes(64)),
        Up.UNMASK: Unmask(bytes(32), bytes(48)),
        Up.REFUSAL: REFUSAL,
    }
    for kind, body in bodies.items():
        voice.say("demo", 1, 0, kind, body, valid_s=100)
    voice.say("demo", 0, 0, Up.SURVIVOR, Survivor(b"\x01" * 32, bytes(64)), valid_s=100)
    (outgoing / "left behind").touch()
    store.acknowledged(name_of(store.outbox(1)[0].message))
    said = {signed.kind: signed.message for signed in store.outbox(10) if signed.round == 1}
    helps = ("masked", "survivor", "unmask", "refusal")
    after = voice_of(identity, store, wire, outgoing, clock)
    assert after.say_again(0, valid_s=60) == 4
    async with speaking(after):
        pass
    assert {kind for kind in wire.kinds() if kind != "UpChunkTopic"} == {*helps}
    assert [wire.messages(name) for name in helps] == [[said[name]] for name in helps]
    assert len(names(outgoing)) == 1
    assert "left behind" not in names(outgoing)


async def test_what_is_too_old_is_not_said_again(voice, identity, store, wire, outgoing, clock):
    voice.say("demo", 1, 0, Up.SURVIVOR, Survivor(bytes(32), bytes(64)), valid_s=100)
    after = voice_of(identity, store, wire, outgoing, clock)
    assert after.say_again(clock.ms() + 1, valid_s=60) == 0
