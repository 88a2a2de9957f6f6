"""A broker that is killed and forgets everything, and the conversation that goes on regardless."""

import asyncio
import contextlib
import hashlib

from tests.integration.broker_fixture import COORDINATOR

from fedge_protocol import topics
from fedge_protocol.backoff import Backoff
from fedge_protocol.resend import MessageKey, Resender
from fedge_transport.connection import Connection
from fedge_transport.errors import DisconnectedError
from fedge_transport.events import Connected, Disconnected

FLEET = "lab"


class Receiver:
    """The coordinator's half: commits each message once and acknowledges every copy."""

    def __init__(self, connection: Connection, device: str) -> None:
        self._connection = connection
        self._device = device
        self._grown = asyncio.Event()
        self.arrivals = 0
        self.committed: dict[bytes, bytes] = {}

    async def run(self) -> None:
        async for message in self._connection.incoming():
            self.arrivals += 1
            digest = hashlib.sha256(message.payload).digest()
            self.committed.setdefault(digest, message.payload)
            message.ack()
            self._grown.set()
            with contextlib.suppress(DisconnectedError):  # the sender asks again
                await self._connection.publish(topics.down(FLEET, self._device, "ack"), digest)

    async def has(self, count: int) -> None:
        while len(self.committed) < count:
            self._grown.clear()
            await self._grown.wait()


class Sender:
    """The device's half: resends what is not acknowledged, at once after the broker forgot."""

    def __init__(self, connection: Connection, device: str, payloads: list[bytes]) -> None:
        self._connection = connection
        self._device = device
        self._clock = asyncio.get_running_loop().time
        self._changed = asyncio.Event()
        self.resender: Resender[MessageKey, bytes] = Resender(lambda: 0.5, backoff=Backoff(first_s=0.3, ceiling_s=1.0))
        now_s = self._clock()
        for payload in payloads:
            self.resender.add(self._key(hashlib.sha256(payload).digest()), payload, now_s=now_s, deadline_s=now_s + 60)

    async def take_acks(self) -> None:
        async for message in self._connection.incoming():
            self.resender.acknowledge(self._key(message.payload))
            message.ack()
            self._changed.set()

    async def follow(self) -> None:
        async for event in self._connection.events():
            if isinstance(event, Connected) and not event.session_present:
                self.resender.hurry(self._clock())
                self._changed.set()

    async def send(self) -> None:
        while (next_s := self.resender.next_at()) is not None:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_s):
                    await self._changed.wait()
            for pending in self.resender.due(self._clock()):
                try:
                    await self._connection.publish(topics.up(FLEET, self._device, "masked"), pending.item)
                except DisconnectedError:
                    await self._connection.wait_connected()

    def _key(self, digest: bytes) -> MessageKey:
        return MessageKey(COORDINATOR, "masked", 1, 0, digest)


async def test_a_killed_broker_without_memory_loses_nothing_that_is_resent_until_it_is_acknowledged(
    mortal_broker, settings_for, device_name
):
    payloads = [f"update {number}".encode() * 50 for number in range(60)]
    async with (
        Connection(settings_for(mortal_broker, COORDINATOR, session_expiry_s=600)) as coordinator,
        Connection(settings_for(mortal_broker, device_name)) as device,
    ):
        await coordinator.subscribe(topics.up_filter(FLEET))
        await device.subscribe(topics.down_filter(FLEET, device_name))
        events = device.events()
        receiver = Receiver(coordinator, device_name)
        sender = Sender(device, device_name, payloads)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            background = [group.create_task(work()) for work in (receiver.run, sender.take_acks, sender.follow)]
            sending = group.create_task(sender.send())
            for already in (5, 30, 55):  # further apart than what may wait in the inbox of the receiver
                await receiver.has(already)
                mortal_broker.kill()
                mortal_broker.forget()
                await asyncio.to_thread(mortal_broker.start)
            await sending
            for task in background:
                task.cancel()
    seen = [event async for event in events]
    connections = [event for event in seen if isinstance(event, Connected)]
    assert len(connections) == 4
    assert not any(event.session_present for event in connections)
    assert sum(isinstance(event, Disconnected) for event in seen) >= 4
    assert sorted(receiver.committed.values()) == sorted(payloads)
    assert receiver.arrivals >= len(payloads)
    assert not sender.resender.take_expired()
