from functools import partial

import pytest
from tests.integration.system.checking import (
    check_nothing_was_signed_twice,
    check_weights_follow_from_the_published_vectors,
)
from tests.integration.system.living_fleet import DEVICES, Device, LivingFleet, event_of

# The last message that arrives before the kill, and how many updates are in the sum.
DEATHS = {"ready": DEVICES - 1, "shares": DEVICES - 1, "masked": DEVICES, "survivor": DEVICES, "unmask": DEVICES}


def has_heard(device: Device, job: str) -> bool:
    return device.outcomes(job) == {1: "included"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_device_killed_in_any_phase_drops_out_at_most_and_signs_nothing_twice(fleet: LivingFleet):
    """It is started again at once, into the same round. Whose vector had arrived is in the sum and hears of it."""
    victim = fleet.devices[2]
    for moment, participants in DEATHS.items():
        job = f"device-{moment}"
        # Of survivor and unmask the first three are enough: whichever device is the first dies.
        wanted = event_of(job, "input", kind=moment)
        if moment in {"ready", "shares", "masked"}:
            wanted = event_of(job, "input", kind=moment, device=victim.name)
        killed = fleet.kill_sender_when(wanted)
        fleet.apply(job, rounds=1, phase_seconds=6)
        device = killed.wait_for()
        fleet.start_device(device)
        finished = fleet.wait_finished(job, 1)
        assert finished["participants"] == participants, moment
        assert finished["dropouts"] == DEVICES - participants, moment
        fleet.wait_job(job)
        fleet.wait_until(fleet.everybody_is_there, "the device is back")
        assert fleet.attempts(job) == [(1, 0, "finished")]
        fleet.wait_published(job, 1)
        assert check_weights_follow_from_the_published_vectors(fleet, job, 1) == [participants]
        assert fleet.audit(job)["ok"]
        if participants == DEVICES:
            fleet.wait_until(partial(has_heard, device, job), "RESULT")
    check_nothing_was_signed_twice(fleet)
