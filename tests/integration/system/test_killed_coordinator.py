import sys
from pathlib import Path

import pytest
from tests.integration.system import dying_coordinator
from tests.integration.system.checking import (
    check_nothing_was_signed_twice,
    check_weights_follow_from_the_published_vectors,
)
from tests.integration.system.living_fleet import DEVICES, LivingFleet, event_of

# Four READY, four SHARES, four MASKED, then of SURVIVOR and UNMASK as many as the threshold of three asks for.
INPUTS = 4 + 4 + 4 + 3 + 3


def check_job(fleet: LivingFleet, job: str, rounds: int) -> None:
    """Every round in its first attempt, with every device, and all of it can be recomputed."""
    assert fleet.attempts(job) == [(number, 0, "finished") for number in range(1, rounds + 1)]
    fleet.wait_published(job, rounds)
    assert check_weights_follow_from_the_published_vectors(fleet, job, rounds) == [DEVICES] * rounds
    assert fleet.audit(job)["ok"]
    check_nothing_was_signed_twice(fleet)
    for device in fleet.devices:
        assert device.outcomes(job) == dict.fromkeys(range(1, rounds + 1), "included"), device.number


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_coordinator_killed_after_any_message_of_a_round_completes_the_same_round(fleet: LivingFleet):
    """In round n it is killed, from outside, when its n-th input is reported; the last is before the checkpoint."""
    job, phases = "any-message", []
    for number in range(1, INPUTS + 1):
        counted: list[str] = []

        def is_nth(event, number=number, counted=counted):
            if event_of(job, "input", round=number)(event):
                counted.append(str(event.fields["kind"]))
            return len(counted) == number

        killed = fleet.kill_coordinator_when(is_nth)
        if number == 1:
            fleet.apply(job, rounds=INPUTS)
        assert killed.wait(90), f"round {number}: {counted}"
        phases.append(counted[-1])
        fleet.restart_coordinator()
        fleet.wait_ended(job, number)
    fleet.wait_job(job)
    assert set(phases) == {"ready", "shares", "masked", "survivor", "unmask"}
    check_job(fleet, job, INPUTS)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_coordinator_that_dies_at_an_exact_point_completes_the_same_round(fleet: LivingFleet):
    """Where no signal from outside can hit surely: around each commit, and around what is sent after it."""
    job, points = "exact-point", list(dying_coordinator.POINTS)
    script = str(Path(dying_coordinator.__file__))
    fleet.kill_coordinator()
    fleet.restart_coordinator(sys.executable, script, points[0])
    fleet.wait_until(fleet.everybody_is_there, "all devices online")
    fleet.apply(job, rounds=len(points))
    for following in points[1:]:
        fleet.wait_for_death()
        fleet.restart_coordinator(sys.executable, script, following)
    fleet.wait_for_death()
    fleet.restart_coordinator()
    fleet.wait_job(job)
    check_job(fleet, job, len(points))
