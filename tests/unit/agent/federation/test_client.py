import asyncio
import hashlib
import time
from pathlib import Path

import msgspec
import pytest
from tests.unit.agent.federation.conftest import DIM, FLEET, an_offer
from tests.unit.agent.federation.ground import STRANGER_KEY, Ground, make_ground, serving

from fedge_agent.federation.machine import State
from fedge_agent.store import DeviceStore
from fedge_protocol import topics
from fedge_protocol.cose import context_of, decode, encode, sign, verify
from fedge_protocol.messages import (
    COORDINATOR,
    Abort,
    Ack,
    BlobRef,
    Body,
    Down,
    NoOffer,
    Presence,
    Ready,
    Refusal,
    Result,
    Survivor,
    Up,
)
from fedge_protocol.secagg.prekeys import generate
from fedge_transport.events import Connected, Disconnected, Ending

replace = msgspec.structs.replace
RESULT = Result("demo", 1, 0, included=True, weights=BlobRef(bytes(32), 4), participants=3)


@pytest.fixture
def ground(tmp_path: Path, identity, store) -> Ground:
    return make_ground(tmp_path, identity, store)


def said(ground: Ground, kind: Up, body: type[Body]) -> list[Body]:
    context = context_of(FLEET, ground.identity.device_id, kind)
    key = ground.identity.key.public_key()
    return [decode(verify(message, key, context), body) for message in ground.wire.messages(kind)]


def state(ground: Ground) -> State:
    assert ground.client.round is not None
    return ground.client.round.machine.state


async def ready_by_hand(ground: Ground, round_: int = 1) -> None:
    """Bring the present round to READY without a worker."""
    driver = ground.client.round
    assert driver is not None
    ground.store.add_prekeys(generate(ground.store.next_prekey_id(), 1))
    ground.store.prekeys_published([ground.store.next_prekey_id() - 1])
    prekey = ground.store.reserve_prekey()
    assert prekey is not None
    machine = driver.machine
    machine.state = State.TRAINING
    driver.step(lambda: machine.trained(40, DIM, prekey, now=time.monotonic(), unix_now=time.time()))
    await ground.settle()
    assert ground.store.has_signed("demo", round_, 0, "ready")


async def test_a_device_announces_itself_whenever_it_is_connected_and_says_goodbye(ground):
    async with serving(ground):
        assert ground.client.connected
        ground.wire.stream.put(Disconnected(Ending.LOST, "", 1.0))
        await ground.settle()
        assert not ground.client.connected
        ground.wire.stream.put(Connected(session_present=True))
        await ground.settle()
        await ground.client.farewell()
    births = [(topic, payload, retain) for topic, payload, retain in ground.wire.published if "presence" in topic]
    context = context_of(FLEET, ground.identity.device_id, "presence")
    words = [decode(verify(p, ground.identity.key.public_key(), context), Presence).online for _, p, _ in births]
    assert words == [True, True, False]
    assert all(retain for _, _, retain in births)
    assert ground.wire.filters == [
        topics.down_filter(FLEET, ground.identity.device_id),
        topics.offers_filter(FLEET),
    ]


async def test_an_offer_is_taken_up_and_the_same_one_again_changes_nothing(ground):
    offer = an_offer()
    async with serving(ground):
        ground.offered(offer)
        await ground.settle()
        first = ground.client.round
        assert state(ground) is State.FETCHING
        ground.offered(offer)
        await ground.settle()
        assert ground.client.round is first


