"""The exchanges after ROUND: a device answers each question once, and no other question at all."""

import hashlib

import msgspec
import pytest
from tests.unit.rounds.fleet import ANYTHING, PHASE_S, Device, Fleet

from fedge_agent.federation.consent import Consent
from fedge_agent.federation.effects import BurnPrekey, Fetch, Finished, Hold, MaskUpdate, Say
from fedge_agent.federation.machine import State
from fedge_coordinator.rounds.inputs import Kind
from fedge_protocol.cose import encode, sign_raw
from fedge_protocol.errors import Reason
from fedge_protocol.messages import (
    Abort,
    BlobRef,
    Body,
    Down,
    Inbound,
    Refusal,
    Result,
    SignedBy,
    Survivors,
    UnmaskRequest,
    Up,
    survivors_statement,
)

replace = msgspec.structs.replace


def fleet_at(phase: Kind, size: int = 4, **options: object) -> Fleet:
    """A fleet whose coordinator waits for `phase`, its questions not yet heard."""
    fleet = Fleet(size, dim=64, **options)  # type: ignore[arg-type]
    fleet.train()
    for device in fleet.devices:
        fleet.say(device, Kind.READY)
    fleet.pump(until=phase)
    return fleet


def question(fleet: Fleet, device: Device) -> Body:
    return next(send.body for send in fleet.downs if send.device == device.name)


def refusal(fleet: Fleet, device: Device, kind: Down, body: Body) -> str:
    before = len(fleet.refused)
    assert fleet.tell(device, kind, encode(body)) is None
    assert len(fleet.refused) == before + 1
    return fleet.refused[-1][1]


# --- INBOUND


def test_a_device_masks_once_for_one_set_of_sharers():
    fleet = fleet_at(Kind.MASKED)
    device = fleet.devices[0]
    body = question(fleet, device)
    assert isinstance(body, Inbound)
    assert fleet.tell(device, Down.INBOUND, encode(body)) is Kind.MASKED
    own = fleet.coordinator._seat_of[device.name][1]
    dropped = next(seat for seat in body.sharers if seat != own)
    peers = [seat for seat in body.sharers if seat != own]
    fewer = replace(
        body,
        sharers=tuple(seat for seat in body.sharers if seat != dropped),
        sealed=tuple(part for seat, part in zip(peers, body.sealed, strict=True) if seat != dropped),
    )
    masked = device.outbox[Kind.MASKED]
    assert device.machine.inbound(fewer, now=fleet.now) == []
    assert device.outbox[Kind.MASKED] == masked


def test_inbound_of_another_round_or_with_wrong_seats_is_refused():
    fleet = fleet_at(Kind.MASKED)
    device = fleet.devices[0]
    body = question(fleet, device)
    assert isinstance(body, Inbound)
    own = fleet.coordinator._seat_of[device.name][1]
    without_me = tuple(seat for seat in body.sharers if seat != own)
    for forged, reason in (
        (replace(body, context=bytes(32)), "wrong-context"),
        (replace(body, sharers=body.sharers[::-1]), "malformed"),
        (replace(body, sharers=(*body.sharers, 127)), "malformed"),
        (replace(body, sharers=body.sharers[:2], sealed=body.sealed[:1]), "below-threshold"),
        (replace(body, sealed=body.sealed[:-1]), "malformed"),
        (replace(body, sharers=without_me, sealed=body.sealed), "malformed"),
        (replace(body, sealed=(body.sealed[1], body.sealed[0], *body.sealed[2:])), "bad-share"),
        (replace(body, sealed=(bytes(56), *body.sealed[1:])), "bad-share"),
    ):
        assert refusal(fleet, device, Down.INBOUND, forged) == reason
        assert device.machine.state is State.SHARING
    assert fleet.tell(device, Down.INBOUND, encode(body)) is Kind.MASKED


def test_what_was_sealed_for_one_device_does_not_open_for_another():
    fleet = fleet_at(Kind.MASKED)
    one, other = fleet.devices[:2]
    assert refusal(fleet, one, Down.INBOUND, question(fleet, other)) == "bad-share"


