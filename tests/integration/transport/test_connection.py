"""The driver against a real Mosquitto: mutual TLS 1.3, access lists, sessions, flow control, last wills."""

import asyncio
import ssl
import sys
import threading

import pytest
from tests.integration.broker_fixture import COORDINATOR, ThrowawayAuthority

from fedge_protocol import topics
from fedge_protocol.backoff import Backoff
from fedge_transport.connection import Connection
from fedge_transport.errors import DisconnectedError, NotAuthorisedError, TooLargeError
from fedge_transport.events import Connected, Disconnected, Ending
from fedge_transport.settings import ConnectionSettings, Will

FLEET = "lab"
STRANGER = "f" * 32


async def connected(connection: Connection) -> None:
    async with asyncio.timeout(20):
        await connection.wait_connected()


async def receive(connection: Connection):
    async with asyncio.timeout(20):
        return await anext(connection.incoming())


async def until(stream, kind):
    async with asyncio.timeout(20):
        async for event in stream:
            if isinstance(event, kind):
                return event
    raise AssertionError(f"the stream ended without {kind}")


async def test_a_message_crosses_the_broker_over_mutual_tls(broker, settings_for, device_name):
    async with (
        Connection(settings_for(broker, COORDINATOR)) as coordinator,
        Connection(settings_for(broker, device_name)) as device,
    ):
        await device.subscribe(topics.down_filter(FLEET, device_name))
        await connected(device)
        await connected(coordinator)
        await coordinator.publish(topics.down(FLEET, device_name, "round"), b"hello")
        message = await receive(device)
        message.ack()
        assert (message.topic, message.payload, message.retain) == (
            topics.down(FLEET, device_name, "round"),
            b"hello",
            False,
        )
        assert device._link is not None
        sock = device._link._client.socket()
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.version() == "TLSv1.3"


async def test_a_device_hears_nothing_that_is_meant_for_another(broker, settings_for, device_name):
    async with (
        Connection(settings_for(broker, COORDINATOR)) as coordinator,
        Connection(settings_for(broker, device_name)) as device,
    ):
        await device.subscribe(f"fedge/v1/{FLEET}/device/+/down/#")
        await connected(device)
        await connected(coordinator)
        await coordinator.publish(topics.down(FLEET, STRANGER, "round"), b"not for you")
        await coordinator.publish(topics.down(FLEET, device_name, "round"), b"for you")
        assert (await receive(device)).payload == b"for you"


async def test_a_forbidden_publication_is_reported_once_and_the_connection_serves_on(broker, settings_for, device_name):
    async with (
        Connection(settings_for(broker, COORDINATOR)) as coordinator,
        Connection(settings_for(broker, device_name)) as device,
    ):
        await coordinator.subscribe(topics.up_filter(FLEET))
        await connected(coordinator)
        events = device.events()
        await until(events, Connected)
        with pytest.raises(NotAuthorisedError, match=STRANGER):
            await device.publish(topics.up(FLEET, STRANGER, "ready"), b"spoofed")
        while True:  # some releases of Mosquitto close the connection after their answer
            try:
                await device.publish(topics.up(FLEET, device_name, "ready"), b"genuine")
                break
            except DisconnectedError:
                await until(events, Connected)
        assert (await receive(coordinator)).payload == b"genuine"


async def test_without_a_broker_the_attempts_are_reported_and_publishing_fails_at_once(
    mortal_broker, settings_for, device_name
):
    mortal_broker.stop()
    async with Connection(settings_for(mortal_broker, device_name)) as device:
        events = device.events()
        first = await until(events, Disconnected)
        assert first.reason is Ending.UNREACHABLE
        assert first.retry_in_s is not None
        with pytest.raises(DisconnectedError, match="not connected"):
            await device.publish(topics.up(FLEET, device_name, "ready"), b"x")
        mortal_broker.start()
        await until(events, Connected)


async def test_a_broker_with_another_name_is_refused(broker, settings_for, device_name):
    async with Connection(settings_for(broker, device_name, server_name="broker.example")) as device:
        ended = await until(device.events(), Disconnected)
        assert ended.reason is Ending.TLS
        assert "broker.example" in ended.detail


async def test_a_certificate_of_another_authority_is_refused(broker, settings_for, device_name, tmp_path):
    foreign = ThrowawayAuthority(tmp_path).issue(device_name)
    settings = settings_for(broker, device_name, cert_file=foreign.cert_file, key_file=foreign.key_file)
    async with Connection(settings) as device:
        ended = await until(device.events(), Disconnected)
        assert ended.reason is Ending.TLS


