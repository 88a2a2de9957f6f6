"""The listener for WebSockets as the CA renders it: who gets in, as whom, and what a revocation does to it."""

import asyncio
import json
import shutil
import socket
import ssl

import pytest
from tests.integration.enrolment.conftest import free_port

from fedge_agent.identity.enroll import enroll
from fedge_coordinator.enrolment.broker import require_websockets
from fedge_coordinator.enrolment.errors import BrokerError
from fedge_protocol import topics
from fedge_protocol.backoff import Backoff
from fedge_transport.connection import Connection
from fedge_transport.errors import NotAuthorisedError
from fedge_transport.events import Connected, Disconnected, Ending
from fedge_transport.settings import ConnectionSettings


@pytest.fixture(scope="module")
def mosquitto() -> str:
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if found is None:
        pytest.skip("no mosquitto; apt-get install mosquitto")
    return found


@pytest.fixture(scope="module")
def fleet(ca, make_broker, link_broker, mosquitto):
    broker = make_broker(ca, websocket_port=free_port())
    ca.stop()
    link_broker(ca, broker)
    ca.start()
    return broker


def settings(fleet, enrolment, **changes) -> ConnectionSettings:
    values = {
        "host": "localhost",
        "port": fleet.websocket_port,
        "client_id": enrolment.device_id,
        "ca_file": enrolment.ca_file,
        "cert_file": enrolment.certificate_file,
        "key_file": enrolment.key_file,
        "websocket_path": "/mqtt",
        "backoff": Backoff(first_s=0.1, factor=1.5, ceiling_s=0.5),
        **changes,
    }
    return ConnectionSettings(**values)


def up(enrolment) -> str:
    return topics.up("lab", enrolment.device_id, "ready")


async def first_event(connection: Connection) -> Connected | Disconnected:
    async for event in connection.events():
        assert isinstance(event, Connected | Disconnected)
        return event
    raise AssertionError("no event")


async def test_a_device_is_its_certificates_name_and_may_do_no_more(fleet, ca, tmp_path):
    one, two = (enroll(ca.token(), tmp_path / name) for name in ("one", "two"))
    async with asyncio.timeout(20), Connection(settings(fleet, one, client_id="somebody-else")) as device:
        await device.wait_connected()
        await device.publish(up(one), b"mine")
        with pytest.raises(NotAuthorisedError):
            await device.publish(up(two), b"not mine")


async def test_nobody_gets_in_without_a_certificate_of_the_fleet(fleet, device):
    async with asyncio.timeout(20), Connection(settings(fleet, device, cert_file=None, key_file=None)) as nobody:
        event = await first_event(nobody)
    assert isinstance(event, Disconnected)
    assert event.reason in (Ending.TLS, Ending.UNREACHABLE, Ending.REFUSED, Ending.LOST)


@pytest.fixture
def takes_over(mosquitto) -> None:
    try:
        require_websockets(mosquitto)
    except BrokerError as error:
        pytest.skip(f"{str(error).partition(';')[0]}; cure: mosquitto 2.1.2 or later")


async def test_a_device_that_comes_back_takes_its_session_over(fleet, device, takes_over):
    async with asyncio.timeout(20), Connection(settings(fleet, device)) as first:
        await first.wait_connected()
        async with Connection(settings(fleet, device)) as second:
            await second.wait_connected()
            await second.publish(up(device), b"it is me again")
    assert fleet.process.poll() is None


def test_a_mosquitto_that_would_crash_is_refused_by_name(ca, mosquitto, tmp_path):
    words = ("broker", "--out", str(tmp_path), "--websocket-port", "443", "--name", "localhost")
    try:
        require_websockets(mosquitto)
    except BrokerError:
        with pytest.raises(AssertionError, match=r"crashes when a device comes back over a WebSocket; install 2\.1\.2"):
            ca.command(*words)
        assert not (tmp_path / "mosquitto.conf").exists()
    else:
        ca.command(*words)
        assert "protocol websockets" in (tmp_path / "mosquitto.conf").read_text()


async def test_a_revoked_device_publishes_nothing_any_more(fleet, ca, tmp_path, takes_over):
    revoked = enroll(ca.token(), tmp_path / "revoked")
    async with asyncio.timeout(40), Connection(settings(fleet, revoked)) as device:
        await device.wait_connected()
        await device.publish(up(revoked), b"before")
        events = device.events()
        answer = json.loads(await asyncio.to_thread(ca.command, "revoke", revoked.device_id, "-o", "json"))
        assert answer["broker"] == "told"
        async for event in events:  # its session was ended, by the other listener
            if isinstance(event, Disconnected):
                break
        try:
            async with asyncio.timeout(3):
                await device.wait_connected()
        except TimeoutError:
            return
        with pytest.raises(NotAuthorisedError):
            await device.publish(up(revoked), b"after")


def test_what_the_listener_speaks(fleet, device):
    """Mosquitto leaves the versions of TLS to libwebsockets; the agent itself takes 1.3 or nothing."""
    context = ssl.create_default_context(cafile=str(device.ca_file))
    context.load_cert_chain(device.certificate_file, device.key_file)
    with (
        socket.create_connection(("localhost", fleet.websocket_port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        assert wrapped.version() == "TLSv1.3"
