"""Whatever a network does to messages, and whoever dies when: the exact sum of the survivors, or none."""

import dataclasses

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.rounds.fleet import PHASE_S, Device, Fleet

from fedge_coordinator.rounds.effects import RoundAborted, RoundSummed
from fedge_coordinator.rounds.inputs import Kind

steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["down"] * 14
            + ["up"] * 14
            + ["repeat down", "repeat up", "lose down", "lose up", "resend", "tick", "deadline", "die", "restart"]
        ),
        st.integers(0, 2**16),
    ),
    min_size=60,
    max_size=200,
)


@dataclasses.dataclass
class Network:
    """Carries out a schedule: each step names what happens and, by a number, to which message or device."""

    fleet: Fleet

    def step(self, what: str, number: int) -> None:
        fleet = self.fleet
        queue = fleet.downs if what.endswith("down") else fleet.ups
        if what in {"resend", "tick", "deadline", "die", "restart"}:
            self.happens(what, number)
        elif queue:
            where = number % len(queue)
            message = queue[where]
            if not what.startswith("repeat"):
                del queue[where]
            if what.startswith("lose"):
                return
            if isinstance(message, tuple):
                self.say(*message)
            else:
                fleet.hear(message)

    def say(self, device: Device, kind: Kind) -> None:
        if not device.dead:
            self.fleet.say(device, kind)

    def happens(self, what: str, number: int) -> None:
        fleet = self.fleet
        match what:
            case "resend":
                fleet.resend()
            case "tick":
                fleet.tick(1)
            case "deadline" if number % 8 == 0:
                fleet.tick(PHASE_S + 1)
            case "die" if number % 8 == 0:
                fleet.devices[number // 8 % len(fleet.devices)].dead = True
            case "restart":
                fleet.restart()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(size=st.integers(3, 7), seed=st.integers(0, 1000), schedule=steps)
def test_any_schedule_ends_in_the_exact_sum_of_its_survivors_or_in_nothing(size, seed, schedule):
    fleet = Fleet(size, dim=64, seed=seed)
    fleet.train()
    fleet.ups.extend((device, Kind.READY) for device in fleet.devices)
    network = Network(fleet)
    for what, number in schedule:
        if fleet.outcome is not None:
            break
        network.step(what, number)
    fleet.settle()

    outcome = fleet.outcome
    assert isinstance(outcome, RoundSummed | RoundAborted)
    if isinstance(outcome, RoundSummed):
        (bucket,) = outcome.buckets
        survivors = [fleet.by_name[contribution.entry.device] for contribution in bucket.contributions]
        assert len(survivors) >= fleet.coordinator._seatings[0].params.threshold
        np.testing.assert_array_equal(bucket.total, fleet.expected_sum(survivors))
        assert {d.name for d in survivors}.isdisjoint(bucket.dropped)
    # A device never gives shares of both secrets of one peer, whatever it was asked. (The fleet's own assertion: it
    # never signs two bodies of one kind either.)
    assert all(len(kinds) == 1 for device in fleet.devices for kinds in device.revealed.values())
    assert type(fleet.replay().ended) is type(outcome)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    size=st.integers(4, 7),
    deaths=st.lists(st.tuples(st.integers(0, 6), st.sampled_from([*Kind])), max_size=2),
)
def test_up_to_the_tolerated_number_of_deaths_the_round_completes(size, deaths):
    fleet = Fleet(size, dim=64)
    fleet.train()
    for device in fleet.devices:
        fleet.say(device, Kind.READY)
    tolerated = fleet.coordinator._seatings[0].params.tolerated_drops
    doomed = {number % size: phase for number, phase in deaths[:tolerated]}
    for phase in (Kind.SHARES, Kind.MASKED, Kind.SURVIVOR, Kind.UNMASK):
        fleet.pump(until=phase)
        for number, when in doomed.items():
            if when is phase:
                fleet.devices[number].dead = True
        if fleet.coordinator.phase == phase and any(device.dead for device in fleet.devices):
            fleet.pump()
            if fleet.outcome is None and fleet.coordinator.phase == phase:
                fleet.tick(PHASE_S + 1)
    fleet.settle()
    assert isinstance(fleet.outcome, RoundSummed)
    (bucket,) = fleet.outcome.buckets
    survivors = [fleet.by_name[contribution.entry.device] for contribution in bucket.contributions]
    np.testing.assert_array_equal(bucket.total, fleet.expected_sum(survivors))
