"""One network connection from CONNECT to its end. It is never used again; `Connection` makes the next one."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from fedge_transport.errors import DisconnectedError, NotAuthorisedError, PublishRefusedError, TooLargeError
from fedge_transport.events import Ending
from fedge_transport.inbox import AckWindow, Incoming
from fedge_transport.opening import Socket, bare, pending
from fedge_transport.route import Allowance
from fedge_transport.settings import ConnectionSettings
from fedge_transport.strict_paho import IN_FLIGHT_MOST, StrictClient, properties_of
from fedge_transport.traffic import wire_bytes

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike

_PACKETS_A_TURN: Final = 32
_FILTERS_A_PACKET: Final = 64
_FAREWELL_S: Final = 2.0
_HEADER_BYTES: Final = 32
_NOT_AUTHORISED: Final = 135
_PACKET_TOO_LARGE: Final = 149
_TAKEN_OVER: Final = 142


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a link ended."""

    reason: Ending
    detail: str


class Link:
    """MQTT 5 over one open socket, driven by the event loop's readiness callbacks; no thread.

    Args:
        settings: identity and bounds.
        sock: connected, non-blocking, TLS done; the link owns it from here.
        deliver: takes every received message; must not raise.
        allowance: counts what the link costs; when it is spent, the link ends.
    """

    def __init__(
        self,
        settings: ConnectionSettings,
        sock: Socket,
        deliver: Callable[[Incoming], None],
        allowance: Allowance | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._allowance = allowance
        self._counted_bytes = 0
        self._foreseen_bytes = 0
        self._deliver = deliver
        self._max_packet_bytes = settings.max_packet_bytes
        self._slots = asyncio.Semaphore(IN_FLIGHT_MOST)
        self._published: dict[int, asyncio.Future[ReasonCode]] = {}
        self._answered: dict[int, asyncio.Future[list[ReasonCode]]] = {}
        self._accepted: asyncio.Future[bool] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self.ended: asyncio.Future[Ended] = self._loop.create_future()
        self._client = StrictClient(settings, sock)
        self._window = AckWindow(settings.receive_maximum, self._acknowledge)
        self._listen()

    async def start(self) -> bool:
        """CONNECT, and wait for the broker's word: True when it kept our session.

        Raises:
            DisconnectedError: the broker refused us or the connection broke; `ended` says why.
        """
        self._guard(self._client.reconnect)
        self._tick()
        return await self._accepted

    async def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool, expiry_s: int | None) -> None:
        """See `Connection.publish`."""
        size = len(payload) + len(topic.encode()) + _HEADER_BYTES
        if size > self._max_packet_bytes:
            raise TooLargeError(f"{len(payload)} bytes for {topic}: a packet may have {self._max_packet_bytes}")
        properties = None
        if expiry_s is not None:
            properties = properties_of(PacketTypes.PUBLISH)
            properties.MessageExpiryInterval = expiry_s
        await self._slots.acquire()
        try:
            self._count()
            self._require_open()
            self._take(size)
            mid = self._client.publish(topic, payload, qos, retain, properties).mid
        except BaseException:
            self._slots.release()
            raise
        answer: asyncio.Future[ReasonCode] = self._loop.create_future()
        self._published[mid] = answer
        _raise_for(await answer, topic, len(payload))

    async def subscribe(self, filters: Sequence[str]) -> tuple[str, ...]:
        """Subscribe with QoS 1; returns the filters that the broker refused.

        Raises:
            DisconnectedError: the connection broke before the answer.
        """
        refused: list[str] = []
        for start in range(0, len(filters), _FILTERS_A_PACKET):
            part = filters[start : start + _FILTERS_A_PACKET]
            self._require_open()
            codes = await self._answer(self._client.subscribe([(wanted, 1) for wanted in part]))
            refused += [wanted for wanted, code in zip(part, codes, strict=False) if code.is_failure]
        return tuple(refused)

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Take subscriptions back; one that never was is no error.

        Raises:
            DisconnectedError: the connection broke before the answer.
        """
        for start in range(0, len(filters), _FILTERS_A_PACKET):
            self._require_open()
            await self._answer(self._client.unsubscribe(list(filters[start : start + _FILTERS_A_PACKET])))

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return not self.ended.done()

    async def close(self) -> None:
        """Say farewell, so that the last will does not fire, and close."""
        self._closing = True
        if not self.ended.done():
            self._guard(self._client.disconnect)
            await asyncio.wait([self.ended], timeout=_FAREWELL_S)
        self.abort(Ending.CLOSED, "closed by this side")

    def abort(self, reason: Ending, detail: str) -> None:
        """Close without a farewell."""
        self._end(reason, detail)
        self._client.drop()

    def _listen(self) -> None:
        client = self._client
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        client.on_socket_register_write = self._on_full
        client.on_socket_unregister_write = self._on_empty
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_answer
        client.on_unsubscribe = self._on_answer

    def _acknowledge(self, mid: int) -> None:
        self._guard(partial(self._client.ack, mid, 1))

    async def _answer(self, sent: tuple[MQTTErrorCode, int | None]) -> list[ReasonCode]:
        code, mid = sent
        if mid is None:
            raise DisconnectedError(f"not sent: {code.name}")
        answer: asyncio.Future[list[ReasonCode]] = self._loop.create_future()
        self._answered[mid] = answer
        return await answer

    def _require_open(self) -> None:
        if self.ended.done():
            raise DisconnectedError(str(self.ended.result()))

    def _readable(self) -> None:
        for _ in range(_PACKETS_A_TURN):
            self._guard(self._client.loop_read)
            if self._client.socket() is None or not pending(self._sock):
                break  # a plain socket, or one with more still in the kernel, becomes readable again by itself
        else:
            self._loop.call_soon(self._readable)
        self._count()

    def _tick(self) -> None:
        self._guard(self._client.loop_misc)
        self._count()
        if not self.ended.done():
            self._timer = self._loop.call_later(max(self._client.keepalive, 1) / 4, self._tick)

    def _count(self) -> None:
        self._settle()
        if self._allowance is not None and self._allowance.spent:
            self.abort(Ending.BUDGET, "the day's bytes are spent")

    def _settle(self) -> None:
        if self._allowance is None:
            return
        total_bytes = wire_bytes(bare(self._sock))
        if total_bytes > self._counted_bytes:  # a socket that is closed tells nothing
            new_bytes = total_bytes - self._counted_bytes
            foreseen_bytes = min(new_bytes, self._foreseen_bytes)
            self._foreseen_bytes -= foreseen_bytes
            self._counted_bytes = total_bytes
            self._allowance.use(new_bytes - foreseen_bytes)

    def _take(self, size: int) -> None:
        """Count a message when it is queued: many at once must not all pass by a count that comes after them."""
        if self._allowance is not None:
            self._foreseen_bytes += size
            self._allowance.use(size)

    def _guard(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001  what paho raises over hostile bytes is not listed anywhere
            self.abort(Ending.PROTOCOL, repr(error))

    def _on_socket_open(self, _client: Client, _data: object, sock: "SocketLike") -> None:
        self._loop.add_reader(sock.fileno(), self._readable)

    def _on_socket_close(self, _client: Client, _data: object, sock: "SocketLike") -> None:
        self._loop.remove_reader(sock.fileno())

    def _on_full(self, client: Client, _data: object, sock: "SocketLike") -> None:
        self._loop.add_writer(sock.fileno(), self._guard, client.loop_write)

    def _on_empty(self, _client: Client, _data: object, sock: "SocketLike") -> None:
        self._loop.remove_writer(sock.fileno())

    def _on_connect(
        self, _client: Client, _data: object, flags: ConnectFlags, code: ReasonCode, found: Properties | None
    ) -> None:
        if code.is_failure:
            self._end(Ending.REFUSED, str(code))
        elif not self._accepted.done():
            self._max_packet_bytes = min(self._max_packet_bytes, getattr(found, "MaximumPacketSize", 2**32))
            in_flight = min(IN_FLIGHT_MOST, getattr(found, "ReceiveMaximum", IN_FLIGHT_MOST))
            self._slots = asyncio.Semaphore(max(in_flight, 1))
            self._accepted.set_result(flags.session_present)

    def _on_disconnect(
        self, _client: Client, _data: object, flags: DisconnectFlags, code: ReasonCode, _found: Properties | None
    ) -> None:
        fault = self._client.fault
        if self._closing:
            self._end(Ending.CLOSED, "closed by this side")
        elif flags.is_disconnect_packet_from_server:
            self._end(Ending.TAKEN_OVER if code.value == _TAKEN_OVER else Ending.SERVER, str(code))
        elif fault is not None:
            self._end(Ending.TLS if isinstance(fault, ssl.SSLError) else Ending.LOST, str(fault))
        else:
            self._end(Ending.LOST, str(code))

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        receipt = None
        if message.qos:
            receipt = self._window.admit(message.mid)
            if receipt is None:
                self._loop.call_soon(self.abort, Ending.PROTOCOL, "more messages under way than our receive maximum")
                return
        try:
            topic = message.topic
        except UnicodeDecodeError:
            self._loop.call_soon(self.abort, Ending.PROTOCOL, "a topic that is not UTF-8")
            return
        self._deliver(Incoming(topic, bytes(message.payload), retain=message.retain, receipt=receipt))

    def _on_publish(
        self, _client: Client, _data: object, mid: int, code: ReasonCode, _found: Properties | None
    ) -> None:
        answer = self._published.pop(mid, None)
        if answer is not None:
            self._slots.release()
            if not answer.done():
                answer.set_result(code)

    def _on_answer(
        self, _client: Client, _data: object, mid: int, codes: list[ReasonCode], _found: Properties | None
    ) -> None:
        answer = self._answered.pop(mid, None)
        if answer is not None and not answer.done():
            answer.set_result(codes)

    def _end(self, reason: Ending, detail: str) -> None:
        if self.ended.done():
            return
        self._settle()
        self.ended.set_result(Ended(reason, detail))
        self._window.end()
        if self._timer is not None:
            self._timer.cancel()
        error = f"{reason}: {detail}"
        for _ in self._published:
            self._slots.release()
        waiting: list[asyncio.Future[Any]] = [*self._published.values(), *self._answered.values(), self._accepted]
        self._published.clear()
        self._answered.clear()
        for answer in waiting:
            if not answer.done():
                answer.set_exception(DisconnectedError(error))


def _raise_for(code: ReasonCode, topic: str, size: int) -> None:
    if code.value == _NOT_AUTHORISED:
        raise NotAuthorisedError(f"the broker's access list forbids publishing to {topic}")
    if code.value == _PACKET_TOO_LARGE:
        raise TooLargeError(f"{size} bytes for {topic} are more than the broker accepts")
    if code.is_failure:
        raise PublishRefusedError(f"the broker refused {topic}: {code}")
