"""While a fleet trains, a device's inference server answers with each round's model as it lands."""

import hashlib
import subprocess

import pytest
from tests.integration.system.ground import FEATURES
from tests.integration.system.living_fleet import LivingFleet

from fedge_agent.inference import client
from fedge_agent.model_slot import slots
from fedge_coordinator.demo.programs import program
from fedge_coordinator.settlement.bundle import read_bundle

ROUNDS = 4


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_checkpoint_that_lands_on_a_device_is_in_service_with_the_next_question(fleet: LivingFleet):
    device = fleet.devices[0]
    path = device.folder / "model.sock"
    command = [program("fedge-agent"), "--config", str(device.config), "inference", "--socket", str(path)]
    served: dict[int, str] = {}
    outputs = {}
    with subprocess.Popen(command) as server:
        try:
            fleet.wait_until(path.exists, "the inference server listens")
            job = "served"
            fleet.apply(job, rounds=ROUNDS, pause_seconds=1)
            for number in range(1, ROUNDS + 1):
                fleet.wait_finished(job, number)
                found = client.infer(path, [[1.0] * FEATURES], job)
                served[found["model"]["round"]] = found["model"]["weights"]
                outputs[found["model"]["round"]] = found["outputs"]
            fleet.wait_job(job)
            fleet.wait_published(job, ROUNDS)
        finally:
            server.terminate()
    weights = read_bundle(fleet.published / job).weights
    assert len(served) >= 2
    assert max(served) == ROUNDS
    # a round begins with the checkpoint of the one before it
    assert served == {number: hashlib.sha256(weights[number - 1]).hexdigest() for number in served}
    assert len({str(output) for output in outputs.values()}) == len(outputs)
    (slot,) = [slot for slot in slots(device.home / "model") if slot.job == job]
    assert slot.round == ROUNDS
