import itertools

import numpy as np
import pytest
from tests.unit.rounds.fleet import Fleet

from fedge_coordinator.rounds.effects import RoundAborted, RoundSummed
from fedge_coordinator.rounds.inputs import Kind
from fedge_coordinator.rounds.machine import Verdict


def ready(fleet, *devices):
    fleet.train(*devices)
    for device in devices or fleet.devices:
        assert fleet.say(device, Kind.READY) is Verdict.ACCEPTED


def check_sum(fleet, dropped=()):
    assert isinstance(fleet.outcome, RoundSummed)
    (bucket,) = fleet.outcome.buckets
    survivors = [d for d in fleet.devices if d.name not in {x.name for x in dropped}]
    assert {c.entry.device for c in bucket.contributions} == {d.name for d in survivors}
    assert set(bucket.dropped) == {d.name for d in dropped}
    np.testing.assert_array_equal(bucket.total, fleet.expected_sum(survivors))


def test_the_sum_equals_the_sum_of_the_quantised_updates_exactly():
    fleet = Fleet(8)
    ready(fleet)
    fleet.pump()
    check_sum(fleet)
    assert fleet.refused == []
    assert all(device.burned == [1] for device in fleet.devices)


@pytest.mark.parametrize("phase", [Kind.SHARES, Kind.MASKED, Kind.SURVIVOR, Kind.UNMASK])
def test_a_device_that_dies_in_any_phase_is_recovered_from(phase):
    fleet = Fleet(8)
    ready(fleet)
    fleet.pump(until=phase)
    victim = fleet.devices[3]
    victim.dead = True
    for _ in range(6):
        fleet.pump()
        if fleet.outcome is not None:
            break
        fleet.tick(11)
        fleet.resend()
    dropped = [victim] if phase in {Kind.SHARES, Kind.MASKED} else []
    check_sum(fleet, dropped)


def test_a_bucket_below_its_threshold_is_aborted_and_nothing_is_revealed():
    fleet = Fleet(8)
    ready(fleet)
    fleet.pump(until=Kind.MASKED)
    for device in fleet.devices[:3]:
        device.dead = True
    fleet.pump()
    fleet.tick(11)
    assert fleet.outcome == RoundAborted("too-few-vectors", tuple(sorted(fleet.by_name)))


def test_a_coordinator_killed_between_any_two_messages_completes_the_same_round():
    steps = count_inputs()
    for kill_after in range(1, steps):
        fleet = Fleet(4)
        fleet.train()
        feed, seen = fleet.feed, itertools.count(1)

        def counting(*args, _feed=feed, _seen=seen, _fleet=fleet, _at=kill_after, **kwargs):
            verdict = _feed(*args, **kwargs)
            if next(_seen) == _at:
                _fleet.feed = _feed
                _fleet.restart()
            return verdict

        fleet.feed = counting  # type: ignore[method-assign]  # the coordinator dies after the n-th input
        for device in fleet.devices:
            fleet.say(device, Kind.READY)
        for device in fleet.devices:
            fleet.say(device, Kind.READY)
        for _ in range(4):
            fleet.pump()
            fleet.resend()
        check_sum(fleet)


def count_inputs():
    fleet = Fleet(4)
    ready(fleet)
    fleet.pump()
    return len(fleet.journal)


def test_repeated_messages_change_nothing_and_are_acknowledged():
    fleet = Fleet(4)
    ready(fleet)
    assert fleet.say(fleet.devices[0], Kind.READY) is Verdict.REPEATED
    fleet.pump(until=Kind.MASKED)
    before = len(fleet.journal)
    for device in fleet.devices:
        assert fleet.say(device, Kind.SHARES) is Verdict.REPEATED
    assert len(fleet.journal) == before


def test_messages_out_of_phase_are_refused_by_name():
    fleet = Fleet(4)
    ready(fleet)
    fleet.pump(until=Kind.MASKED)
    device = fleet.devices[0]
    assert fleet.feed(Kind.UNMASK, device.name, b"\x80") is None
    assert fleet.feed(Kind.MASKED, "f" * 32, b"\x80") is None
    assert fleet.refused == [("unmask", "out-of-phase"), ("masked", "not-in-cohort")]


def test_a_second_different_message_is_equivocation():
    fleet = Fleet(4)
    ready(fleet)
    fleet.pump(until=Kind.MASKED)
    altered = bytearray(fleet.devices[0].outbox[Kind.SHARES])
    altered[40] ^= 1
    assert fleet.feed(Kind.SHARES, fleet.devices[0].name, bytes(altered)) is None
    assert fleet.refused[-1] == ("shares", "equivocation")


def test_too_few_ready_devices_end_the_round_at_its_deadline():
    fleet = Fleet(4, target=8, minimum=5)
    ready(fleet)
    fleet.tick(59)
    assert fleet.outcome is None
    fleet.tick(2)
    assert fleet.outcome == RoundAborted("too-few-ready", tuple(sorted(fleet.by_name)))


def test_the_cohort_may_close_before_its_deadline_once_it_has_enough():
    fleet = Fleet(4, target=8, minimum=3)
    fleet.train()
    assert fleet.say(fleet.devices[0], Kind.READY) is Verdict.ACCEPTED
    assert fleet.feed(Kind.CLOSE) is None
    for device in fleet.devices[1:]:
        fleet.say(device, Kind.READY)
    assert fleet.feed(Kind.CLOSE) is Verdict.ACCEPTED
    fleet.pump()
    check_sum(fleet)


def test_buckets_are_summed_one_by_one_when_the_cohort_is_large():
    fleet = Fleet(66, dim=64)
    ready(fleet)
    fleet.pump()
    assert isinstance(fleet.outcome, RoundSummed)
    assert len(fleet.outcome.buckets) == 2
    for bucket in fleet.outcome.buckets:
        members = [fleet.by_name[c.entry.device] for c in bucket.contributions]
        np.testing.assert_array_equal(bucket.total, fleet.expected_sum(members))