# --- SURVIVORS


def test_a_second_different_survivor_set_is_equivocation():
    fleet = fleet_at(Kind.SURVIVOR)
    device = fleet.devices[0]
    body = question(fleet, device)
    assert isinstance(body, Survivors)
    assert fleet.tell(device, Down.SURVIVORS, encode(body)) is Kind.SURVIVOR
    signature = device.outbox[Kind.SURVIVOR]
    own = fleet.coordinator._seat_of[device.name][1]
    gone = next(seat for seat in body.survivors if seat != own)
    kept = tuple(seat for seat in body.survivors if seat != gone)
    vectors = tuple(vector for seat, vector in zip(body.survivors, body.vectors, strict=True) if seat != gone)
    assert refusal(fleet, device, Down.SURVIVORS, replace(body, survivors=kept, vectors=vectors)) == "equivocation"
    swapped = replace(body, vectors=(bytes(32), *body.vectors[1:]))
    assert refusal(fleet, device, Down.SURVIVORS, swapped) == "equivocation"
    assert device.outbox[Kind.SURVIVOR] == signature
    assert fleet.tell(device, Down.SURVIVORS, encode(body)) is Kind.SURVIVOR


def test_a_device_whose_vector_was_altered_or_exchanged_signs_nothing():
    fleet = fleet_at(Kind.SURVIVOR)
    device = fleet.devices[0]
    body = question(fleet, device)
    assert isinstance(body, Survivors)
    own = body.survivors.index(fleet.coordinator._seat_of[device.name][1])
    vectors = list(body.vectors)
    vectors[own] = hashlib.sha256(b"another vector").digest()
    assert refusal(fleet, device, Down.SURVIVORS, replace(body, vectors=tuple(vectors))) == "equivocation"
    assert Kind.SURVIVOR not in device.outbox


def test_wrong_survivor_sets_are_refused_by_name():
    fleet = fleet_at(Kind.SURVIVOR, size=5)
    device = fleet.devices[0]
    body = question(fleet, device)
    assert isinstance(body, Survivors)
    for forged, reason in (
        (replace(body, context=bytes(32)), "wrong-context"),
        (replace(body, survivors=body.survivors[:3], vectors=body.vectors[:3]), "below-threshold"),
        (replace(body, survivors=body.survivors[::-1]), "malformed"),
        (replace(body, survivors=(*body.survivors[:-1], 100)), "malformed"),
        (replace(body, vectors=body.vectors[:-1]), "malformed"),
    ):
        assert refusal(fleet, device, Down.SURVIVORS, forged) == reason
    assert Kind.SURVIVOR not in device.outbox


def test_a_survivor_who_never_shared_is_refused():
    fleet = fleet_at(Kind.SHARES, size=5)
    silent = fleet.devices[4]
    silent.dead = True
    fleet.pump()
    fleet.tick(PHASE_S + 1)
    fleet.pump(until=Kind.SURVIVOR)
    device = fleet.devices[0]
    body = question(fleet, device)
    assert isinstance(body, Survivors)
    seat = fleet.coordinator._seat_of[silent.name][1]
    claims = sorted([*zip(body.survivors, body.vectors, strict=True), (seat, bytes(32))])
    forged = replace(body, survivors=tuple(s for s, _ in claims), vectors=tuple(v for _, v in claims))
    assert refusal(fleet, device, Down.SURVIVORS, forged) == "malformed"


def test_a_device_that_was_left_out_ends_its_round():
    fleet = fleet_at(Kind.SURVIVOR, size=4)
    device = fleet.devices[0]
    body = question(fleet, device)
    assert isinstance(body, Survivors)
    own = fleet.coordinator._seat_of[device.name][1]
    claims = [claim for claim in zip(body.survivors, body.vectors, strict=True) if claim[0] != own]
    forged = replace(body, survivors=tuple(s for s, _ in claims), vectors=tuple(v for _, v in claims))
    assert fleet.tell(device, Down.SURVIVORS, encode(forged)) is None
    assert device.outcome is not None
    assert device.outcome.outcome == "left-out"


