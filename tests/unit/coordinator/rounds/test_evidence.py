"""What is published of a bucket is enough to sum it again, and nothing else gives that sum."""

import hashlib
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.unit.rounds.fleet import PHASE_S, Fleet

from fedge_coordinator.rounds.effects import RoundSummed
from fedge_coordinator.rounds.evidence import BucketEvidence, Revealed, evidence_of, recompute_total, totals_of
from fedge_coordinator.rounds.inputs import Kind
from fedge_protocol.cose import decode, encode
from fedge_protocol.errors import RefusedError
from fedge_protocol.secagg.errors import AuditMismatch, SecAggError

replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    """A summed bucket of six, one of which dropped out after it had shared."""
    fleet = Fleet(6, dim=64)
    fleet.train()
    for device in fleet.devices:
        fleet.say(device, Kind.READY)
    fleet.pump(until=Kind.MASKED)
    fleet.devices[2].dead = True
    fleet.pump()
    fleet.tick(PHASE_S + 1)
    fleet.settle()
    return fleet


def summed(fleet: Fleet) -> Any:
    assert isinstance(fleet.outcome, RoundSummed)
    return fleet.outcome.buckets[0]


def published(fleet: Fleet) -> BucketEvidence:
    return decode(evidence_of(summed(fleet), fleet.plan.offer.suite), BucketEvidence, max_bytes=1 << 22)


def test_anyone_gets_the_same_total_from_what_is_published(fleet):
    body, total = recompute_total(evidence_of(summed(fleet), 1), fleet.blobs.__getitem__)
    (ours,) = totals_of([summed(fleet)])
    np.testing.assert_array_equal(total.total, ours.total)
    assert (total.levels, total.weight_sum) == (ours.levels, ours.weight_sum)
    assert hashlib.sha256(encode(body)).digest() == fleet.coordinator._seatings[0].context
    survivors = [device for device in fleet.devices if not device.dead]
    assert total.weight_sum == sum(min(16, -(-device.samples // 10)) for device in survivors)


def test_it_reveals_one_secret_of_each_member_and_no_second(fleet):
    evidence = published(fleet)
    dead = fleet.coordinator._seat_of[fleet.devices[2].name][1]
    assert [revealed.seat for revealed in evidence.mask_keys] == [dead]
    assert sorted(revealed.seat for revealed in evidence.self_masks) == sorted(
        contributed.seat for contributed in evidence.contributed
    )
    assert dead not in {revealed.seat for revealed in evidence.self_masks}


def test_evidence_that_was_tampered_with_gives_no_total(fleet):
    evidence = published(fleet)
    first, *others = evidence.self_masks
    dropped = evidence.mask_keys[0]
    for forged in (
        replace(evidence, self_masks=(Revealed(first.seat, bytes(16)), *others)),
        replace(evidence, self_masks=tuple(others)),
        replace(evidence, mask_keys=(Revealed(dropped.seat, bytes(16)),)),
        replace(evidence, mask_keys=(*evidence.mask_keys, Revealed(first.seat, first.seed))),
        replace(evidence, contributed=evidence.contributed[:3], self_masks=evidence.self_masks[:3]),
        replace(evidence, round=replace(evidence.round, rotation_seed=bytes(32))),
        replace(evidence, round=replace(evidence.round, model_hash=bytes(32))),
    ):
        with pytest.raises(SecAggError):
            recompute_total(encode(forged), fleet.blobs.__getitem__)


def test_a_vector_left_out_is_noticed_or_changes_the_total(fleet):
    evidence = published(fleet)
    honest = recompute_total(encode(evidence), fleet.blobs.__getitem__)[1].total
    fewer = replace(evidence, contributed=evidence.contributed[1:], self_masks=evidence.self_masks[1:])
    try:
        changed = recompute_total(encode(fewer), fleet.blobs.__getitem__)[1].total
    except AuditMismatch:
        return
    assert not np.array_equal(changed, honest)


def test_bytes_that_are_no_evidence_are_refused():
    for content in (b"", b"\x80", b"\xff" * 100):
        with pytest.raises(RefusedError):
            recompute_total(content, lambda _: b"")
