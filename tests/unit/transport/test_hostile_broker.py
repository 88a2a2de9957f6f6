"""A broker that breaks its promises. Scripted, since Mosquitto cannot be made to: it speaks raw bytes on loopback."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from fedge_protocol.backoff import Backoff
from fedge_transport.connection import Connection
from fedge_transport.errors import (
    DisconnectedError,
    NotAuthorisedError,
    PublishRefusedError,
    SubscribeRefusedError,
    TooLargeError,
)
from fedge_transport.events import Connected, Disconnected, Ending, FiltersRefused
from fedge_transport.settings import ConnectionSettings

CONNACK = b"\x20\x03\x00\x00\x00"
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    command = (await reader.readexactly(1))[0]
    length = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return command, await reader.readexactly(length)


def publication(mid: int, *, qos: int = 1, topic: bytes = b"t", payload: bytes = b"x") -> bytes:
    body = len(topic).to_bytes(2) + topic + (mid.to_bytes(2) if qos else b"") + b"\x00" + payload
    assert len(body) < 128
    return bytes([0x30 | qos << 1, len(body)]) + body


@contextlib.asynccontextmanager
async def speaking_to(script: Script, **changes: object) -> AsyncIterator[Connection]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            assert (await read_packet(reader))[0] == 0x10
            await script(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    values: dict[str, object] = {
        "host": "127.0.0.1",
        "port": server.sockets[0].getsockname()[1],
        "client_id": "d",
        "backoff": Backoff(first_s=0.01, ceiling_s=3600, factor=1e6),
        **changes,
    }
    async with asyncio.timeout(20), Connection(ConnectionSettings(**values), uniform=lambda: 0.5) as connection:  # type: ignore[arg-type]
        yield connection
    server.close()


def saying(*packets: bytes) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK + b"".join(packets))
        await writer.drain()
        await reader.read()

    return script


async def first_end(connection: Connection) -> Disconnected:
    async for event in connection.events():
        if isinstance(event, Disconnected):
            return event
    raise AssertionError("no end")


@pytest.mark.parametrize(
    ("packets", "reason", "detail"),
    [
        ([b"\x30\xff\xff\xff\x7f" + bytes(100)], Ending.LOST, "packet of 268435455 bytes"),
        ([publication(7, qos=2)], Ending.LOST, "QoS 2"),
        ([publication(mid) for mid in range(1, 6)], Ending.PROTOCOL, "receive maximum"),
        ([publication(1, topic=b"\xff\xfe")], Ending.PROTOCOL, "not UTF-8"),
        ([b"\xe0\x01\x8e"], Ending.TAKEN_OVER, "taken over"),
        ([b"\xe0\x01\x8b"], Ending.SERVER, "shutting down"),
        ([b"\x40\x03\x00\x01\x55"], None, ""),
        ([b"\x30\x05\x00\xff\x00\x00\x00"], None, ""),
        ([b"\x90\x03\x00\x01\x09"], None, ""),
        ([b"\xe0\x01\x77"], None, ""),
        ([b"\xf0\x00"], None, ""),
        ([b"\x00\x00"], None, ""),
    ],
)
async def test_a_broker_that_breaks_the_protocol_is_left_and_the_process_lives(packets, reason, detail):
    async with speaking_to(saying(*packets), receive_maximum=4) as connection:
        ended = await first_end(connection)
        if reason is not None:
            assert ended.reason is reason
        assert detail in ended.detail
        assert ended.retry_in_s is not None
        with pytest.raises(DisconnectedError):
            await connection.publish("t", b"x")


async def test_after_a_take_over_the_next_attempt_waits_longest():
    async with speaking_to(saying(b"\xe0\x01\x8e")) as connection:
        ended = await first_end(connection)
        assert ended.retry_in_s == 1800.0


async def test_a_refusal_of_the_connection_is_named():
    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x20\x03\x00\x87\x00")
        await writer.drain()

    async with speaking_to(refuse) as connection:
        ended = await first_end(connection)
        assert (ended.reason, ended.detail) == (Ending.REFUSED, "Not authorized")


async def test_a_broker_that_never_answers_is_given_up():
    async def keep_silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with speaking_to(keep_silent, connect_timeout_s=0.1) as connection:
        ended = await first_end(connection)
        assert ended.reason is Ending.UNREACHABLE
        assert "0.1 s" in ended.detail


async def test_a_broker_that_falls_silent_is_probed_and_left():
    heard: list[int] = []

    async def fall_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK)
        while True:
            heard.append((await read_packet(reader))[0])

    async with speaking_to(fall_silent, keepalive_s=1) as connection:
        ended = await first_end(connection)
        assert ended.reason is Ending.LOST
        assert heard == [0xC0]


@pytest.mark.parametrize(
    ("code", "error"), [(0x87, NotAuthorisedError), (0x97, PublishRefusedError), (0x00, None), (0x10, None)]
)
async def test_the_reason_code_of_a_puback_is_believed(code, error):
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK)
        command, body = await read_packet(reader)
        assert command == 0x32
        writer.write(b"\x40\x03" + body[3:5] + bytes([code]))
        await reader.read()

    async with speaking_to(answer) as connection:
        await connection.wait_connected()
        with pytest.raises(error) if error else contextlib.nullcontext():
            await connection.publish("t", b"x")


async def test_a_forbidden_publication_is_not_repeated_though_the_broker_hangs_up_after_its_answer():
    heard: list[int] = []
    heard_twice = asyncio.Event()

    async def forbid(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK)
        command, body = await read_packet(reader)
        heard.append(command)
        if command == 0x32:
            writer.write(b"\x40\x03" + body[3:5] + b"\x87")
            await writer.drain()
        else:
            heard_twice.set()

    async with speaking_to(forbid) as connection:
        await connection.wait_connected()
        with pytest.raises(NotAuthorisedError):
            await connection.publish("t", b"x")
        async for event in connection.events():
            if isinstance(event, Disconnected):
                break
        await connection.wait_connected()
        await connection.close()
        await heard_twice.wait()
        assert heard == [0x32, 0xE0]  # on the second connection nothing but the farewell


async def test_who_waits_for_the_connection_that_broke_under_a_publication_waits_for_the_next_one():
    """The publisher hears of the break before the connection itself does, and must not turn in circles until then."""
    served = 0

    async def hang_up_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        writer.write(CONNACK)
        _, body = await read_packet(reader)
        if served > 1:
            writer.write(b"\x40\x02" + body[3:5])
            await reader.read()

    turns = 0
    async with speaking_to(hang_up_once, backoff=Backoff(first_s=0.01, ceiling_s=0.01, factor=1.0)) as connection:
        await connection.wait_connected()
        while True:
            turns += 1
            assert turns < 10
            try:
                await connection.publish("t", b"x")
            except DisconnectedError:
                await connection.wait_connected()
            else:
                break
    assert served == 2


async def test_refused_filters_are_reported_when_asked_for_and_after_a_reconnection():
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK)
        while True:
            command, body = await read_packet(reader)
            if command == 0x82:
                writer.write(b"\x90\x04" + body[:2] + b"\x00" + b"\x87")

    async with speaking_to(refuse) as connection:
        await connection.subscribe("secret/a")
        async for event in connection.events():
            if isinstance(event, FiltersRefused):
                assert event.filters == ("secret/a",)
                break
        with pytest.raises(SubscribeRefusedError, match="secret/b"):
            await connection.subscribe("secret/b")


async def test_no_more_is_under_way_than_the_broker_allows_and_all_fail_when_it_leaves():
    received = 0

    async def allow_two(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        writer.write(b"\x20\x06\x00\x00\x03\x21\x00\x02")  # receive maximum 2
        for _ in range(2):
            await read_packet(reader)
            received += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await read_packet(reader)
                received += 1

    async with speaking_to(allow_two) as connection:
        await connection.wait_connected()
        results = await asyncio.gather(
            *(connection.publish("t", bytes([number])) for number in range(10)), return_exceptions=True
        )
        assert [type(result) for result in results] == [DisconnectedError] * 10
        assert received == 2


async def test_the_packet_size_of_the_broker_is_respected():
    async def small(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x20\x08\x00\x00\x05\x27\x00\x00\x00\x80")  # maximum packet size 128
        await reader.read()

    async with speaking_to(small) as connection:
        await connection.wait_connected()
        with pytest.raises(TooLargeError, match="128"):
            await connection.publish("t", bytes(128))


async def test_acknowledgements_leave_in_the_order_in_which_the_messages_came():
    acked: list[int] = []
    done = asyncio.Event()

    async def send_three(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK + b"".join(publication(mid) for mid in (11, 12, 13)))
        while len(acked) < 3:
            command, body = await read_packet(reader)
            assert command == 0x40
            acked.append(int.from_bytes(body[:2]))
        done.set()
        await reader.read()

    async with speaking_to(send_three) as connection:
        first, second, third = [await anext(connection.incoming()) for _ in range(3)]
        third.ack()
        second.ack()
        second.ack()
        assert acked == []
        first.ack()
        await done.wait()
        assert acked == [11, 12, 13]


async def test_messages_of_quality_0_that_nobody_reads_do_not_pile_up():
    last = publication(1, topic=b"last")
    flood = [publication(0, qos=0, payload=bytes([number])) for number in range(100)]
    async with speaking_to(saying(*flood, last), receive_maximum=4) as connection:
        await anext(connection.route("last"))
        inbox = connection.incoming()
        assert inbox.dropped == 92
        assert [(await anext(inbox)).payload for _ in range(8)] == [bytes([number]) for number in range(8)]


async def test_what_comes_late_for_a_route_that_ended_is_acknowledged_and_does_not_stop_the_flow():
    acked: list[int] = []
    done = asyncio.Event()

    async def insisting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK + publication(1, topic=b"blob/1") + publication(2, topic=b"blob/2"))
        while len(acked) < 3:
            command, body = await read_packet(reader)
            assert command == 0x40
            acked.append(int.from_bytes(body[:2]))
            if len(acked) == 1:
                writer.write(publication(3, topic=b"blob/3"))
        done.set()

    async with speaking_to(insisting, receive_maximum=2) as connection:
        inbox = connection.route("blob/")
        await connection.wait_connected()
        first = await anext(inbox)
        connection.unroute("blob/")
        first.ack()
        await done.wait()
        assert acked == [1, 2, 3]


async def test_the_reported_connection_is_the_present_state_for_whoever_asks_later():
    async with speaking_to(saying()) as connection:
        await connection.wait_connected()
        assert await anext(connection.events()) == Connected(session_present=False)
        assert await anext(connection.events()) == Connected(session_present=False)
