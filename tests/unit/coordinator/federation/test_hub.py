"""What arrives at the hub, one message at a time: hostile, late, repeated, too much."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.unit.coordinator.federation.ground import FLEET, Ground, Member, document, serving

from fedge_coordinator.federation.intake import MAX_MESSAGE_BYTES
from fedge_coordinator.store.prekeys import MAX_FRESH_PER_DEVICE
from fedge_protocol import topics
from fedge_protocol.conditions import ConditionReason, ConditionState
from fedge_protocol.cose import context_of, encode, sign
from fedge_protocol.messages import (
    Ack,
    BlobRef,
    Body,
    Condition,
    Down,
    Masked,
    Prekeys,
    PrekeyStatement,
    Ready,
    Refusal,
    Shares,
    Up,
    Want,
    prekey_statement,
)
from fedge_protocol.secagg.prekeys import generate

replace = msgspec.structs.replace


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    async with serving(Ground(tmp_path)) as ground:
        yield ground


async def word_on(ground: Ground, member: Member, sha256: bytes) -> str | None:
    """What the coordinator says of a message; None when it has said nothing after a while."""
    for _ in range(200):
        ground.pump()
        await asyncio.sleep(0.001)
        if member.answered(sha256) is not None:
            break
    return member.answered(sha256)


# --- nobody's messages


@pytest.mark.parametrize("kind", [*Up, "presence", "nonsense"])
async def test_garbage_is_counted_and_nothing_else_happens(ground, kind):
    member = ground.members[0]
    for content in (b"", b"\xff" * 30, os.urandom(200), b"\xd2\x84"):
        topic = topics.presence(FLEET, member.name) if kind == "presence" else topics.up(FLEET, member.name, kind)
        ground.arrives(topic, content)
    ground.arrives(topics.up_chunk(FLEET, member.name, "00" * 32, 0), b"chunk")
    ground.arrives("something/else/entirely", b"x")
    ground.arrives(f"fedge/v1/other/device/{member.name}/up/ready", b"x")
    await ground.settle()
    assert len(ground.notes.refusals) == (6 if kind == "presence" else 7)  # an empty presence is a broker's word
    assert ground.wire.published == []


async def test_who_is_no_member_or_not_any_more_gets_no_answer(ground):
    stranger = Member(9, ground)
    member = ground.members[0]
    ground.left = {member.name}
    stranger.publishes(1)
    member.publishes(1)
    await ground.settle()
    assert ground.notes.refusals == [("prekeys", "unknown-device"), ("prekeys", "revoked")]
    assert ground.wire.published == []


async def test_nobody_speaks_for_another_nor_says_one_thing_as_another(ground):
    one, other = ground.members[:2]
    body = encode(Want(bytes(32)))
    for key, sender, kind, fleet in (
        (one.device.key, other.name, "want", FLEET),
        (one.device.key, one.name, "ack", FLEET),
        (one.device.key, one.name, "want", "other"),
        (ec.generate_private_key(ec.SECP256R1()), one.name, "want", FLEET),
    ):
        ground.arrives(topics.up(FLEET, one.name, "want"), sign(key, body, context_of(fleet, sender, kind)))
    await ground.settle()
    assert ground.notes.refusals == [("want", "bad-signature")] * 4


async def test_a_message_that_is_longer_than_any_may_be_is_not_even_decoded(ground):
    ground.members[0].sends(Up.WANT, bytes(MAX_MESSAGE_BYTES))
    await ground.settle()
    assert ground.notes.refusals == [("want", "oversized")]


async def test_a_signed_body_of_the_wrong_form_is_refused(ground):
    member = ground.members[0]
    for kind in Up:
        if kind is not Up.CHUNK:
            member.sends(kind, encode([1, 2, 3]))
    await ground.settle()
    assert {reason for _, reason in ground.notes.refusals} == {"malformed"}


# --- prekeys


async def test_prekeys_are_kept_once_and_acknowledged_as_often_as_they_come(ground):
    member = ground.members[0]
    first, again = member.publishes(1, 2, 3), member.publishes(1, 2, 3)
    assert first == again
    assert await word_on(ground, member, first) == ""
    assert [ack.sha256 for ack in member.acks] == [first, first]
    assert ground.store.prekeys.counts(member.name).fresh == 3


async def test_prekeys_with_keys_that_were_published_otherwise_are_refused_as_a_whole(ground):
    member = ground.members[0]
    member.publishes(1)
    restored = {prekey.prekey_id: prekey for prekey in generate(1, 2)}
    member.device.prekeys |= restored
    assert await word_on(ground, member, member.publishes(1, 2)) == "equivocation"
    assert ground.store.prekeys.counts(member.name).fresh == 1


@pytest.mark.parametrize("wrong", ["signature", "mask key of low order", "channel key of low order"])
async def test_prekeys_that_the_others_would_refuse_are_refused_here(ground, wrong):
    member = ground.members[0]
    one = member.device.statement(1)
    keys = {
        "signature": (one.mask_public, one.channel_public),
        "mask key of low order": (bytes(32), one.channel_public),
        "channel key of low order": (one.mask_public, b"\x01" + bytes(31)),
    }[wrong]
    signed = member.device.sign_statement(prekey_statement(FLEET, member.name, 1, *keys))
    body = Prekeys((PrekeyStatement(1, *keys, bytes(64) if wrong == "signature" else signed),))
    reason = await word_on(ground, member, member.says(Up.PREKEYS, body))
    assert reason == ("bad-signature" if wrong == "signature" else "unknown-prekey")
    assert ground.store.prekeys.counts(member.name).fresh == 0


async def test_new_prekeys_always_find_room_at_the_cost_of_the_oldest(ground):
    """A device gives prekeys up without telling: in rounds that never closed, at every restart."""
    member = ground.members[0]
    member.device.prekeys = {prekey.prekey_id: prekey for prekey in generate(1, MAX_FRESH_PER_DEVICE + 32)}
    for first in range(1, MAX_FRESH_PER_DEVICE + 32, 32):
        assert await word_on(ground, member, member.publishes(*range(first, first + 32))) == ""
    fresh = [prekey.prekey_id for prekey in ground.store.prekeys.fresh(member.name)]
    assert fresh == list(range(33, MAX_FRESH_PER_DEVICE + 33))
    assert ground.store.prekeys.counts(member.name).burned == 32


async def test_ready_with_a_prekey_that_is_unknown_or_used_is_refused(ground):
    ground.introduce()
    for member in ground.members:
        member.silent = True
    ground.apply(document())
    await ground.until(lambda: ground.hub.runners["demo"].phase == "ready" and ground.offers())
    member = ground.members[0]
    ready = Ready("demo", 1, 0, prekey_id=99, weight=1, nonce=bytes(16), versions=(1, 1))
    assert await word_on(ground, member, member.says(Up.READY, ready)) == "unknown-prekey"
    ground.store.prekeys.burn([(member.name, 2)])
    assert await word_on(ground, member, member.says(Up.READY, replace(ready, prekey_id=2))) == "used-prekey"
    assert await word_on(ground, member, member.says(Up.READY, replace(ready, prekey_id=1))) == ""


# --- refusals, results, wants


async def test_a_refusal_is_heard_even_when_it_is_too_late_to_matter(ground):
    member = ground.members[0]
    late = member.says(Up.REFUSAL, Refusal("demo", 1, 0, "training-failed", "no data"))
    assert await word_on(ground, member, late) == ""
    seen = ground.store.devices.get(member.name)
    assert seen is not None
    assert seen.refusal is not None
    assert (seen.refusal.reason, seen.refusal.detail) == ("training-failed", "no data")
    assert ground.notes.named("device-refused")[0]["reason"] == "training-failed"


async def test_what_a_device_tells_of_its_admission_is_shown_and_of_another_version_refused(ground):
    member = ground.members[0]
    member.says(Up.CONDITION, Condition(1, ConditionState.PAUSED, ConditionReason.RUN_QUEUE))
    ground.pump()
    await asyncio.sleep(0.01)
    seen = ground.store.devices.get(member.name)
    assert seen is not None
    assert seen.state == "paused: run-queue"
    assert ground.notes.named("device-condition") == [{"device": member.name, "state": "paused", "reason": "run-queue"}]
    told = encode(Condition(1, ConditionState.IDLE, ConditionReason.OWNER))
    later = member.sends(Up.CONDITION, told.replace(b"\x83\x01", b"\x83\x02"))
    made_up = member.sends(Up.CONDITION, told.replace(b"owner", b"<new>"))
    ground.pump()
    await asyncio.sleep(0.01)
    assert ground.notes.refusals[-2:] == [("condition", "unsupported"), ("condition", "malformed")]
    assert member.answered(later) is member.answered(made_up) is None
    assert ground.store.devices.get(member.name).state == "paused: run-queue"


async def test_ready_for_a_job_that_does_not_run_is_refused(ground):
    member = ground.members[0]
    ready = Ready("demo", 1, 0, prekey_id=1, weight=1, nonce=bytes(16), versions=(1, 1))
    assert await word_on(ground, member, member.says(Up.READY, ready)) == "wrong-job"


async def test_answers_of_no_open_round_are_refused_and_acknowledgements_of_nothing_ignored(ground):
    member = ground.members[0]
    shares = member.says(Up.SHARES, Shares(bytes(32), bytes(32), ()))
    assert await word_on(ground, member, shares) == "wrong-context"
    member.says(Up.ACK, Ack(Down.RESULT, 1, 0, bytes(32), ""))
    member.says(Up.ACK, Ack("nonsense", 1, 0, bytes(32), ""))
    await ground.settle()
    assert [kind for kind, _ in ground.notes.refusals] == ["shares"]


async def test_wanting_a_thousand_blobs_costs_the_coordinator_nothing(ground):
    member = ground.members[0]
    for number in range(900):
        member.says(Up.WANT, Want(hashlib.sha256(b"%d" % number).digest()))
    await ground.settle()
    assert ground.hub._wanted.qsize() <= 256
    assert ground.notes.refusals == []


async def test_a_blob_that_is_wanted_is_published_again(ground):
    ground.apply(document())
    await ground.until(ground.offers)
    graph = ground.job().graph
    assert graph is not None
    ground.hub._publisher._sent_s.clear()
    before = [topic for topic, _, _ in ground.wire.published].count(topics.blob(FLEET, graph.hex(), 0))
    ground.members[0].says(Up.WANT, Want(graph))
    await ground.until(
        lambda: [t for t, _, _ in ground.wire.published].count(topics.blob(FLEET, graph.hex(), 0)) == before + 1
    )


# --- vectors


async def at_masking(ground: Ground) -> bytes:
    """A round in which the first member has shared and not uploaded; returns its context."""
    ground.introduce()
    ground.members[0].deaf_to = {Down.INBOUND}
    ground.apply(document())
    await ground.until(lambda: [e["kind"] for e in ground.notes.named("input")].count("masked") == 3)
    machine = ground.hub.runners["demo"]._machine
    assert machine is not None
    (context,) = machine.contexts
    return context


def uploads(ground: Ground) -> set[str]:
    return set(ground.hub._uploads._uploads)


async def test_chunks_are_collected_only_for_a_vector_that_the_round_could_take(ground):
    context = await at_masking(ground)
    member, outsider = ground.members[0], Member(9, ground)
    ground.by_name[outsider.name] = outsider
    content = os.urandom(128)
    ref = BlobRef(hashlib.sha256(content).digest(), len(content))
    body = Masked(context, ref, bytes(65))
    for sender, forged, reason in (
        (outsider, body, "not-in-cohort"),
        (member, replace(body, vector=BlobRef(ref.sha256, 16 * 1024 * 1024)), "bad-update"),
        (member, replace(body, context=bytes(32)), "wrong-context"),
    ):
        assert await word_on(ground, sender, sender.says(Up.MASKED, forged)) == reason
        assert uploads(ground) == set()
    announced = member.says(Up.MASKED, body)
    assert await word_on(ground, member, announced) is None  # not before the vector is on disk
    assert uploads(ground) == {member.name}
    member.uploads(content)
    await ground.until(lambda: member.answered(announced) is not None)
    assert member.answered(announced) == "bad-receipt"
    assert uploads(ground) == set()


async def test_chunks_that_are_not_the_announced_vector_are_thrown_away_and_may_come_again(ground):
    await at_masking(ground)
    member = ground.members[0]
    member.deaf_to = set()
    uploads_rightly = member.uploads

    def uploads_wrongly(content: bytes) -> None:
        name = hashlib.sha256(content).hexdigest()
        ground.arrives(topics.up_chunk(FLEET, member.name, name, 0), bytes(len(content)))

    member.uploads = uploads_wrongly
    ground.jumps(16)  # INBOUND is asked again
    await ground.until(lambda: ("chunk", "malformed") in ground.notes.refusals)
    (vector,) = member._vectors.values()
    member.uploads = uploads_rightly
    member.uploads(vector)
    await ground.until(lambda: ground.job().next_round == 2)
    assert ground.store.jobs.progress("demo")[0].participants == 4


async def test_an_unfinished_upload_is_forgotten_with_its_round(ground):
    context = await at_masking(ground)
    member = ground.members[0]
    content = os.urandom(128)
    member.says(Up.MASKED, Masked(context, BlobRef(hashlib.sha256(content).digest(), 128), bytes(65)))
    await ground.settle()
    assert uploads(ground) == {member.name}
    ground.jumps(31)
    await ground.until(lambda: ground.job().next_round == 2)
    member.appears()
    await ground.settle()
    assert uploads(ground) == set()


async def test_what_comes_late_for_a_round_that_has_ended_is_acknowledged_so_that_it_ends(ground):
    context = await at_masking(ground)
    ground.jumps(31)
    await ground.until(lambda: ground.job().next_round == 2)
    member = ground.members[0]
    late: Body = Shares(context, bytes(32), ())
    assert await word_on(ground, member, member.says(Up.SHARES, late)) == ""
    late = Masked(context, BlobRef(bytes(32), 128), bytes(65))
    assert await word_on(ground, member, member.says(Up.MASKED, late)) == ""
    assert uploads(ground) == set()
