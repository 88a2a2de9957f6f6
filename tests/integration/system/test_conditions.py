"""What the owner's word does to training is known to the coordinator, from the real daemon over the real broker."""

import pytest
from tests.integration.system.living_fleet import DEVICES, LivingFleet

from fedge_coordinator.demo.processes import run
from fedge_coordinator.demo.programs import program


def states(fleet: LivingFleet) -> list[str]:
    return [device["state"] for device in fleet.api("/v1/devices") if device["online"]]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_coordinator_learns_where_training_admission_stands_and_why(fleet: LivingFleet):
    job = "conditions"
    fleet.wait_until(lambda: states(fleet).count("idle: no-job") == DEVICES, "all devices have told that they rest")
    assert fleet.metrics()['fedge_coordinator_devices_by_condition{reason="no-job",state="idle"}'] == DEVICES
    held = fleet.devices[0]
    run([program("fedge-agent"), "--config", str(held.config), "pause"])
    try:
        fleet.apply(job, rounds=1)  # which waits for all devices
        fleet.wait_until(lambda: "idle: owner" in states(fleet), "the held device has told why it does not train")
        listed = run([program("fedgectl"), "get", "devices", "--socket", str(fleet.socket)])
        assert "idle: owner" in listed
    finally:
        run([program("fedge-agent"), "--config", str(held.config), "resume"])
    assert fleet.wait_finished(job, 1)["participants"] == DEVICES
    fleet.wait_job(job)
    told = [name for name in fleet.metrics() if name.startswith("fedge_coordinator_device_conditions_total")]
    assert any('reason="owner"' in name for name in told)
    decided = held.status()["admission"]["decisions"]
    assert decided["idle/owner"] >= 1