@pytest.mark.parametrize("what", ["stranger", "garbage", "unknown version", "another job", "another fleet"])
async def test_an_offer_that_does_not_hold_is_counted_by_its_reason_and_nothing_else_happens(ground, what):
    async with serving(ground):
        match what:
            case "stranger":
                ground.offered(an_offer(), key=STRANGER_KEY)
                reason = "bad-signature"
            case "garbage":
                ground.arrives(topics.offer(FLEET, "demo"), b"\xff" * 50)
                reason = "malformed"
            case "unknown version":
                plain = msgspec.to_builtins(an_offer(), builtin_types=(bytes,))
                ground.offered([2, *plain[1:]])
                reason = "unsupported"
            case "another job":
                ground.offered(an_offer(job="other"))
                reason = "wrong-topic"
            case _:
                ground.arrives("fedge/v1/other/job/demo/offer", b"x")
                reason = "wrong-fleet"
        await ground.settle()
        assert ground.client.refused == {("offer", reason): 1}
        assert ground.client.round is None


async def test_what_was_said_as_one_thing_cannot_be_shown_as_another(ground):
    """A signed NO OFFER under the name of a RESULT, and a message for another device."""
    body = NoOffer("demo", 1, finished=False)
    async with serving(ground):
        message = ground.hears(Down.RESULT, body)
        ground.arrives(topics.offer(FLEET, "demo"), message)
        ground.arrives(topics.down(FLEET, "0" * 32, "result"), message)
        ground.arrives(topics.up(FLEET, ground.identity.device_id, "ready"), message)
        ground.arrives("something/else", message)
        await ground.settle()
        assert ground.client.refused == {
            ("result", "malformed"): 1,
            ("offer", "bad-signature"): 1,
            ("result", "wrong-topic"): 1,
            ("ready", "wrong-topic"): 1,
            ("other", "wrong-topic"): 1,
        }


async def test_the_next_round_takes_the_place_of_one_that_is_not_ready(ground):
    async with serving(ground):
        ground.offered(an_offer(round_=1))
        await ground.settle()
        first = ground.client.round
        assert first is not None
        ground.offered(an_offer(round_=2))
        await ground.until(lambda: ground.client.round is not first)
        assert first.outcome is not None
        assert first.outcome.outcome == "abandoned"
        assert ground.client.round is not None
        assert ground.client.round.offer.round == 2


@pytest.mark.parametrize("shown", ["older round", "older attempt", "past deadline", "another job"])
async def test_an_offer_that_cannot_be_taken_up_does_not_end_the_round_that_runs(ground, shown):
    """The broker is not trusted: it may show what was retained long ago."""
    offers = {
        "older round": an_offer(round_=4, attempt=9),
        "older attempt": an_offer(round_=5, attempt=1),
        "past deadline": an_offer(round_=6, deadline=1_000),
        "another job": an_offer(job="other", round_=9),
    }
    async with serving(ground):
        ground.offered(an_offer(round_=5, attempt=2))
        await ground.settle()
        running = ground.client.round
        ground.offered(offers[shown], job=offers[shown].job)
        await ground.settle()
        assert ground.client.round is running
        assert state(ground) is State.FETCHING


async def test_another_jobs_offer_that_came_while_a_round_ran_is_answered_when_that_round_has_ended(ground):
    async with serving(ground):
        ground.offered(an_offer(round_=5))
        await ground.settle()
        for job, round_ in (("other", 1), ("third", 7), ("other", 2), ("gone", 1)):
            ground.offered(an_offer(job=job, round_=round_), job=job)
        ground.offered(NoOffer("gone", 1, finished=True), job="gone")
        await ground.settle()
        for ends, begins in ((("demo", 5), ("other", 2)), (("other", 2), ("third", 7))):
            job, round_ = ends
            ground.offered(NoOffer(job, round_, finished=True), job=job)
            await ground.until(lambda begins=begins: ground.client.round.offer.job == begins[0])
            assert ground.client.round.offer.round == begins[1]
            await ground.settle()
            assert state(ground) is State.FETCHING
        ground.offered(NoOffer("third", 7, finished=True), job="third")
        await ground.until(lambda: ground.client.round.outcome is not None)
        await ground.settle()
        assert ground.client.round.offer.job == "third"


