"""MQTT in a WebSocket, and through an HTTP proxy: a real Mosquitto, a real tinyproxy, TLS with client certificates."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.broker_fixture import COORDINATOR, Broker
from tests.integration.conftest import FLEET
from tests.integration.proxy_fixture import PASSWORD, USER, Tinyproxy

from fedge_protocol import topics
from fedge_transport.connection import Connection
from fedge_transport.errors import AddressUnknownError
from fedge_transport.events import Connected, Disconnected, Ending
from fedge_transport.opening import bare, open_socket
from fedge_transport.route import Proxy, Route

CHUNK = 131_072


class Book:
    """A directory that a test fills; the system's resolver is never asked."""

    def __init__(self, **addresses: str) -> None:
        self.addresses = {name.replace("_", "."): address.split() for name, address in addresses.items()}
        self.asked: list[tuple[str, int]] = []
        self.failed: list[tuple[str, int]] = []

    async def find(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        if host not in self.addresses:
            raise AddressUnknownError(f"{host} is not in the book")
        return self.addresses[host]

    def unreachable(self, host: str, port: int) -> None:
        self.failed.append((host, port))


@pytest.fixture
def proxy(tmp_path: Path, broker: Broker) -> Iterator[Tinyproxy]:
    if not Tinyproxy.installed():
        pytest.skip("no tinyproxy here; cure: apt install tinyproxy-bin")
    made = Tinyproxy(tmp_path, broker.port)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    path = tmp_path / "proxy-credentials"
    path.write_text(f"{USER}:{PASSWORD}\n")
    path.chmod(0o600)
    return path


async def first_event(connection: Connection) -> Connected | Disconnected:
    async for event in connection.events():
        assert isinstance(event, Connected | Disconnected)
        return event
    raise AssertionError("no event")


async def speaks_both_ways(settings_for, broker: Broker, device: str, route: Route, **changes: object) -> None:
    """A chunk of 128 KiB and a hundred small messages, up and down, between a device on `route` and a coordinator."""
    payload = os.urandom(CHUNK)
    up, down = topics.up(FLEET, device, "masked"), topics.down(FLEET, device, "round")
    async with (
        asyncio.timeout(60),
        Connection(settings_for(broker, device, **changes), route=route) as agent,
        Connection(settings_for(broker, COORDINATOR)) as coordinator,
    ):
        await coordinator.subscribe(up)
        await agent.subscribe(down)
        await asyncio.gather(agent.wait_connected(), coordinator.wait_connected())
        await asyncio.gather(agent.publish(up, payload), coordinator.publish(down, payload))
        heard, told = await anext(aiter(coordinator.incoming())), await anext(aiter(agent.incoming()))
        assert (heard.payload, told.payload) == (payload, payload)
        heard.ack()
        told.ack()
        await asyncio.gather(*(agent.publish(up, bytes([number])) for number in range(100)))
        for number in range(100):
            message = await anext(aiter(coordinator.incoming()))
            assert message.payload == bytes([number])
            message.ack()


async def test_mqtt_in_a_websocket_carries_chunks_both_ways(broker, settings_for, device_name):
    await speaks_both_ways(
        settings_for, broker, device_name, Route(), port=broker.websocket_port, websocket_path="/mqtt"
    )


async def test_a_websocket_port_that_speaks_plain_mqtt_is_told_apart(broker, settings_for, device_name):
    settings = settings_for(broker, device_name, websocket_path="/mqtt", connect_timeout_s=3)
    async with asyncio.timeout(20), Connection(settings) as agent:
        event = await first_event(agent)
    assert isinstance(event, Disconnected)
    assert event.reason in (Ending.UNREACHABLE, Ending.TLS)


async def test_the_broker_is_reached_through_a_proxy_with_credentials(
    broker, proxy, credentials, settings_for, device_name
):
    route = Route(proxy=Proxy(proxy.host, proxy.port, credentials))
    await speaks_both_ways(settings_for, broker, device_name, route)
    assert f"CONNECT {broker.host}:{broker.port}" in proxy.requests()[-1]


async def test_a_websocket_goes_through_the_proxy_too(tmp_path, broker, credentials, settings_for, device_name):
    if not Tinyproxy.installed():
        pytest.skip("no tinyproxy here; cure: apt install tinyproxy-bin")
    proxy = Tinyproxy(tmp_path, broker.websocket_port)
    proxy.start()
    try:
        route = Route(proxy=Proxy(proxy.host, proxy.port, credentials))
        await speaks_both_ways(
            settings_for, broker, device_name, route, port=broker.websocket_port, websocket_path="/mqtt"
        )
    finally:
        proxy.stop()


async def test_with_a_proxy_nobody_but_the_proxy_is_looked_up(broker, proxy, credentials, settings_for, device_name):
    book = Book(proxy_example="127.0.0.1")
    route = Route(book, Proxy("proxy.example", proxy.port, credentials))
    async with (
        asyncio.timeout(20),
        Connection(settings_for(broker, device_name, host="localhost"), route=route) as agent,
    ):
        await agent.wait_connected()
    assert book.asked == [("proxy.example", proxy.port)]
    assert f"CONNECT localhost:{broker.port}" in proxy.requests()[-1]


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("device:wrong", 0o600, "other credentials"),
        (None, 0o600, "other credentials"),
        ("device:correct-horse", 0o644, "chmod 640"),
        ("no colon", 0o600, "not one line user:password"),
        ("a:b\r\nX-Evil: 1", 0o600, "not one line user:password"),
    ],
)
async def test_a_proxy_that_refuses_is_told_with_the_cure_and_without_the_secret(
    tmp_path, broker, proxy, settings_for, device_name, text, mode, words
):
    path = None
    if text is not None:
        path = tmp_path / "credentials"
        path.write_text(text)
        path.chmod(mode)
    route = Route(proxy=Proxy(proxy.host, proxy.port, path))
    async with asyncio.timeout(20), Connection(settings_for(broker, device_name), route=route) as agent:
        event = await first_event(agent)
    assert isinstance(event, Disconnected)
    assert event.reason is Ending.UNREACHABLE
    assert words in event.detail
    assert "wrong" not in event.detail
    assert "horse" not in event.detail


