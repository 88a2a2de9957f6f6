"""What the coordinator refuses in each phase: always by name, and without a trace in the journal."""

import hashlib
import os
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.protocol.strategies import values_of
from tests.unit.rounds.fleet import PHASE_S, Device, Fleet

from fedge_coordinator.rounds.effects import BurnPrekeys, RoundAborted, RoundSummed, Send
from fedge_coordinator.rounds.inputs import Entry, Input, Kind
from fedge_coordinator.rounds.machine import Verdict
from fedge_protocol.cose import decode, encode, sign_raw
from fedge_protocol.eip712 import Domain, Receipt, job_id
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import (
    BlobRef,
    Body,
    Down,
    Masked,
    Ready,
    Refusal,
    Round,
    Shares,
    Survivor,
    Survivors,
    Unmask,
    UnmaskAnswer,
    UnmaskShares,
    survivors_statement,
)
from fedge_protocol.receipts import sign_receipt
from fedge_protocol.sealing import seal, unseal
from fedge_protocol.secp256k1 import ChainKey

replace = msgspec.structs.replace


def fleet_at(phase: Kind, size: int = 4, **options: Any) -> Fleet:
    """A fleet whose coordinator waits for `phase`."""
    fleet = Fleet(size, dim=64, **options)
    fleet.train()
    if phase is not Kind.READY:
        for device in fleet.devices:
            fleet.say(device, Kind.READY)
        fleet.pump(until=phase)
    return fleet


def refused(fleet: Fleet, device: Device, kind: Kind, body: Body) -> str:
    """The reason for which a body is refused; that it left no trace is checked here."""
    journal, phase, count = len(fleet.journal), fleet.coordinator.phase, len(fleet.refused)
    assert fleet.feed(kind, device.name, encode(body)) is None
    assert (len(fleet.journal), fleet.coordinator.phase) == (journal, phase)
    assert len(fleet.refused) == count + 1
    return fleet.refused[-1][1]


# --- READY and REFUSAL


def entry_of(device: Device, **changes: Any) -> Entry:
    ready = decode(device.outbox[Kind.READY], Ready)
    plain = Entry(device.name, ready, device.statement(ready.prekey_id), device.certificate, device.chain.address)
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"job": "other"}, "wrong-round"),
        ({"round": 2}, "wrong-round"),
        ({"attempt": 1}, "wrong-round"),
        ({"versions": (2, 3)}, "unsupported"),
        ({"versions": (0, 0)}, "unsupported"),
        ({"weight": 17}, "bad-weight"),
    ],
)
def test_a_ready_that_does_not_fit_the_offer_is_refused(changes, reason):
    fleet = fleet_at(Kind.READY)
    entry = entry_of(fleet.devices[0])
    assert refused(fleet, fleet.devices[0], Kind.READY, replace(entry, ready=replace(entry.ready, **changes))) == reason


def test_a_second_different_ready_is_equivocation_and_the_same_one_a_repetition():
    fleet = fleet_at(Kind.READY)
    device = fleet.devices[0]
    assert fleet.say(device, Kind.READY) is Verdict.ACCEPTED
    assert fleet.say(device, Kind.READY) is Verdict.REPEATED
    entry = entry_of(device)
    other = replace(entry, ready=replace(entry.ready, nonce=os.urandom(16)))
    assert refused(fleet, device, Kind.READY, other) == "equivocation"


def test_a_key_that_stands_in_two_places_is_refused_before_it_costs_the_others_their_round():
    fleet = fleet_at(Kind.READY)
    one, other = fleet.devices[:2]
    assert fleet.say(one, Kind.READY) is Verdict.ACCEPTED
    theirs, mine = one.statement(1), other.statement(1)
    for stolen in (
        replace(mine, mask_public=theirs.mask_public),
        replace(mine, channel_public=theirs.channel_public),
        replace(mine, channel_public=theirs.mask_public),
        replace(mine, channel_public=mine.mask_public),
    ):
        assert refused(fleet, other, Kind.READY, entry_of(other, prekey=stolen)) == "used-prekey"
    assert fleet.say(other, Kind.READY) is Verdict.ACCEPTED