async def test_a_round_that_was_answered_before_is_sat_out_whatever_it_is_about_now(ground, store: DeviceStore, caplog):
    """Also when the coordinator was restored from a backup and gives the round's number to another model."""
    store.sign_once("demo", 3, 0, "ready", b"another body", lambda body: body)
    async with serving(ground):
        ground.offered(an_offer(round_=3))
        await ground.settle()
        assert ground.client.round is None
        ground.offered(an_offer(round_=3, attempt=1))
        await ground.settle()
        assert state(ground) is State.FETCHING
    assert ground.wire.messages("ready") == []


async def test_the_word_that_there_is_no_round_ends_one_that_is_not_ready(ground):
    async with serving(ground):
        ground.offered(an_offer(round_=5))
        await ground.settle()
        ground.offered(NoOffer("demo", 4, finished=False))  # shown again from before
        await ground.settle()
        assert state(ground) is State.FETCHING
        ground.offered(NoOffer("demo", 5, finished=True))  # cancelled
        await ground.until(lambda: ground.client.round is not None and ground.client.round.outcome is not None)
        assert ground.client.waiting_for == NoOffer("demo", 5, finished=True)


async def test_a_device_that_is_ready_waits_while_its_round_may_still_be_open(ground):
    async with serving(ground):
        ground.offered(an_offer())
        await ground.settle()
        await ready_by_hand(ground)
        ground.offered(NoOffer("demo", 1, finished=False))
        await ground.settle()
        assert state(ground) is State.READY
        ground.hears(Down.RESULT, RESULT)
        await ground.until(lambda: ground.store.outcomes() == {"included": 1})


async def test_a_result_that_comes_after_the_next_offer_is_written_down_all_the_same(ground):
    async with serving(ground):
        ground.offered(an_offer())
        await ground.settle()
        await ready_by_hand(ground)
        ground.offered(NoOffer("demo", 2, finished=True))
        await ground.until(lambda: ground.store.outcomes() == {"abandoned": 1})
        ground.hears(Down.RESULT, RESULT)
        await ground.until(lambda: ground.store.outcomes() == {"included": 1})


async def test_a_result_of_a_round_that_this_device_never_answered_is_not_written_down(ground):
    async with serving(ground):
        ground.hears(Down.RESULT, RESULT)
        await ground.settle()
        assert ground.store.outcomes() == {}


async def test_a_result_is_acknowledged_by_its_hash_even_when_no_round_runs(ground):
    async with serving(ground):
        message = ground.hears(Down.RESULT, RESULT)
        await ground.settle()
        assert said(ground, Up.ACK, Ack) == [Ack("result", 1, 0, hashlib.sha256(message).digest(), "")]
        assert ground.client.round is None


async def test_abort_ends_the_round_and_burns_its_prekey(ground):
    async with serving(ground):
        ground.offered(an_offer())
        await ground.settle()
        await ready_by_hand(ground)
        ground.hears(Down.ABORT, Abort("demo", 2, 0, "cancelled"))
        await ground.settle()
        assert state(ground) is State.READY
        ground.hears(Down.ABORT, Abort("demo", 1, 0, "cancelled"))
        await ground.until(lambda: ground.store.outcomes() == {"aborted": 1})
        assert ground.store.burn_reserved() == 0
        assert len(ground.voice._waiting) == 1  # the prekeys; READY is not said any more


async def test_the_coordinators_refusal_of_ready_ends_the_round(ground):
    async with serving(ground):
        ground.offered(an_offer())
        await ground.settle()
        await ready_by_hand(ground)
        (message,) = ground.wire.messages("ready")
        ground.hears(Down.ACK, Ack("ready", 1, 0, hashlib.sha256(message).digest(), "cohort-full"))
        await ground.until(lambda: ground.store.outcomes() == {"refused": 1})
        assert ground.store.rounds(1)[0].detail == "ready: cohort-full"