def test_a_sum_of_fewer_survivors_than_the_owner_asks_for_gets_no_signature():
    fleet = fleet_at(Kind.MASKED, size=5, minimum=5, consent=Consent(sources=ANYTHING.sources, minimum_cohort=5))
    fleet.devices[4].dead = True
    fleet.pump()
    fleet.tick(PHASE_S + 1)
    fleet.pump()
    assert {reason for kind, reason in fleet.refused if kind == "survivors"} == {"cohort-too-small"}
    assert not any(Kind.SURVIVOR in device.outbox for device in fleet.devices)


def test_survivors_before_the_vector_is_uploaded_are_left_unanswered():
    fleet = fleet_at(Kind.MASKED)
    device = fleet.devices[0]
    body = Survivors(context=device.machine._context, survivors=(0, 1, 2), vectors=(bytes(32),) * 3)
    assert device.machine.survivors(body, now=fleet.now) == []


# --- UNMASK-REQUEST


def test_unmasking_takes_a_threshold_of_valid_signatures_over_the_set_that_was_signed():
    fleet = fleet_at(Kind.UNMASK, size=5)
    device = next(d for d in fleet.devices if Kind.SURVIVOR in d.outbox)
    body = question(fleet, device)
    assert isinstance(body, UnmaskRequest)
    first, *rest = body.signatures
    seats, vectors = device.machine._survivors or ((), ())
    stranger = fleet.by_name[fleet.coordinator._seatings[0].entries[first.seat].device]
    other_set = survivors_statement(body.context, seats[:-1], vectors[:-1])
    over_another_set = SignedBy(first.seat, sign_raw(stranger.key, other_set))
    for signatures, reason in (
        (tuple(rest), "below-threshold"),
        ((first,) * len(body.signatures), "below-threshold"),  # one signature, told as many
        ((*rest, SignedBy(100, first.signature)), "below-threshold"),  # of nobody
        ((*rest, SignedBy(first.seat, bytes(64))), "bad-signature"),
        ((*rest, SignedBy(first.seat, rest[0].signature)), "bad-signature"),  # of somebody else
        ((*rest, over_another_set), "bad-signature"),
    ):
        assert refusal(fleet, device, Down.UNMASK_REQUEST, replace(body, signatures=signatures)) == reason
        assert device.revealed == {}
    assert refusal(fleet, device, Down.UNMASK_REQUEST, replace(body, context=bytes(32))) == "wrong-context"
    assert fleet.tell(device, Down.UNMASK_REQUEST, encode(body)) is Kind.UNMASK
    assert len(device.revealed) == 5


def test_a_device_that_signed_nothing_unmasks_nothing():
    fleet = fleet_at(Kind.UNMASK, size=5)
    silent = next(d for d in fleet.devices if Kind.SURVIVOR not in d.outbox)
    body = next(send.body for send in fleet.downs if send.kind is Down.UNMASK_REQUEST)
    assert isinstance(body, UnmaskRequest)
    assert silent.machine.unmask(body, now=fleet.now) == []
    assert silent.revealed == {}


def test_unmasking_is_answered_once():
    fleet = fleet_at(Kind.UNMASK, size=5)
    device = next(d for d in fleet.devices if Kind.SURVIVOR in d.outbox)
    body = question(fleet, device)
    assert isinstance(body, UnmaskRequest)
    assert fleet.tell(device, Down.UNMASK_REQUEST, encode(body)) is Kind.UNMASK
    assert device.machine.unmask(body, now=fleet.now) == []


# --- ends and refusals


def test_a_device_gives_up_when_the_coordinator_stays_silent_in_any_state_after_ready():
    for phase in (Kind.READY, Kind.SHARES, Kind.MASKED, Kind.SURVIVOR, Kind.UNMASK):
        fleet = Fleet(4, dim=64)
        fleet.train()
        if phase is not Kind.READY:
            for device in fleet.devices:
                fleet.say(device, Kind.READY)
            fleet.pump(until=phase)
        device = fleet.devices[0]
        give_up_at = device.machine.give_up_at
        assert give_up_at is not None
        assert device.machine.tick(give_up_at - 0.001, admission="") == []
        effects = device.machine.tick(give_up_at, admission="")
        assert effects[-1] == Finished("timed-out", effects[-1].detail)  # type: ignore[union-attr]
        if phase in {Kind.READY, Kind.SHARES}:
            assert BurnPrekey(1) in effects  # ROUND was not taken: the prekey is burned all the same
        assert device.machine.give_up_at is None
        assert device.machine.tick(give_up_at + 1e9, admission="") == []