def test_after_the_cohort_is_full_nobody_else_comes_in():
    fleet = fleet_at(Kind.READY, size=4, target=3, minimum=2)
    for device in fleet.devices[:3]:
        fleet.say(device, Kind.READY)
    assert fleet.coordinator.closed
    assert refused(fleet, fleet.devices[3], Kind.READY, entry_of(fleet.devices[3])) == "out-of-phase"


def test_a_refusal_counts_once_and_only_for_its_own_round():
    fleet = fleet_at(Kind.READY)
    device = fleet.devices[0]
    refusal = Refusal("demo", 1, 0, "not-admitted", "busy")
    for changes in ({"round": 0}, {"attempt": 1}, {"job": "other"}):
        assert refused(fleet, device, Kind.REFUSAL, replace(refusal, **changes)) == "wrong-round"
    assert fleet.coordinator.ready.refusals == {}
    assert fleet.feed(Kind.REFUSAL, device.name, encode(refusal)) is Verdict.ACCEPTED
    journal = len(fleet.journal)
    for detail in ("busy", "still busy"):
        again = replace(refusal, detail=detail)
        assert fleet.feed(Kind.REFUSAL, device.name, encode(again)) is Verdict.REPEATED
    assert len(fleet.journal) == journal
    assert fleet.coordinator.ready.refusals == {device.name: refusal}


def test_a_device_that_is_ready_does_not_refuse_any_more():
    fleet = fleet_at(Kind.READY)
    device = fleet.devices[0]
    fleet.say(device, Kind.READY)
    refusal = Refusal("demo", 1, 0, "not-admitted", "busy")
    assert fleet.feed(Kind.REFUSAL, device.name, encode(refusal)) is Verdict.REPEATED
    assert fleet.coordinator.ready.refusals == {}


def test_closing_burns_every_prekey_before_the_first_round_is_sent():
    fleet = fleet_at(Kind.READY)
    for device in fleet.devices[:-1]:
        fleet.say(device, Kind.READY)
    entry = Input(fleet.now_ms, Kind.READY, fleet.devices[-1].name, encode(entry_of(fleet.devices[-1])))
    _, effects = fleet.coordinator.apply(entry)
    assert effects[0] == BurnPrekeys(tuple((name, 1) for name in sorted(fleet.by_name)))
    assert [effect.kind for effect in effects[1:] if isinstance(effect, Send)] == [Down.ROUND] * 4


# --- SHARES


def test_shares_that_cannot_be_passed_on_are_refused():
    fleet = fleet_at(Kind.SHARES)
    device = fleet.devices[0]
    round_ = next(send.body for send in fleet.downs if send.device == device.name)
    fleet.tell(device, Down.ROUND, encode(round_))
    shares = decode(device.outbox[Kind.SHARES], Shares)
    for changes, reason in (
        ({"context": bytes(32)}, "wrong-context"),
        ({"sealed": shares.sealed[:-1]}, "malformed"),
        ({"sealed": (*shares.sealed, shares.sealed[0])}, "malformed"),
        ({"sealed": (bytes(55), *shares.sealed[1:])}, "bad-share"),
        ({"sealed": (bytes(57), *shares.sealed[1:])}, "bad-share"),
    ):
        assert refused(fleet, device, Kind.SHARES, replace(shares, **changes)) == reason
    assert fleet.say(device, Kind.SHARES) is Verdict.ACCEPTED


# --- MASKED


def manifest(fleet: Fleet, device: Device) -> Masked:
    inbound = next(send.body for send in fleet.downs if send.device == device.name)
    fleet.tell(device, Down.INBOUND, encode(inbound))
    return decode(device.outbox[Kind.MASKED], Masked)


def receipt_by(key: ChainKey, fleet: Fleet, body: Masked, **changes: Any) -> bytes:
    receipt = Receipt(job_id("test", "demo"), 1, 0, body.context, body.vector.sha256)
    fields = {name: getattr(receipt, name) for name in ("job_id", "round", "attempt", "bucket_root", "update_hash")}
    return sign_receipt(key, Domain(0, bytes(20)), Receipt(**fields | changes))