async def test_ready_refused_for_prekeys_that_the_coordinator_lost_is_said_once_more_after_them(ground):
    async with serving(ground):
        (prekeys,) = ground.wire.messages("prekeys")
        ground.hears(Down.ACK, Ack("prekeys", 0, 0, hashlib.sha256(prekeys).digest(), ""))
        ground.offered(an_offer())
        await ground.settle()
        await ready_by_hand(ground)
        (ready,) = ground.wire.messages("ready")
        refusal = Ack("ready", 1, 0, hashlib.sha256(ready).digest(), "unknown-prekey")
        ground.hears(Down.ACK, refusal)
        await ground.until(lambda: ground.wire.messages("ready") == [ready, ready])
        assert ground.wire.messages("prekeys") == [prekeys, prekeys]
        assert state(ground) is State.READY
        ground.hears(Down.ACK, refusal)
        await ground.until(lambda: ground.store.outcomes() == {"refused": 1})


async def test_acknowledged_prekeys_may_be_used_and_refused_ones_are_burned(ground):
    async with serving(ground):
        (first,) = ground.wire.messages("prekeys")
        ground.hears(Down.ACK, Ack("prekeys", 0, 0, hashlib.sha256(first).digest(), "equivocation"))
        await ground.until(lambda: len(ground.wire.messages("prekeys")) == 2)
        assert ground.store.published_count() == 0
        second = ground.wire.messages("prekeys")[1]
        assert first != second
        ground.hears(Down.ACK, Ack("prekeys", 0, 0, hashlib.sha256(second).digest(), ""))
        await ground.until(lambda: ground.store.published_count() == 32)


async def test_after_a_start_reserved_prekeys_are_burned_and_unfinished_answers_said_again(ground, store):
    store.add_prekeys(generate(1, 2))
    store.prekeys_published([1, 2])
    store.reserve_prekey()
    ground.voice._clock = time.monotonic
    store._clock_ms = lambda: int(time.time() * 1000)
    store.sign_once("demo", 1, 0, "survivor", b"body", lambda body: b"signed " + body)
    async with serving(ground):
        assert store.published_count() == 1
        assert store.burn_reserved() == 0
        assert ground.wire.messages("survivor") == [b"signed body"]


async def test_a_hostile_coordinator_cannot_bring_the_daemon_down_by_any_body_of_any_kind(ground):
    bodies: list[Body] = [
        Survivor(bytes(32), bytes(64)),
        Ready("demo", 1, 0, 1, 1, bytes(16), (1, 1)),
        Refusal("demo", 1, 0, "busy", ""),
        NoOffer("demo", 1, finished=True),
        BlobRef(bytes(32), 1),
    ]
    async with serving(ground):
        ground.offered(an_offer())
        await ground.settle()
        await ready_by_hand(ground)
        for kind in Down:
            for body in bodies:
                ground.hears(kind, body)
        for body in bodies:
            ground.offered(body)
        context = context_of(FLEET, COORDINATOR, "nonsense")
        for content in (b"", b"\x80", encode([1, 2, 3])):
            message = sign(STRANGER_KEY, content, context)
            ground.arrives(topics.down(FLEET, ground.identity.device_id, "nonsense"), message)
        await ground.settle()
        assert ground.client.refused.total() == len(Down) * len(bodies) + len(bodies) - 1 + 3
        assert state(ground) is State.READY


async def test_the_end_of_the_client_ends_its_round(ground):
    async with serving(ground):
        ground.offered(an_offer())
        await ground.settle()
        driver = ground.client.round
    assert driver is not None
    assert driver._tasks == set()
    assert driver._timer is None or driver._timer.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_topics_that_a_hostile_broker_makes_up_fill_no_memory_and_forge_no_line_of_the_log(ground, caplog):
    async with serving(ground):
        for number in range(50):
            ground.arrives(f"fedge/v1/{FLEET}/{number}\n<0>kernel: forged \x1b[2J", b"x")
        await ground.settle()
        assert sum(ground.client.refused.values()) == 50
        assert len(ground.client.refused) == 1
    lines = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert len(lines) == 50
    assert all(line.isprintable() for line in lines)
