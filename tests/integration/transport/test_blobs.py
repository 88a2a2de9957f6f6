"""Blobs over a real broker: published, interrupted, continued, lost by the broker, asked for again."""

import asyncio
import random

import pytest
from tests.integration.broker_fixture import COORDINATOR

from fedge_protocol import topics
from fedge_protocol.chunks import split
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import BlobRef
from fedge_transport.blobs import BlobFetcher, BlobPublisher, file_reader
from fedge_transport.connection import Connection
from fedge_transport.errors import MissingBlobError, NotAuthorisedError
from fedge_transport.events import Connected

FLEET = "lab"
MEGABYTE = 1_000_000


def some_blob(size: int) -> bytes:
    return random.Random(size).randbytes(size)  # noqa: S311  test data


async def test_a_blob_of_a_megabyte_goes_on_where_the_fetcher_stopped(broker, settings_for, device_name, tmp_path):
    blob = some_blob(MEGABYTE)
    ref, slices = split(blob)
    assert len(slices) == 8
    async with asyncio.timeout(60), Connection(settings_for(broker, COORDINATOR)) as coordinator:
        await coordinator.wait_connected()
        for index in range(5):
            topic = topics.blob(FLEET, ref.sha256.hex(), index)
            await coordinator.publish(topic, bytes(slices[index]), retain=True)
        async with Connection(settings_for(broker, device_name, session_expiry_s=0)) as device:
            await device.wait_connected()
            with pytest.raises(MissingBlobError) as missing:
                await BlobFetcher(device, FLEET, tmp_path, idle_timeout_s=0.3).fetch(ref)
            assert missing.value.missing == (5, 6, 7)
        publisher = BlobPublisher(coordinator, FLEET)
        assert await publisher.publish(blob) == ref
        for index in range(5):  # so that only a fetch which goes on can succeed
            await coordinator.publish(topics.blob(FLEET, ref.sha256.hex(), index), b"", retain=True)
        async with Connection(settings_for(broker, device_name, session_expiry_s=0)) as device:
            held: list[tuple[int, int]] = []
            path = await BlobFetcher(device, FLEET, tmp_path).fetch(ref, lambda *step: held.append(step))
            assert path.read_bytes() == blob
            assert held == [(6, 8), (7, 8), (8, 8)]
            assert await BlobFetcher(device, FLEET, tmp_path).fetch(ref) == path
        assert [file.name for file in tmp_path.iterdir()] == [ref.sha256.hex()]
        await publisher.clear(ref.sha256)


async def test_a_fetch_that_was_cancelled_in_the_middle_goes_on(broker, settings_for, device_name, tmp_path):
    blob = some_blob(MEGABYTE + 1)
    async with (
        asyncio.timeout(60),
        Connection(settings_for(broker, COORDINATOR)) as coordinator,
        Connection(settings_for(broker, device_name, receive_maximum=2)) as device,
    ):
        publisher = BlobPublisher(coordinator, FLEET)
        await coordinator.wait_connected()
        ref = await publisher.publish(blob)
        await device.wait_connected()
        fetcher = BlobFetcher(device, FLEET, tmp_path)
        held: list[int] = []

        def cut_off(count: int, _all: int) -> None:
            if count == 3:
                fetch.cancel()

        fetch = asyncio.create_task(fetcher.fetch(ref, cut_off))
        await asyncio.wait([fetch])
        assert fetch.cancelled()
        assert [file.suffix for file in tmp_path.iterdir()] == [".part"]
        assert (await fetcher.fetch(ref, lambda count, _: held.append(count))).read_bytes() == blob
        assert held == [4, 5, 6, 7, 8]
        await publisher.clear(ref.sha256)


