"""The agent's own byte budget over a real broker: counted by the kernel's account of the socket, ended when spent."""

import asyncio
import os

import pytest
from tests.integration.conftest import FLEET

from fedge_agent.kernel.user_budget import UserBudget
from fedge_protocol import topics
from fedge_transport.connection import Connection
from fedge_transport.errors import DisconnectedError
from fedge_transport.events import Disconnected, Ending
from fedge_transport.route import Route

MIB = 1024 * 1024
NOON = 20_500 * 86_400 + 43_200


class Wall:
    now_s = NOON

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def wall() -> Wall:
    return Wall()


async def test_what_is_counted_is_what_went_over_the_wire(broker, settings_for, device_name, tmp_path, wall):
    budget = UserBudget(tmp_path / "budget", 4 * MIB, wall_s=wall)
    async with (
        asyncio.timeout(30),
        Connection(settings_for(broker, device_name), route=Route(allowance=budget)) as agent,
    ):
        await agent.wait_connected()
        await agent.publish(topics.up(FLEET, device_name, "ready"), b"x")
        begin = budget.left_bytes
        assert 1000 < 4 * MIB - begin < 20_000  # TCP and TLS with two certificates
        for _ in range(4):
            await agent.publish(topics.up(FLEET, device_name, "masked"), os.urandom(100_000))
    used = begin - budget.left_bytes
    assert 400_000 < used < 420_000


async def test_a_spent_budget_ends_the_connection_until_the_next_day(broker, settings_for, device_name, tmp_path, wall):
    budget = UserBudget(tmp_path / "budget", 300_000, wall_s=wall)
    topic = topics.up(FLEET, device_name, "masked")
    async with (
        asyncio.timeout(30),
        Connection(settings_for(broker, device_name), route=Route(allowance=budget)) as agent,
    ):
        events = agent.events()
        await agent.wait_connected()
        with pytest.raises(DisconnectedError):
            await asyncio.gather(*(agent.publish(topic, os.urandom(100_000)) for _ in range(10)))
        assert budget._budget.left_bytes > -110_000  # past the end by one message at most
        async for event in events:
            if isinstance(event, Disconnected):
                break
        assert isinstance(event, Disconnected)
        assert event.reason is Ending.BUDGET
        assert event.retry_in_s == 600.0
        assert agent.trouble == "the day's bytes are spent"
        wall.now_s += 43_200
        await agent.reconnect()
        await agent.wait_connected()
        await agent.publish(topic, b"a new day")


async def test_a_restart_does_not_refill_it(broker, settings_for, device_name, tmp_path, wall):
    spent = UserBudget(tmp_path / "budget", 50_000, wall_s=wall)
    spent.use(50_000)
    again = UserBudget(tmp_path / "budget", 50_000, wall_s=wall)
    settings = settings_for(broker, device_name)
    async with asyncio.timeout(30), Connection(settings, route=Route(allowance=again)) as agent:
        async for event in agent.events():
            assert isinstance(event, Disconnected)
            assert event.reason is Ending.BUDGET
            break
        with pytest.raises(DisconnectedError):
            await agent.publish(topics.up(FLEET, device_name, "ready"), b"x")


async def test_handshakes_that_fail_are_counted_too(broker, settings_for, device_name, tmp_path, wall):
    budget = UserBudget(tmp_path / "budget", MIB, wall_s=wall)
    settings = settings_for(broker, device_name, server_name="other.example")
    async with asyncio.timeout(30), Connection(settings, route=Route(allowance=budget)) as agent:
        async for event in agent.events():
            assert isinstance(event, Disconnected)
            assert event.reason is Ending.TLS
            break
    assert MIB - budget.left_bytes > 1000