def test_a_vector_of_another_size_or_with_a_wrong_receipt_is_refused():
    fleet = fleet_at(Kind.MASKED)
    device, other = fleet.devices[:2]
    body = manifest(fleet, device)
    for forged, reason in (
        (replace(body, context=bytes(32)), "wrong-context"),
        (replace(body, vector=BlobRef(body.vector.sha256, 126)), "bad-update"),
        (replace(body, vector=BlobRef(body.vector.sha256, 256)), "bad-update"),
        (replace(body, receipt=bytes(65)), "bad-receipt"),
        (replace(body, receipt=b"\xff" * 65), "bad-receipt"),
        (replace(body, receipt=receipt_by(other.chain, fleet, body)), "bad-receipt"),
        (replace(body, receipt=receipt_by(device.chain, fleet, body, attempt=1)), "bad-receipt"),
        (replace(body, receipt=receipt_by(device.chain, fleet, body, round=2)), "bad-receipt"),
        (replace(body, vector=BlobRef(bytes(32), body.vector.size)), "bad-receipt"),
    ):
        assert refused(fleet, device, Kind.MASKED, forged) == reason
    assert fleet.say(device, Kind.MASKED) is Verdict.ACCEPTED


def test_a_vector_without_shares_is_out_of_phase():
    fleet = fleet_at(Kind.SHARES)
    late = fleet.devices[0]
    late.dead = True
    fleet.pump()
    fleet.tick(PHASE_S + 1)
    assert fleet.coordinator.phase == Kind.MASKED
    context = fleet.coordinator._seatings[0].context
    body = Masked(context, BlobRef(bytes(32), 128), bytes(65))
    assert refused(fleet, late, Kind.MASKED, body) == "out-of-phase"


def test_a_sum_below_the_jobs_privacy_floor_is_never_taken():
    fleet = fleet_at(Kind.MASKED, size=5, floor=5)
    fleet.devices[0].dead = True
    fleet.pump()
    fleet.tick(PHASE_S + 1)
    assert fleet.outcome == RoundAborted("below-privacy-floor", tuple(sorted(fleet.by_name)))


# --- SURVIVOR


def test_a_signature_over_another_set_or_by_another_device_is_refused():
    fleet = fleet_at(Kind.SURVIVOR)
    device, other = fleet.devices[:2]
    question = next(send.body for send in fleet.downs if send.device == device.name)
    assert isinstance(question, Survivors)
    fewer = survivors_statement(question.context, question.survivors[:-1], question.vectors[:-1])
    right = survivors_statement(question.context, question.survivors, question.vectors)
    for forged, reason in (
        (Survivor(question.context, sign_raw(device.key, fewer)), "bad-signature"),
        (Survivor(question.context, sign_raw(other.key, right)), "bad-signature"),
        (Survivor(question.context, bytes(64)), "bad-signature"),
        (Survivor(bytes(32), sign_raw(device.key, right)), "wrong-context"),
    ):
        assert refused(fleet, device, Kind.SURVIVOR, forged) == reason


def test_a_device_without_a_vector_signs_nothing_for_the_others():
    fleet = fleet_at(Kind.MASKED, size=5)
    gone = fleet.devices[0]
    gone.dead = True
    fleet.pump()
    fleet.tick(PHASE_S + 1)
    fleet.pump(until=Kind.SURVIVOR)
    question = next(send.body for send in fleet.downs if isinstance(send.body, Survivors))
    statement = survivors_statement(question.context, question.survivors, question.vectors)
    body = Survivor(question.context, sign_raw(gone.key, statement))
    assert refused(fleet, gone, Kind.SURVIVOR, body) == "out-of-phase"


