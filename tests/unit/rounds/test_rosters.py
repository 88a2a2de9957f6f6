"""A ROUND as a coordinator would have to forge it, shown to a device that checks everything it can."""

import hashlib
import os
from collections.abc import Callable

import msgspec
import pytest
from tests.unit.rounds.fleet import ANYTHING, Fleet

from fedge_agent.federation.consent import Consent
from fedge_coordinator.rounds.inputs import Kind
from fedge_protocol.cose import encode
from fedge_protocol.messages import Down, Entrant, Round, Seat
from fedge_protocol.secagg.buckets import assign
from fedge_protocol.secagg.prekeys import generate

Forge = Callable[[Fleet, Round], Round]
replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    """All READY, ROUND not yet heard; a refused ROUND leaves a device as it was, so one fleet serves every forgery."""
    fleet = Fleet(5, dim=64)
    fleet.train()
    for device in fleet.devices:
        fleet.say(device, Kind.READY)
    return fleet


def honest(fleet: Fleet) -> Round:
    body = fleet.downs[0].body
    assert isinstance(body, Round)
    return body


def with_seat(body: Round, index: int, **changes: object) -> Round:
    seats = list(body.seats)
    seats[index] = replace(seats[index], **changes)
    return replace(body, seats=tuple(seats))


def own_index(fleet: Fleet, body: Round) -> int:
    return [seat.device for seat in body.seats].index(fleet.devices[0].name)


def other_index(fleet: Fleet, body: Round) -> int:
    return (own_index(fleet, body) + 1) % len(body.seats)


def another_prekey(fleet: Fleet, body: Round) -> Round:
    """Keys of the coordinator in a peer's seat, under the peer's old signature."""
    index, (mine,) = other_index(fleet, body), generate(1, 1)
    prekey = replace(body.seats[index].prekey, mask_public=mine.mask_public)
    return with_seat(body, index, prekey=prekey)


def another_channel_key(fleet: Fleet, body: Round) -> Round:
    index, (mine,) = other_index(fleet, body), generate(1, 1)
    prekey = replace(body.seats[index].prekey, channel_public=mine.channel_public)
    return with_seat(body, index, prekey=prekey)


def own_prekey_of_another_round(fleet: Fleet, body: Round) -> Round:
    """A statement that this device really signed, but not the prekey it offered for this round."""
    return with_seat(body, own_index(fleet, body), prekey=fleet.devices[0].statement(2))


def own_weight_changed(fleet: Fleet, body: Round) -> Round:
    index = own_index(fleet, body)
    return with_seat(body, index, weight=body.seats[index].weight + 1)


def seat_of_another_certificate(fleet: Fleet, body: Round) -> Round:
    index = other_index(fleet, body)
    return with_seat(body, index, certificate=fleet.devices[0].certificate)


def seat_of_an_unknown_certificate(fleet: Fleet, body: Round) -> Round:
    return with_seat(body, other_index(fleet, body), certificate=bytes(100))


def prekey_of_another_member(fleet: Fleet, body: Round) -> Round:
    index = other_index(fleet, body)
    return with_seat(body, index, prekey=body.seats[own_index(fleet, body)].prekey)


def another_seed(fleet: Fleet, body: Round) -> Round:
    return replace(body, seed=os.urandom(32))


def another_bucket(fleet: Fleet, body: Round) -> Round:
    return replace(body, bucket=1)


def a_seat_less(fleet: Fleet, body: Round) -> Round:
    index = other_index(fleet, body)
    return replace(body, seats=body.seats[:index] + body.seats[index + 1 :])


def seats_in_another_order(fleet: Fleet, body: Round) -> Round:
    return replace(body, seats=body.seats[::-1])


def a_stranger_among_the_seats(fleet: Fleet, body: Round) -> Round:
    stranger = Fleet(2, dim=64).devices[0]
    seat = Seat(stranger.name, stranger.certificate, stranger.statement(1), 1)
    return replace(body, seats=tuple(sorted((*body.seats, seat), key=lambda seat: seat.device)))


def entrants_without_this_device(fleet: Fleet, body: Round) -> Round:
    name = fleet.devices[0].name
    return replace(body, entrants=tuple(entrant for entrant in body.entrants if entrant.device != name))


def another_nonce_for_this_device(fleet: Fleet, body: Round) -> Round:
    name = fleet.devices[0].name
    entrants = tuple(Entrant(e.device, bytes(16)) if e.device == name else e for e in body.entrants)
    return replace(body, entrants=entrants)


def an_entrant_twice(fleet: Fleet, body: Round) -> Round:
    return replace(body, entrants=(body.entrants[0], *body.entrants))


def entrants_in_another_order(fleet: Fleet, body: Round) -> Round:
    return replace(body, entrants=body.entrants[::-1])


def a_low_threshold(fleet: Fleet, body: Round) -> Round:
    return replace(body, threshold=body.threshold - 1)


def a_high_threshold(fleet: Fleet, body: Round) -> Round:
    return replace(body, threshold=body.threshold + 1)


def more_levels(fleet: Fleet, body: Round) -> Round:
    return replace(body, levels=body.levels + 1)


def another_range(fleet: Fleet, body: Round) -> Round:
    return replace(body, coordinate_range=body.coordinate_range * 2)


def another_model(fleet: Fleet, body: Round) -> Round:
    return replace(body, model_hash=hashlib.sha256(b"a model for this device alone").digest())


def another_offer(fleet: Fleet, body: Round) -> Round:
    return replace(body, offer_hash=bytes(32))


def another_round(fleet: Fleet, body: Round) -> Round:
    return replace(body, round=body.round + 1)


def another_attempt(fleet: Fleet, body: Round) -> Round:
    return replace(body, attempt=body.attempt + 1)