async def test_a_message_above_the_packet_size_is_not_sent(broker, settings_for, device_name):
    async with Connection(settings_for(broker, device_name, max_packet_bytes=4096)) as device:
        await connected(device)
        with pytest.raises(TooLargeError, match="4096"):
            await device.publish(topics.up(FLEET, device_name, "masked"), bytes(5000))
        assert device.connected


async def test_an_unacknowledged_message_comes_again_after_a_reconnection(broker, settings_for, device_name):
    async with (
        Connection(settings_for(broker, COORDINATOR)) as coordinator,
        Connection(settings_for(broker, device_name)) as device,
    ):
        await device.subscribe(topics.down_filter(FLEET, device_name))
        await connected(device)
        await connected(coordinator)
        for payload in (b"first", b"second"):
            await coordinator.publish(topics.down(FLEET, device_name, "round"), payload)
        (await receive(device)).ack()
        kept = await receive(device)
        assert kept.payload == b"second"
        events = device.events()
        await device.reconnect()
        await until(events, Disconnected)
        assert (await until(events, Connected)).session_present
        again = await receive(device)
        assert again.payload == b"second"
        kept.ack()  # late, on a link that is gone: must not count for the new one
        assert again.owed
        again.ack()


async def test_a_slow_consumer_holds_at_most_the_receive_maximum_and_loses_nothing(broker, settings_for, device_name):
    async with (
        Connection(settings_for(broker, COORDINATOR)) as coordinator,
        Connection(settings_for(broker, device_name, receive_maximum=4)) as device,
    ):
        await device.subscribe(topics.down_filter(FLEET, device_name))
        await connected(device)
        await connected(coordinator)
        numbers = [str(number).encode() for number in range(100)]
        await asyncio.gather(
            *(coordinator.publish(topics.down(FLEET, device_name, "round"), number) for number in numbers)
        )
        received: list[bytes] = []
        most = 0
        while len(received) < len(numbers):
            message = await receive(device)
            most = max(most, len(device.incoming()) + 1)
            received.append(message.payload)
            message.ack()
        assert received == numbers
        assert most <= 4
        assert device.incoming().dropped == 0


