import pytest
from tests.integration.system.checking import (
    check_nothing_was_signed_twice,
    check_weights_follow_from_the_published_vectors,
)
from tests.integration.system.living_fleet import DEVICES, LivingFleet, event_of

# Between offer and answer, and in every exchange. Each kill makes all wait longer before they connect again.
MOMENTS = ("round-opened", "shares", "masked", "unmask")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_broker_killed_in_any_phase_that_forgets_everything_costs_no_round(fleet: LivingFleet):
    """It comes back without sessions, queued or retained messages, as after the loss of its disk."""
    job = "broker"
    for number, moment in enumerate(MOMENTS, start=1):
        opened = moment == "round-opened"
        wanted = event_of(job, moment, round=number) if opened else event_of(job, "input", round=number, kind=moment)
        killed = fleet.kill_broker_when(wanted)
        if number == 1:
            fleet.apply(job, rounds=len(MOMENTS))
        assert killed.wait(90), moment
        fleet.ground.forget_sessions()
        fleet.restart_broker()
        fleet.wait_ended(job, number)
    fleet.wait_job(job)
    assert fleet.attempts(job) == [(number, 0, "finished") for number in range(1, len(MOMENTS) + 1)]
    fleet.wait_published(job, len(MOMENTS))
    assert check_weights_follow_from_the_published_vectors(fleet, job, len(MOMENTS)) == [DEVICES] * len(MOMENTS)
    assert fleet.audit(job)["ok"]
    check_nothing_was_signed_twice(fleet)
    fleet.wait_until(fleet.everybody_is_there, "all devices connected again")
    included = dict.fromkeys(range(1, len(MOMENTS) + 1), "included")
    fleet.wait_until(lambda: all(each.outcomes(job) == included for each in fleet.devices), "every RESULT arrived")