def test_signatures_beyond_the_threshold_are_not_needed_and_not_journalled():
    fleet = fleet_at(Kind.UNMASK, size=6)
    journal = len(fleet.journal)
    late = next(d for d in fleet.devices if Kind.SURVIVOR not in fleet_answers(fleet, d))
    question = next(s.body for s in fleet.downs if s.device == late.name and s.kind is Down.SURVIVORS)
    fleet.tell(late, Down.SURVIVORS, encode(question))
    assert fleet.say(late, Kind.SURVIVOR) is Verdict.NOT_NEEDED
    assert len(fleet.journal) == journal


def fleet_answers(fleet: Fleet, device: Device) -> set[Kind]:
    return {entry.kind for entry in fleet.journal if entry.device == device.name}


# --- UNMASK


def unmasking(fleet: Fleet, device: Device) -> tuple[Unmask, UnmaskShares]:
    """What a device answers to UNMASK-REQUEST, sealed and open."""
    for send in list(fleet.downs):
        if send.device == device.name:
            fleet.tell(device, send.kind, encode(send.body))
    body = decode(device.outbox[Kind.UNMASK], Unmask)
    return body, decode(unseal(fleet.plan.seal_private, body.sealed, body.context), UnmaskShares)


def sealed(fleet: Fleet, body: Unmask, answers: tuple[UnmaskAnswer, ...]) -> Unmask:
    plain = encode(UnmaskShares(answers))
    return replace(body, sealed=seal(fleet.plan.offer.seal_key, plain, body.context))


def test_answers_that_are_not_exactly_what_was_asked_are_refused():
    fleet = fleet_at(Kind.MASKED, size=5)
    fleet.devices[4].dead = True
    fleet.pump()
    fleet.tick(PHASE_S + 1)
    fleet.pump(until=Kind.UNMASK)
    device = fleet.devices[0]
    body, open_ = unmasking(fleet, device)
    first, *rest = open_.answers
    both = UnmaskAnswer(first.seat, not first.of_mask_key, first.share)
    for forged, reason in (
        (replace(body, context=bytes(32)), "wrong-context"),
        (replace(body, sealed=bytes(100)), "malformed"),
        (replace(body, sealed=seal(fleet.plan.offer.seal_key, b"\xff", body.context)), "malformed"),
        (replace(body, sealed=seal(fleet.plan.offer.seal_key, encode(open_), bytes(32))), "malformed"),
        (sealed(fleet, body, tuple(rest)), "malformed"),
        (sealed(fleet, body, (first, first, *rest)), "malformed"),
        (sealed(fleet, body, (first, both, *rest)), "malformed"),
        (sealed(fleet, body, open_.answers[::-1]), "malformed"),
        (sealed(fleet, body, (both, *rest)), "bad-share"),
    ):
        assert refused(fleet, device, Kind.UNMASK, forged) == reason


def test_a_member_that_gives_wrong_shares_does_not_spoil_the_sum():
    fleet = fleet_at(Kind.UNMASK, size=6)
    liar = fleet.devices[0]
    body, open_ = unmasking(fleet, liar)
    lies = tuple(replace(answer, share=bytes(19) + b"\x01") for answer in open_.answers)
    assert fleet.feed(Kind.UNMASK, liar.name, encode(sealed(fleet, body, lies))) is Verdict.ACCEPTED
    liar.dead = True
    fleet.settle()
    assert isinstance(fleet.outcome, RoundSummed)
    (bucket,) = fleet.outcome.buckets
    assert (bucket.total == fleet.expected_sum(fleet.devices)).all()


def test_when_nothing_can_be_recovered_the_bucket_is_aborted_by_name():
    fleet = fleet_at(Kind.UNMASK, size=4)
    for device in fleet.devices:
        body, open_ = unmasking(fleet, device)
        lies = tuple(replace(answer, share=bytes([7] * 16 + [0] * 4)) for answer in open_.answers)
        fleet.feed(Kind.UNMASK, device.name, encode(sealed(fleet, body, lies)))
    fleet.tick(PHASE_S + 1)
    assert isinstance(fleet.outcome, RoundAborted)
    assert fleet.outcome.reason in {"unrecoverable", "toofewsurvivors"}


