"""An enrolled device sends whatever it likes; the round of the others goes on, and each refusal is counted by name."""

import hashlib
import os
from collections.abc import Iterator

import pytest
from tests.integration.system.checking import (
    check_nothing_was_signed_twice,
    check_weights_follow_from_the_published_vectors,
)
from tests.integration.system.ground import CLASSES, FEATURES, FLEET
from tests.integration.system.living_fleet import DEVICES, LivingFleet, event_of
from tests.integration.system.mallory import FAILURE, Mallory, not_canonical

from fedge_protocol import topics
from fedge_protocol.chunks import CHUNK_BYTES
from fedge_protocol.cose import decode, encode, open_signed
from fedge_protocol.messages import BlobRef, Down, Masked, Offer, Shares, Survivor, Unmask, Up
from fedge_protocol.secagg.padding import masked_bytes

NOT_AUTHORISED = 135
VECTOR_BYTES = masked_bytes((FEATURES + 1) * CLASSES)
OTHERS_CONTEXT = bytes(32)


@pytest.fixture
def mallory(fleet: LivingFleet) -> Iterator[Mallory]:
    someone = Mallory(fleet.ground)
    someone.appear(online=True)
    yield someone
    someone.appear(online=False)
    someone.close()


def open_offer(fleet: LivingFleet, job: str, round_: int) -> Offer:
    """The offer of a round, as the broker saw it."""

    def wanted(payload: bytes) -> bool:
        body = open_signed(payload)[0]
        return len(body) > 200 and decode(body, Offer).round == round_  # the shorter one says that there is no offer

    return decode(open_signed(fleet.eavesdropper.wait_for(topics.offer(FLEET, job), wanted))[0], Offer)


def send_before_the_close(fleet: LivingFleet, mallory: Mallory, offer: Offer, prekey: int) -> set[tuple[str, str]]:
    """Everything that needs no seat. Returns what must be counted."""
    ready = mallory.ready(offer, prekey)
    garbled = bytearray(mallory.signed(Up.READY, encode(ready)))
    garbled[-1] ^= 1
    expected = set()

    def hostile(kind: Up, reason: str, payload: bytes) -> None:
        mallory.send(kind, payload)
        expected.add((str(kind), reason))

    hostile(Up.READY, "malformed", b"")
    hostile(Up.READY, "malformed", os.urandom(200))
    hostile(Up.SHARES, "oversized", os.urandom(100_000))
    hostile(Up.READY, "malformed", not_canonical(mallory.signed(Up.READY, encode(ready))))
    hostile(Up.SHARES, "malformed", mallory.signed(Up.SHARES, b"\x9f\xff"))
    hostile(Up.READY, "bad-signature", bytes(garbled))
    hostile(Up.SHARES, "bad-signature", mallory.signed(Up.READY, encode(ready)))
    hostile(Up.READY, "wrong-job", mallory.signed(Up.READY, encode(mallory.ready(offer, prekey, job="nobodys"))))
    hostile(Up.READY, "wrong-round", mallory.signed(Up.READY, encode(mallory.ready(offer, prekey, round=2**40))))
    hostile(Up.READY, "unknown-prekey", mallory.signed(Up.READY, encode(mallory.ready(offer, 10**6))))
    hostile(Up.READY, "bad-weight", mallory.signed(Up.READY, encode(mallory.ready(offer, prekey, weight=1000))))
    hostile(Up.READY, "unsupported", mallory.signed(Up.READY, encode(mallory.ready(offer, prekey, versions=(7, 9)))))
    hostile(Up.UNMASK, "wrong-context", mallory.signed(Up.UNMASK, encode(Unmask(OTHERS_CONTEXT, bytes(48)))))
    mallory.publish(topics.up_chunk(FLEET, mallory.name, hashlib.sha256(b"never").hexdigest(), 0), b"announced")
    expected.add(("chunk", "missing-blob"))
    mallory.publish(topics.up(FLEET, mallory.name, "gossip"), b"no such kind")
    expected.add(("unknown", "wrong-topic"))
    # Under another's name, which only the broker itself could do.
    victim = fleet.devices[0].name
    fleet.eavesdropper.publish(topics.up(FLEET, victim, Up.READY), mallory.signed(Up.READY, encode(ready)))
    return expected