async def test_a_blob_that_a_killed_broker_lost_is_published_again_while_a_device_fetches_it(
    mortal_broker, settings_for, device_name, tmp_path
):
    blob = some_blob(3 * MEGABYTE)
    source = tmp_path / "source"
    source.write_bytes(blob)
    ref, _ = split(blob)
    store = tmp_path / "store"
    store.mkdir()
    async with (
        asyncio.timeout(60),
        Connection(settings_for(mortal_broker, COORDINATOR, session_expiry_s=600)) as coordinator,
        Connection(settings_for(mortal_broker, device_name, receive_maximum=2)) as device,
    ):
        publisher = BlobPublisher(coordinator, FLEET)
        events = coordinator.events()
        await coordinator.wait_connected()
        await publisher.publish_chunks(ref, file_reader(source, ref))
        fetch = asyncio.create_task(BlobFetcher(device, FLEET, store).fetch(ref))
        await device.wait_connected()
        mortal_broker.kill()
        mortal_broker.forget()
        await asyncio.to_thread(mortal_broker.start)
        connections = 0
        async for event in events:
            connections += isinstance(event, Connected)
            if connections == 2:
                break
        await publisher.republish()
        assert (await fetch).read_bytes() == blob


async def test_a_wanted_blob_is_sent_again_but_not_for_everybody_who_asks(broker, settings_for, device_name, tmp_path):
    blob = some_blob(1000)
    now_s = 100.0
    async with (
        asyncio.timeout(60),
        Connection(settings_for(broker, COORDINATOR)) as coordinator,
        Connection(settings_for(broker, device_name)) as device,
    ):
        publisher = BlobPublisher(coordinator, FLEET, want_interval_s=5, clock=lambda: now_s)
        await coordinator.wait_connected()
        ref = await publisher.publish(blob)
        topic = topics.blob(FLEET, ref.sha256.hex(), 0)
        await device.subscribe(topic)
        assert (await anext(device.incoming())).retain
        assert await publisher.want(ref.sha256)
        now_s += 6
        assert await publisher.want(ref.sha256)
        assert await publisher.want(ref.sha256)
        assert not await publisher.want(bytes(32))
        await coordinator.publish(topic, b"marker")
        assert [(await anext(device.incoming())).payload for _ in range(2)] == [blob, b"marker"]
        await publisher.clear(ref.sha256)


async def test_a_cleared_blob_is_gone(broker, settings_for, device_name, tmp_path):
    async with (
        asyncio.timeout(60),
        Connection(settings_for(broker, COORDINATOR)) as coordinator,
        Connection(settings_for(broker, device_name)) as device,
    ):
        publisher = BlobPublisher(coordinator, FLEET)
        await coordinator.wait_connected()
        ref = await publisher.publish(some_blob(300_000))
        await publisher.clear(ref.sha256)
        assert publisher.published == ()
        await device.wait_connected()
        with pytest.raises(MissingBlobError, match="3 chunks"):
            await BlobFetcher(device, FLEET, tmp_path, idle_timeout_s=0.2).fetch(ref)


async def test_a_broker_that_serves_other_bytes_under_the_name_is_named(broker, settings_for, device_name, tmp_path):
    blob = some_blob(2000)
    ref, _ = split(blob)
    async with (
        asyncio.timeout(60),
        Connection(settings_for(broker, COORDINATOR)) as coordinator,
        Connection(settings_for(broker, device_name)) as device,
    ):
        await coordinator.wait_connected()
        topic = topics.blob(FLEET, ref.sha256.hex(), 0)
        await coordinator.publish(topic, bytes(2000), retain=True)
        fetcher = BlobFetcher(device, FLEET, tmp_path)
        with pytest.raises(RefusedError, match="broker sent") as refused:
            await fetcher.fetch(ref)
        assert refused.value.reason is Reason.MALFORMED
        assert list(tmp_path.iterdir()) == []
        await coordinator.publish(topic, blob, retain=True)
        assert (await fetcher.fetch(ref)).read_bytes() == blob
        await coordinator.publish(topic, b"", retain=True)


async def test_a_blob_above_the_bound_is_not_even_asked_for(broker, settings_for, device_name, tmp_path):
    async with Connection(settings_for(broker, device_name)) as device:
        with pytest.raises(RefusedError) as refused:
            await BlobFetcher(device, FLEET, tmp_path, max_bytes=1000).fetch(BlobRef(sha256=bytes(32), size=1001))
        assert refused.value.reason is Reason.OVERSIZED


async def test_a_device_may_not_publish_blobs(broker, settings_for, device_name):
    async with asyncio.timeout(60), Connection(settings_for(broker, device_name)) as device:
        await device.wait_connected()
        with pytest.raises(NotAuthorisedError):
            await BlobPublisher(device, FLEET).publish(some_blob(10))