async def test_a_proxy_that_forbids_the_port_is_told(broker, proxy, credentials, settings_for, device_name):
    route = Route(proxy=Proxy(proxy.host, proxy.port, credentials))
    settings = settings_for(broker, device_name, port=broker.websocket_port, websocket_path="/mqtt")
    async with asyncio.timeout(20), Connection(settings, route=route) as agent:
        event = await first_event(agent)
    assert isinstance(event, Disconnected)
    assert "403" in event.detail
    assert "administrator" in event.detail


async def test_the_certificate_must_carry_the_name_and_not_the_address(broker, settings_for, device_name):
    book = Book(localhost="127.0.0.1", other_example="127.0.0.1")
    async with (
        asyncio.timeout(20),
        Connection(settings_for(broker, device_name, host="localhost"), route=Route(book)) as a,
    ):
        assert isinstance(await first_event(a), Connected)
    settings = settings_for(broker, device_name, host="other.example")
    async with asyncio.timeout(20), Connection(settings, route=Route(book)) as agent:
        event = await first_event(agent)
    assert isinstance(event, Disconnected)
    assert event.reason is Ending.TLS
    assert "other.example" in event.detail


async def test_addresses_are_tried_in_turn_and_failure_is_told_to_the_directory(broker, settings_for, device_name):
    book = Book(localhost="127.0.0.2 ::1 127.0.0.1")
    async with (
        asyncio.timeout(20),
        Connection(settings_for(broker, device_name, host="localhost"), route=Route(book)) as a,
    ):
        assert isinstance(await first_event(a), Connected)
    assert book.failed == []
    book.addresses["localhost"] = ["127.0.0.2", "::1"]
    async with (
        asyncio.timeout(20),
        Connection(settings_for(broker, device_name, host="localhost"), route=Route(book)) as a,
    ):
        assert isinstance(await first_event(a), Disconnected)
    assert book.failed == [("localhost", broker.port)]


async def test_a_name_that_the_directory_does_not_have_is_not_connected_to(broker, settings_for, device_name):
    book = Book()
    async with (
        asyncio.timeout(20),
        Connection(settings_for(broker, device_name, host="localhost"), route=Route(book)) as a,
    ):
        event = await first_event(a)
    assert isinstance(event, Disconnected)
    assert event.detail == "localhost is not in the book"


async def test_a_pace_is_asked_of_the_kernel_for_each_connection(broker, settings_for, device_name):
    opened = await open_socket(settings_for(broker, device_name, ca_file=None, cert_file=None, key_file=None), None,
                               Route(pace_bytes_per_s=102_400))  # fmt: skip
    with bare(opened) as plain:
        assert plain.getsockopt(socket.SOL_SOCKET, 47) == 102_400