def send_from_a_seat(mallory: Mallory, context: bytes, offer: Offer, prekey: int) -> set[tuple[str, str]]:
    """What only a member of the bucket can try, while SHARES are awaited."""
    vector = BlobRef(hashlib.sha256(b"mine").digest(), VECTOR_BYTES)
    mallory.say(Up.UNMASK, Unmask(context, bytes(48)))
    mallory.say(Up.SURVIVOR, Survivor(context, bytes(64)))
    mallory.say(Up.SHARES, Shares(context, bytes(32), ()))
    mallory.say(Up.READY, mallory.ready(offer, prekey, weight=2))
    mallory.say(Up.MASKED, Masked(context, BlobRef(vector.sha256, 7 * CHUNK_BYTES), bytes(65)))
    mallory.say(Up.MASKED, Masked(context, vector, bytes(65)))
    mallory.publish(topics.up_chunk(FLEET, mallory.name, vector.sha256.hex(), 0), b"too short")
    mallory.publish(topics.up_chunk(FLEET, mallory.name, vector.sha256.hex(), 9), bytes(VECTOR_BYTES))
    mallory.publish(topics.up_chunk(FLEET, mallory.name, vector.sha256.hex(), 0), bytes(VECTOR_BYTES))
    return {
        ("unmask", "out-of-phase"),
        ("survivor", "out-of-phase"),
        ("shares", "malformed"),
        ("ready", "used-prekey"),
        ("masked", "bad-update"),
        ("chunk", "malformed"),
    }


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_hostile_member_is_refused_by_name_and_harms_no_round(fleet: LivingFleet, mallory: Mallory):
    """Round 1: every bad message, then a seat, every bad message that needs one, and silence. Round 2: replays."""
    job, prekey = "hostile", 1
    mallory.publish_prekeys(prekey)
    fleet.apply(job, rounds=2, phase_seconds=10, target=DEVICES + 1)
    offer = open_offer(fleet, job, 1)
    before = fleet.metrics()
    expected = send_before_the_close(fleet, mallory, offer, prekey)
    first_ready = mallory.say(Up.READY, mallory.ready(offer, prekey))
    seat = fleet.eavesdropper.wait_for(topics.down(FLEET, mallory.name, Down.ROUND))
    expected |= send_from_a_seat(mallory, hashlib.sha256(open_signed(seat)[0]).digest(), offer, prekey)
    assert fleet.wait_finished(job, 1)["participants"] == DEVICES

    # Round 2: the broker shows an honest device's old messages again, and mallory its own; then it stays away.
    old = fleet.eavesdropper.said(fleet.devices[0].name)
    open_offer(fleet, job, 2)
    mallory.send(Up.READY, first_ready)
    for kind in (Up.READY, Up.SHARES, Up.MASKED, Up.SURVIVOR, Up.UNMASK):
        for message in old[kind]:
            fleet.eavesdropper.publish(topics.up(FLEET, fleet.devices[0].name, kind), message)
    mallory.appear(online=False)
    assert fleet.wait_finished(job, 2)["participants"] == DEVICES
    fleet.wait_job(job)

    assert fleet.attempts(job) == [(1, 0, "finished"), (2, 0, "finished")]
    after = fleet.metrics()
    replayed = {("ready", "used-prekey"), ("shares", "out-of-phase"), ("masked", "out-of-phase")}
    for said, reason in expected | replayed | {("ready", "bad-signature")}:
        name = f'fedge_coordinator_messages_refused_total{{kind="{said}",reason="{reason}"}}'
        assert after.get(name, 0) > before.get(name, 0), (said, reason)
    fleet.wait_published(job, 2)
    assert check_weights_follow_from_the_published_vectors(fleet, job, 2) == [DEVICES] * 2
    assert fleet.audit(job)["ok"]
    for device in fleet.devices:
        assert device.outcomes(job) == {1: "included", 2: "included"}
    check_nothing_was_signed_twice(fleet)


def test_the_broker_lets_a_device_publish_under_its_own_name_alone(fleet: LivingFleet, mallory: Mallory):
    victim = fleet.devices[0].name
    message = mallory.signed(Up.READY, b"\x80")
    seen = len(fleet.eavesdropper.seen)
    forbidden = [
        topics.up(FLEET, victim, Up.READY),
        topics.presence(FLEET, victim),
        topics.down(FLEET, victim, Down.ABORT),
        topics.down(FLEET, mallory.name, Down.ABORT),
        topics.offer(FLEET, "hostile"),
        topics.blob(FLEET, hashlib.sha256(b"x").hexdigest(), 0),
    ]
    for topic in forbidden:
        assert mallory.publish(topic, message, retain=True) == NOT_AUTHORISED, topic
    marker = topics.up(FLEET, mallory.name, Up.WANT)
    assert mallory.publish(marker, message) < FAILURE
    fleet.eavesdropper.wait_for(marker, since=seen)
    assert not {each.topic for each in fleet.eavesdropper.seen[seen:]} & set(forbidden)


def test_a_certificate_of_another_fleet_does_not_get_past_the_broker(fleet: LivingFleet):
    """It bears a member's very name, but another fleet's root signed it. The broker says so in its log."""
    assert fleet.ground.stranger is not None
    log = fleet.ground.folder / "logs" / "mosquitto.log"
    before = len(log.read_text())
    assert fleet.ground.knock(fleet.ground.stranger) == "refused"
    assert fleet.ground.eavesdropper is not None
    fleet.wait_until(lambda: "certificate verify failed" in log.read_text()[before:], "the broker's word on it")
    assert fleet.everybody_is_there()


def test_nothing_that_a_member_can_send_ends_the_coordinator(fleet: LivingFleet, mallory: Mallory):
    """Signed, canonical, of the right type, and extreme in every field; then it still answers."""
    extreme = [
        (Up.WANT, b"\x81" + b"\x58\x20" + bytes(32)),
        (Up.ACK, encode(["result", 2**53, 65535, bytes(32), ""])),
        (Up.REFUSAL, encode(["hostile", 2**53, 65535, "not-admitted", "\U0001f980" * 256])),
        (Up.PREKEYS, encode([[[2**53, bytes(32), bytes(32), bytes(64)]]])),
        (Up.MASKED, encode([bytes(32), [bytes(32), 16 * 1024 * 1024], bytes(65)])),
    ]
    for kind, body in extreme:
        mallory.send(kind, mallory.signed(kind, body))
    mallory.publish_prekeys(1000)
    fleet.eavesdropper.wait_for(
        topics.down(FLEET, mallory.name, Down.ACK), lambda payload: b"prekeys" in payload and b"equi" not in payload
    )
    assert fleet.coordinator.running
    fleet.apply("after-extremes", rounds=1)
    wanted = event_of("after-extremes", "round-finished", participants=DEVICES)
    fleet.feed.wait_for(wanted, "a round after it")
    fleet.wait_job("after-extremes")