def test_after_the_sum_what_still_comes_is_not_needed():
    fleet = fleet_at(Kind.UNMASK, size=6)
    fleet.pump()
    assert isinstance(fleet.outcome, RoundSummed)
    late = next(d for d in fleet.devices if Kind.UNMASK not in fleet_answers(fleet, d))
    for kind in (Kind.SURVIVOR, Kind.UNMASK):
        if kind not in fleet_answers(fleet, late):
            assert fleet.feed(kind, late.name, b"\x80") is Verdict.NOT_NEEDED
    assert fleet.feed(Kind.MASKED, late.name, late.outbox[Kind.MASKED]) is Verdict.REPEATED


# --- time


def test_nobody_is_late_for_the_time_in_which_the_coordinator_was_away():
    fleet = fleet_at(Kind.MASKED)
    deadline = fleet.coordinator.deadline_ms
    assert deadline is not None
    fleet.now_ms = deadline + 3_600_000
    fleet.restart()
    fleet.feed(Kind.TICK)
    assert fleet.coordinator.phase == Kind.MASKED
    assert fleet.coordinator.deadline_ms == fleet.now_ms + PHASE_S * 1000
    fleet.settle()
    assert isinstance(fleet.outcome, RoundSummed)


def test_a_tick_before_the_deadline_changes_nothing():
    for phase in (Kind.READY, Kind.SHARES, Kind.MASKED, Kind.SURVIVOR, Kind.UNMASK):
        fleet = fleet_at(phase)
        before = fleet.coordinator.deadline_ms
        fleet.feed(Kind.TICK)
        assert (fleet.coordinator.phase, fleet.coordinator.deadline_ms) == (phase, before)


def test_every_phase_has_somebody_to_ask_until_all_have_answered():
    expected = {
        Kind.SHARES: Down.ROUND,
        Kind.MASKED: Down.INBOUND,
        Kind.SURVIVOR: Down.SURVIVORS,
        Kind.UNMASK: Down.UNMASK_REQUEST,
    }
    for phase, kind in expected.items():
        fleet = fleet_at(phase)
        asked = {send.device for send in fleet.coordinator.outstanding() if send.kind is kind}
        assert asked == set(fleet.by_name)
    fleet.pump()
    assert list(fleet.coordinator.outstanding()) == []
    assert fleet.coordinator.phase == "ended"
    assert fleet.coordinator.deadline_ms is None


# --- anything at all

BODIES: dict[Kind, type[Body]] = {
    Kind.READY: Entry,
    Kind.SHARES: Shares,
    Kind.MASKED: Masked,
    Kind.SURVIVOR: Survivor,
    Kind.UNMASK: Unmask,
    Kind.REFUSAL: Refusal,
}


@pytest.fixture(scope="module", params=[Kind.READY, Kind.SHARES, Kind.MASKED, Kind.SURVIVOR, Kind.UNMASK])
def waiting(request: pytest.FixtureRequest) -> Fleet:
    return fleet_at(request.param, size=4, target=9) if request.param is Kind.READY else fleet_at(request.param)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(list(BODIES)), st.data())
def test_whatever_a_member_sends_is_refused_by_name_or_taken_and_never_an_error(waiting, kind, data):
    body = data.draw(st.binary(max_size=200) | values_of(BODIES[kind]).map(encode))
    device = data.draw(st.sampled_from(waiting.devices)).name
    try:
        waiting.coordinator.apply(Input(waiting.now_ms, kind, device, body))
    except RefusedError as error:
        assert error.reason in Reason  # noqa: PT017 - either outcome is right, no other is


def test_the_round_body_is_the_same_for_every_member_and_names_its_bucket():
    fleet = fleet_at(Kind.SHARES)
    bodies = {encode(send.body) for send in fleet.downs}
    assert len(bodies) == 1
    (content,) = bodies
    assert fleet.coordinator.speaks_of(hashlib.sha256(content).digest())
    assert not fleet.coordinator.speaks_of(bytes(32))
    assert decode(content, Round).bucket == 0