@pytest.mark.parametrize(
    ("steps", "reason", "detail"),
    [
        (0, Reason.MISSING_BLOB, "the model was not here by the deadline"),
        (1, Reason.NOT_ADMITTED, "the processor is busy"),
        (2, Reason.TRAINING_FAILED, "not done by the deadline: the processor is busy"),
    ],
)
def test_before_ready_the_offers_deadline_ends_the_round_and_the_coordinator_learns_why(steps, reason, detail):
    fleet = Fleet(2, dim=64)
    machine = fleet.devices[0].machine
    machine.start(now=5.0, unix_now=fleet.now)
    for step in (machine.fetched, machine.admitted)[:steps]:
        step()
    assert machine.give_up_at == 65.0
    assert machine.tick(64.9, admission="the processor is busy") == []
    said, finished = machine.tick(65.0, admission="the processor is busy")
    assert said == Say(Up.REFUSAL, Refusal("demo", 1, 0, str(reason), detail), final=False)
    assert finished == Finished(str(reason), detail)


def test_a_device_with_a_wrong_clock_waits_a_week_at_most():
    fleet = Fleet(2, dim=64)
    machine = fleet.devices[0].machine
    machine.start(now=5.0, unix_now=-1e9)
    assert machine.give_up_at == 5.0 + 7 * 86_400.0


def test_a_refusal_is_said_once_and_carries_nothing_that_steers_a_terminal():
    fleet = Fleet(2, dim=64)
    machine = fleet.devices[0].machine
    machine.start(now=0.0, unix_now=fleet.now)
    said, _ = machine.refuse(Reason.TRAINING_FAILED, "exit status 1:\n\x1b[31mTraceback\udcff" + "x" * 500)
    assert isinstance(said, Say)
    assert isinstance(said.body, Refusal)
    assert said.body.detail.startswith("exit status 1:  [31mTraceback xxx")
    assert len(said.body.detail) == 256
    encode(said.body)
    assert machine.refuse(Reason.NOT_ADMITTED, "again") == []


def test_offers_beyond_the_owners_consent_are_refused_at_once():
    for consent, reason in (
        (Consent(sources=frozenset()), Reason.NO_SUCH_SOURCE),
        (Consent(sources=ANYTHING.sources, minimum_cohort=3), Reason.COHORT_TOO_SMALL),
        (Consent(sources=ANYTHING.sources, allow_small_cohort=True, max_dim=63), Reason.UNSUPPORTED),
        (Consent(sources=ANYTHING.sources, allow_small_cohort=True, max_epochs=0), Reason.UNSUPPORTED),
    ):
        fleet = Fleet(2, dim=64, consent=consent)
        said, finished = fleet.devices[0].machine.start(now=0.0, unix_now=fleet.now)
        assert isinstance(said, Say)
        assert isinstance(finished, Finished)
        assert finished.outcome == reason
    assert isinstance(Fleet(2, dim=64).devices[0].machine.start(now=0.0, unix_now=0.0)[0], Fetch)


def test_a_graph_of_another_size_than_the_offer_says_burns_the_prekey_and_is_refused():
    fleet = Fleet(2, dim=64)
    device = fleet.devices[0]
    device.machine.start(now=0.0, unix_now=fleet.now)
    device.machine.fetched()
    device.machine.admitted()
    burn, said, finished = device.machine.trained(40, 65, device.prekeys[1], now=0.0, unix_now=fleet.now)
    assert burn == BurnPrekey(1)
    assert isinstance(said, Say)
    assert finished == Finished("training-failed", "the graph has 65 parameters, the offer says 64")