def another_job(fleet: Fleet, body: Round) -> Round:
    return replace(body, job="other")


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (another_prekey, "bad-signature"),
        (another_channel_key, "bad-signature"),
        (own_prekey_of_another_round, "wrong-context"),
        (own_weight_changed, "wrong-context"),
        (seat_of_another_certificate, "bad-signature"),
        (seat_of_an_unknown_certificate, "bad-signature"),
        (prekey_of_another_member, "bad-signature"),
        (another_seed, "wrong-context"),
        (another_bucket, "wrong-context"),
        (a_seat_less, "wrong-context"),
        (seats_in_another_order, "wrong-context"),
        (a_stranger_among_the_seats, "wrong-context"),
        (entrants_without_this_device, "not-in-cohort"),
        (another_nonce_for_this_device, "not-in-cohort"),
        (an_entrant_twice, "malformed"),
        (entrants_in_another_order, "malformed"),
        (a_low_threshold, "below-threshold"),
        (a_high_threshold, "below-threshold"),
        (more_levels, "below-threshold"),
        (another_range, "wrong-context"),
        (another_model, "wrong-context"),
        (another_offer, "wrong-context"),
        (another_round, "wrong-round"),
        (another_attempt, "wrong-round"),
        (another_job, "wrong-round"),
    ],
    ids=lambda value: value.__name__.replace("_", "-") if callable(value) else "",
)
def test_a_forged_round_is_refused_by_name_and_nothing_is_shared(fleet, forge: Forge, reason):
    device = fleet.devices[0]
    forged = forge(fleet, honest(fleet))
    assert forged != honest(fleet)
    assert fleet.tell(device, Down.ROUND, encode(forged)) is None
    assert fleet.refused[-1] == ("round", reason)
    assert Kind.SHARES not in device.outbox
    assert device.burned == []


def test_a_device_that_refused_forgeries_still_takes_the_honest_round():
    fleet = Fleet(5, dim=64)
    fleet.train()
    for device in fleet.devices:
        fleet.say(device, Kind.READY)
    body, device = honest(fleet), fleet.devices[0]
    assert fleet.tell(device, Down.ROUND, encode(another_model(fleet, body))) is None
    assert fleet.tell(device, Down.ROUND, encode(body)) is Kind.SHARES


def test_a_second_different_round_is_equivocation_and_the_same_one_changes_nothing(fleet):
    device, body = fleet.devices[1], honest(fleet)
    assert fleet.tell(device, Down.ROUND, encode(body)) is Kind.SHARES
    assert device.burned == [1]
    assert fleet.tell(device, Down.ROUND, encode(body)) is Kind.SHARES  # signed once, said again
    second = replace(body, rotation_seed=os.urandom(32))
    assert fleet.tell(device, Down.ROUND, encode(second)) is None
    assert fleet.refused[-1] == ("round", "equivocation")
    assert device.burned == [1]


def test_a_round_before_ready_is_out_of_phase(fleet):
    late = Fleet(2, dim=64)
    assert late.tell(late.devices[0], Down.ROUND, encode(honest(fleet))) is None
    assert late.refused == [("round", "out-of-phase")]


def test_fewer_entrants_than_the_offer_promised_are_refused():
    fleet = Fleet(6, dim=64, minimum=5, target=6)
    fleet.train()
    for device in fleet.devices:
        fleet.say(device, Kind.READY)
    body, device = honest(fleet), fleet.devices[0]
    kept = [entrant for entrant in body.entrants if entrant.device != fleet.devices[1].name][:4]
    if device.name not in {entrant.device for entrant in kept}:
        kept[0] = next(entrant for entrant in body.entrants if entrant.device == device.name)
    kept.sort(key=lambda entrant: entrant.device)
    (members,) = assign(body.seed, [(entrant.device, entrant.nonce) for entrant in kept])
    forged = replace(body, entrants=tuple(kept), seats=tuple(s for s in body.seats if s.device in members))
    assert fleet.tell(device, Down.ROUND, encode(forged)) is None
    assert fleet.refused[-1] == ("round", "cohort-too-small")


@pytest.fixture(scope="module")
def large() -> Fleet:
    """Two buckets, READY closed, ROUND not yet heard."""
    fleet = Fleet(66, dim=64)
    fleet.train()
    for device in fleet.devices:
        fleet.say(device, Kind.READY)
    return fleet


def buckets(fleet: Fleet) -> dict[int, Round]:
    return {send.body.bucket: send.body for send in fleet.downs if isinstance(send.body, Round)}


def test_in_a_large_cohort_every_device_knows_its_own_bucket(large):
    bodies = buckets(large)
    assert sorted(bodies) == [0, 1]
    members = {seat.device for seat in bodies[0].seats}
    insider = next(device for device in large.devices if device.name in members)
    outsider = next(device for device in large.devices if device.name not in members)
    assert large.tell(outsider, Down.ROUND, encode(bodies[0])) is None
    assert large.refused[-1] == ("round", "wrong-context")
    assert large.tell(insider, Down.ROUND, encode(replace(bodies[0], bucket=1))) is None
    assert large.refused[-1] == ("round", "wrong-context")
    assert large.tell(insider, Down.ROUND, encode(bodies[0])) is Kind.SHARES


def test_a_bucket_below_the_owners_floor_is_refused_however_large_the_cohort(large):
    body = buckets(large)[1]
    device = large.by_name[body.seats[0].device]
    device.machine._consent = Consent(sources=ANYTHING.sources, minimum_cohort=50)
    assert large.tell(device, Down.ROUND, encode(body)) is None
    assert large.refused[-1] == ("round", "cohort-too-small")
    assert device.burned == []