DYING = """
import asyncio, signal, sys
from pathlib import Path
from fedge_transport.connection import Connection
from fedge_transport.settings import ConnectionSettings, Will

async def main(port, name, ca, cert, key, topic):
    settings = ConnectionSettings(
        "127.0.0.1", int(port), name, Path(ca), Path(cert), Path(key), will=Will(topic, b"died")
    )
    async with Connection(settings) as device:
        await device.wait_connected()
        await device.publish(topic, b"born", retain=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_the_last_will_fires_when_a_process_is_killed(broker, settings_for, device_name):
    topic = topics.presence(FLEET, device_name)
    identity = broker.identity(device_name)
    files = (identity.ca_file, identity.cert_file, identity.key_file)
    async with Connection(settings_for(broker, COORDINATOR)) as coordinator:
        await coordinator.subscribe(topic)
        await connected(coordinator)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", DYING, str(broker.port), device_name, *map(str, files), topic
        )
        try:
            assert (await receive(coordinator)).payload == b"born"
        finally:
            process.kill()
            await process.wait()
        assert (await receive(coordinator)).payload == b"died"


async def test_the_last_will_does_not_fire_when_a_client_leaves_in_good_order(broker, settings_for, device_name):
    topic = topics.presence(FLEET, device_name)
    async with Connection(settings_for(broker, COORDINATOR)) as coordinator:
        await coordinator.subscribe(topic)
        await connected(coordinator)
        async with Connection(settings_for(broker, device_name, will=Will(topic, b"died"))) as device:
            await connected(device)
            await device.publish(topic, b"born")
        await coordinator.publish(topic, b"marker")
        assert [(await receive(coordinator)).payload for _ in range(2)] == [b"born", b"marker"]


async def test_a_retained_message_is_marked_so_and_an_expired_one_does_not_come(broker, settings_for, device_name):
    async with Connection(settings_for(broker, COORDINATOR)) as coordinator:
        await connected(coordinator)
        await coordinator.publish(topics.offer(FLEET, "job-r"), b"offer", retain=True)
        async with Connection(settings_for(broker, device_name)) as device:
            await device.subscribe(topics.offers_filter(FLEET, "job-r"), topics.down_filter(FLEET, device_name))
            message = await receive(device)
            message.ack()
            assert message.retain
            assert message.payload == b"offer"
        await coordinator.publish(topics.down(FLEET, device_name, "round"), b"stale", expiry_s=1)
        await coordinator.publish(topics.down(FLEET, device_name, "round"), b"fresh", expiry_s=600)
        await asyncio.sleep(2.1)  # the broker's clock, in whole seconds, cannot be injected
        async with Connection(settings_for(broker, device_name)) as device:
            assert (await receive(device)).payload == b"fresh"
        await coordinator.publish(topics.offer(FLEET, "job-r"), b"", retain=True)


async def test_a_killed_broker_with_memory_keeps_the_session_and_what_was_queued(
    mortal_broker, settings_for, device_name
):
    async with Connection(settings_for(mortal_broker, COORDINATOR)) as coordinator:
        async with Connection(settings_for(mortal_broker, device_name)) as device:
            await device.subscribe(topics.down_filter(FLEET, device_name))
            await connected(device)
        await connected(coordinator)
        await coordinator.publish(topics.down(FLEET, device_name, "round"), b"queued while away")
        await asyncio.to_thread(mortal_broker.save)
        mortal_broker.kill()
        await asyncio.to_thread(mortal_broker.start)
        async with Connection(settings_for(mortal_broker, device_name)) as device:
            assert (await until(device.events(), Connected)).session_present
            assert (await receive(device)).payload == b"queued while away"


async def test_two_clients_of_one_identity_push_each_other_out_ever_more_rarely(broker, settings_for, device_name):
    settings = settings_for(broker, device_name, backoff=Backoff(first_s=0.01, factor=4.0, ceiling_s=3600.0))
    async with (
        Connection(settings, uniform=lambda: 0.999) as first,
        Connection(settings, uniform=lambda: 0.5) as second,
        asyncio.TaskGroup() as group,
    ):
        events = first.events()
        firsts = group.create_task(until(events, Disconnected))
        seconds = group.create_task(until(second.events(), Disconnected))
        done, still = await asyncio.wait([firsts, seconds], return_when=asyncio.FIRST_COMPLETED)
        ended = done.pop().result()
        if ended.reason is Ending.TAKEN_OVER:  # newer brokers say so, and are believed at once
            assert ended.retry_in_s > 1000
            for task in still:
                task.cancel()
            return
        waits = [(await firsts).retry_in_s] + [(await until(events, Disconnected)).retry_in_s for _ in range(3)]
        assert waits == sorted(waits)
        assert waits[-1] > 10 * waits[0]


async def test_nobody_takes_over_a_session_by_claiming_its_client_id(broker, settings_for, device_name):
    async with (
        Connection(settings_for(broker, COORDINATOR)) as coordinator,
        Connection(settings_for(broker, device_name)) as victim,
    ):
        await victim.subscribe(topics.down_filter(FLEET, device_name))
        await connected(coordinator)
        await connected(victim)
        events = victim.events()
        async with Connection(settings_for(broker, STRANGER, client_id=device_name)) as attacker:
            await connected(attacker)
            await coordinator.publish(topics.down(FLEET, device_name, "round"), b"for the victim")
            assert (await receive(victim)).payload == b"for the victim"
            assert victim.connected
    assert [type(event) async for event in events] == [Connected, Disconnected]  # the farewell only


async def test_the_unix_socket_serves_without_tls(broker, settings_for, device_name):
    settings = settings_for(
        broker, device_name, host=str(broker.unix_path), port=0, ca_file=None, cert_file=None, key_file=None
    )
    async with Connection(settings) as local:
        await local.subscribe("local/+")
        await connected(local)
        await local.publish("local/a", b"x", qos=0)
        assert (await receive(local)).payload == b"x"


async def test_closing_ends_every_iteration(broker, settings_for, device_name):
    device = Connection(settings_for(broker, device_name))
    async with device:
        events = device.events()
        await connected(device)
        reader = asyncio.create_task(anext(device.incoming()))
        await asyncio.sleep(0)
    with pytest.raises(StopAsyncIteration):
        await reader
    seen = [event async for event in events]
    assert seen[-1] == Disconnected(Ending.CLOSED, "closed by this side", None)


async def test_two_hundred_clients_live_in_one_process_without_a_thread_more(broker):
    names = [f"{number:032x}" for number in range(200)]
    threads = threading.active_count()

    async def live(name: str) -> None:
        # over the Unix socket each may choose its own name without 200 certificates
        async with Connection(ConnectionSettings(str(broker.unix_path), 0, name)) as client:
            await client.subscribe("local/all")
            await client.wait_connected()
            await arrived.wait()
            assert threading.active_count() == threads
            message = await anext(client.incoming())
            message.ack()

    async def speak() -> None:
        async with Connection(ConnectionSettings(str(broker.unix_path), 0, "speaker")) as speaker:
            await speaker.wait_connected()
            await arrived.wait()
            await speaker.publish("local/all", b"to everybody")

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        arrived = asyncio.Barrier(len(names) + 1)
        group.create_task(speak())
        for name in names:
            group.create_task(live(name))