def test_a_prekey_taken_for_a_round_that_ended_meanwhile_is_burned():
    fleet = Fleet(2, dim=64)
    device = fleet.devices[0]
    device.machine.start(now=0.0, unix_now=fleet.now)
    device.machine.refuse(Reason.NOT_ADMITTED, "busy")
    assert device.machine.trained(40, 64, device.prekeys[1], now=0.0, unix_now=0.0) == [BurnPrekey(1)]


def test_events_out_of_order_before_ready_change_nothing():
    fleet = Fleet(2, dim=64)
    machine = fleet.devices[0].machine
    assert machine.fetched() == []
    assert machine.admitted() == []
    assert machine.masked(BlobRef(bytes(32), 1)) == []
    assert machine.tick(1e12, admission="") == []
    assert machine.state is State.IDLE


def test_the_worker_is_held_from_ready_on_and_may_be_frozen_before():
    fleet = Fleet(4, dim=64)
    machine = fleet.devices[0].machine
    machine.start(now=0.0, unix_now=fleet.now)
    machine.fetched()
    machine.admitted()
    assert machine.frozen_allowed
    hold, ready = machine.trained(40, 64, fleet.devices[0].prekeys[1], now=0.0, unix_now=fleet.now)
    assert hold == Hold()
    assert isinstance(ready, Say)
    assert not machine.frozen_allowed


@pytest.mark.parametrize(("samples", "weight"), [(0, 1), (1, 1), (10, 1), (11, 2), (160, 16), (10_000, 16)])
def test_the_weight_class_is_rounded_up_and_bounded(samples, weight):
    fleet = Fleet(2, dim=64)
    device = fleet.devices[0]
    device.samples = samples
    fleet.train(device)
    assert device.machine._expectation().weight == weight


def result(**changes: object) -> Result:
    body = Result("demo", 1, 0, included=True, weights=BlobRef(bytes(32), 256), participants=4)
    return replace(body, **changes)


def test_result_and_abort_end_the_round_and_those_of_another_are_refused():
    fleet = fleet_at(Kind.SHARES)
    one, other = fleet.devices[:2]
    for name, value in (("job", "other"), ("round", 2), ("attempt", 1)):
        for event in (
            lambda field=name, to=value: one.machine.result(result(**{field: to})),
            lambda field=name, to=value: one.machine.aborted(replace(Abort("demo", 1, 0, "cancelled"), **{field: to})),
        ):
            with pytest.raises(Exception, match="wrong-round"):
                event()
    assert one.machine.result(result()) == [BurnPrekey(1), Finished("included", result=result())]
    assert one.machine.result(result()) == []
    assert one.machine.aborted(Abort("demo", 1, 0, "cancelled")) == []
    assert other.machine.aborted(Abort("demo", 1, 0, "cancelled")) == [BurnPrekey(1), Finished("aborted", "cancelled")]


def test_a_device_that_was_not_included_says_so():
    fleet = fleet_at(Kind.SHARES)
    (_, finished) = fleet.devices[0].machine.result(result(included=False))
    assert isinstance(finished, Finished)
    assert finished.outcome == "not-included"


def test_the_coordinators_refusal_ends_the_round_unless_the_vector_was_taken_already():
    fleet = fleet_at(Kind.SHARES)
    device = fleet.devices[0]
    assert device.machine.refused_by_coordinator("prekeys", "equivocation") == []
    assert device.machine.refused_by_coordinator("unmask", "wrong-context") == []
    assert device.machine.refused_by_coordinator("survivor", "out-of-phase") == []
    assert device.machine.state is State.READY
    assert device.machine.refused_by_coordinator("ready", "cohort-full") == [
        BurnPrekey(1),
        Finished("refused", "ready: cohort-full"),
    ]


def test_mask_updates_carry_no_seed_into_their_text():
    fleet = fleet_at(Kind.MASKED)
    device = fleet.devices[0]
    body = question(fleet, device)
    assert isinstance(body, Inbound)
    (effect,) = device.machine.inbound(body, now=fleet.now)
    assert isinstance(effect, MaskUpdate)
    for seed in (effect.self_seed, effect.pairs[0][1]):
        assert repr(seed) not in repr(effect)
