"""The broker forges, replays and misdirects what the coordinator says; devices refuse it by name and go on."""

import json
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.integration.system.checking import check_weights_follow_from_the_published_vectors
from tests.integration.system.ground import FLEET
from tests.integration.system.living_fleet import DEVICES, LivingFleet, event_of

from fedge_coordinator.demo.programs import program
from fedge_protocol import topics
from fedge_protocol.cose import context_of, open_signed, sign
from fedge_protocol.messages import COORDINATOR, OFFER_KIND, Down


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_device_refuses_what_the_coordinator_did_not_say_to_it_now(fleet: LivingFleet):
    job, hands = "forged", fleet.eavesdropper
    victim, other = fleet.devices[0], fleet.devices[1]
    down = {kind: topics.down(FLEET, victim.name, kind) for kind in Down}
    fleet.apply(job, rounds=2, pause_seconds=2)
    fleet.wait_finished(job, 1)
    first = {kind: hands.wait_for(topics.down(FLEET, victim.name, kind)) for kind in (Down.ROUND, Down.SURVIVORS)}
    foreign = hands.wait_for(topics.down(FLEET, other.name, Down.INBOUND))
    offer = hands.wait_for(topics.offer(FLEET, job))
    key = ec.generate_private_key(ec.SECP256R1())

    def forged(kind: str, message: bytes) -> bytes:
        return sign(key, open_signed(message)[0], context_of(FLEET, COORDINATOR, kind))

    fleet.feed.wait_for(event_of(job, "round-opened", round=2), "round 2 opened")
    hands.publish(down[Down.ROUND], forged(Down.ROUND, first[Down.ROUND]))
    hands.publish(down[Down.ROUND], b"\xa1garbage")
    hands.publish(down[Down.ABORT], first[Down.ROUND])  # said as ROUND, shown as ABORT
    hands.publish(down[Down.SURVIVORS], first[Down.SURVIVORS])  # of the round before
    hands.publish(down[Down.INBOUND], foreign)  # to another device
    hands.publish(topics.offer(FLEET, job), forged(OFFER_KIND, offer))
    hands.publish(topics.offer(FLEET, "another"), offer)
    hands.publish(topics.offer(FLEET, job), offer)  # the first round's, once more
    assert fleet.wait_finished(job, 2)["participants"] == DEVICES
    fleet.wait_job(job)

    command = [program("fedge-agent"), "--config", str(victim.config), "status", "-o", "json"]
    refused = json.loads(subprocess.run(command, capture_output=True, check=False).stdout)["refused_messages"]
    for name in ("round/bad-signature", "round/malformed", "abort/bad-signature", "offer/bad-signature"):
        assert refused.get(name), (name, refused)
    assert refused.get("offer/wrong-topic"), refused
    assert {name.partition("/")[0] for name in refused} >= {"survivors", "inbound"}, refused
    assert victim.outcomes(job) == {1: "included", 2: "included"}
    fleet.wait_published(job, 2)
    assert check_weights_follow_from_the_published_vectors(fleet, job, 2) == [DEVICES] * 2


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_device_whose_model_the_broker_lost_asks_for_it_and_takes_part(fleet: LivingFleet):
    """Between two rounds both the device's copy of the graph and the broker's are gone."""
    job, hands, device = "lost-model", fleet.eavesdropper, fleet.devices[0]
    fleet.apply(job, rounds=2, pause_seconds=3)
    fleet.wait_finished(job, 1)
    known = {path.name for path in (device.home / "blobs").iterdir()}
    for name in known:
        (device.home / "blobs" / name).unlink()
        hands.publish(topics.blob(FLEET, name, 0), b"", retain=True)
    assert fleet.wait_finished(job, 2)["participants"] == DEVICES
    assert hands.said(device.name)["want"]
    fleet.wait_job(job)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_prekeys_that_the_coordinator_lost_are_published_again_within_the_round(fleet: LivingFleet):
    device = fleet.devices[0]
    fleet.kill_coordinator()
    with fleet.database() as database:
        database.execute("DELETE FROM prekeys WHERE device=?", (device.name,))
    fleet.restart_coordinator()
    fleet.apply("lost-prekeys", rounds=1)
    assert fleet.wait_finished("lost-prekeys", 1)["participants"] == DEVICES
    assert fleet.refused("ready", "unknown-prekey") > 0
    fleet.wait_job("lost-prekeys")
    assert device.outcomes("lost-prekeys") == {1: "included"}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_device_that_lost_its_prekeys_makes_new_ones_and_takes_part(fleet: LivingFleet):
    """What it knew of them is gone, so it gives out ids that the coordinator knows with other keys.

    With all of its memory gone it would be behind: `test_duplicate_identity`.
    """
    device = fleet.devices[0]
    assert device.child is not None
    device.child.kill()
    device.lose_prekeys()
    fleet.start_device(device)
    fleet.wait_until(lambda: device.status()["prekeys"] > 0, "new prekeys are acknowledged")
    fleet.wait_until(fleet.everybody_is_there, "all devices online")
    fleet.apply("new-prekeys", rounds=1)
    assert fleet.wait_finished("new-prekeys", 1)["participants"] == DEVICES
    fleet.wait_job("new-prekeys")
    assert device.outcomes("new-prekeys") == {1: "included"}
