from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from tests.unit.agent.federation.conftest import an_offer
from tests.unit.agent.federation.ground import Ground, make_ground, serving

from fedge_agent.kernel_layer import NetworkAdmission
from fedge_agent.session_record import Duplicate
from fedge_agent.status import StatusBoard

replace = msgspec.structs.replace


@pytest.fixture
def ground(tmp_path, identity, store) -> Ground:
    return make_ground(tmp_path, identity, store)


def board(ground: Ground, *, enforced: bool = True) -> StatusBoard:
    kernel = SimpleNamespace(network=NetworkAdmission(enforced, "not attached"), counters=lambda: {"denied": 3})
    return StatusBoard(
        "lab", ground.identity.device_id, ground.client, ground.admission, cast("Any", kernel), ground.store
    )


async def test_every_state_has_its_line(ground):
    shown = board(ground)
    assert shown.line() == "not connected to the broker; trying again"
    async with serving(ground):
        assert shown.line() == "waiting for a round; none is offered now"
        ground.offered(an_offer())
        await ground.settle()
        assert shown.line() == "job demo round 1: fetching the model; graph and weights come from the broker"
        driver = ground.client.round
        assert driver is not None
        driver.step(lambda: driver.machine.abandon("enough"))
        assert shown.line() == "waiting; round 1 of job demo: abandoned (enough)"
        await ground.settle()
        full = shown.full()
    assert full["round"]["outcome"] == "abandoned"
    (ended,) = full["rounds"]
    assert (ended["job"], ended["round"], ended["outcome"], ended["detail"]) == ("demo", 1, "abandoned", "enough")
    assert msgspec.json.decode(msgspec.json.encode(full)) == full


async def test_an_unconfirmed_session_and_a_duplicate_are_told_before_everything_else(ground):
    ground.wire.greeter = None
    shown = board(ground)
    async with serving(ground):
        assert shown.line() == "connected; waiting for the coordinator to confirm this session"
        assert shown.full()["duplicate"] is None
        ground.store.sessions.stop(Duplicate.BEHIND)
        assert shown.line().startswith("duplicate identity: this disk is a copy, or a restored backup; cure")
        assert shown.line().endswith("then fedge-agent enroll with a new token")
        full = shown.full()
        assert full["duplicate"]["reason"] == "behind"
        assert full["warnings"][0] == shown.line()


async def test_refused_messages_are_counted_by_kind_and_reason(ground):
    async with serving(ground):
        for _ in range(2):
            ground.arrives("fedge/v1/test/job/demo/offer", b"\xff")
        await ground.settle()
        assert board(ground).full()["refused_messages"] == {"offer/malformed": 2}


async def test_a_cohort_below_the_secure_floor_and_a_network_that_is_not_guarded_are_warnings(ground):
    async with serving(ground):
        ground.offered(an_offer())
        await ground.settle()
        assert board(ground, enforced=False).full()["warnings"] == [
            "job demo: a cohort of 2 is below the secure floor of 16",
            "network admission is not enforced: not attached",
        ]
        offer = an_offer(round_=2)
        ground.offered(replace(offer, cohort=replace(offer.cohort, minimum=16, target=20)))
        await ground.until(lambda: ground.client.round is not None and ground.client.round.offer.round == 2)
        assert board(ground).full()["warnings"] == []
