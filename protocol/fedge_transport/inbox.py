"""Received messages on their way to a consumer: bounded, and acknowledged only when the consumer is done."""

import asyncio
from collections import deque
from collections.abc import Callable

from fedge_transport.errors import DisconnectedError


class Receipt:
    """The debt of one PUBACK."""

    __slots__ = ("_window", "mid", "settled")

    def __init__(self, window: "AckWindow", mid: int) -> None:
        self._window = window
        self.mid = mid
        self.settled = False

    @property
    def alive(self) -> bool:
        """Whether the connection that the message came by still stands."""
        return self._window.alive

    def settle(self) -> None:
        """The consumer is done."""
        self.settled = True
        self._window.flush()


class AckWindow:
    """The messages of one connection that are not acknowledged yet.

    PUBACKs leave in the order in which the messages came (MQTT 5, 4.6.0-2). The peer may not have more than `limit`
    messages under way (3.3.4-9); it promised so when it accepted our receive maximum.
    """

    def __init__(self, limit: int, send: Callable[[int], object]) -> None:
        self._limit = limit
        self._send = send
        self._open: deque[Receipt] = deque()
        self.alive = True

    def admit(self, mid: int) -> Receipt | None:
        """A receipt for a message that just came; None when the peer broke its promise."""
        if len(self._open) >= self._limit:
            return None
        receipt = Receipt(self, mid)
        self._open.append(receipt)
        return receipt

    def flush(self) -> None:
        """Send what may be sent."""
        while self.alive and self._open and self._open[0].settled:
            self._send(self._open.popleft().mid)

    def end(self) -> None:
        """The connection is gone: the broker delivers again what it did not see acknowledged."""
        self.alive = False
        self._open.clear()


class Incoming:
    """One received message. `ack` it when it is dealt with, refused or of no interest; else it stops the flow."""

    __slots__ = ("_receipt", "payload", "retain", "topic")

    def __init__(self, topic: str, payload: bytes, *, retain: bool, receipt: Receipt | None) -> None:
        self.topic = topic
        self.payload = payload
        self.retain = retain
        self._receipt = receipt

    def __repr__(self) -> str:
        return f"Incoming({self.topic!r}, {len(self.payload)} bytes)"

    def ack(self) -> None:
        """Dealt with. A second call, or one after the connection broke, does nothing: the message then comes again."""
        if self._receipt is not None:
            self._receipt.settle()

    @property
    def owed(self) -> bool:
        """Whether the broker waits for our acknowledgement: it holds the message and counts it against our window."""
        return self._receipt is not None and self._receipt.alive

    @property
    def comes_again(self) -> bool:
        """Whether it came by a connection that broke before it was acknowledged."""
        return self._receipt is not None and not self._receipt.alive


class Inbox:
    """An async iterator over received messages, for one reader.

    Messages that wait for our acknowledgement are bounded by the receive maximum, which the broker must keep. When
    `capacity` messages wait, the oldest of a connection that broke makes room (it comes again), or else a new one of
    quality of service 0 is dropped; both are counted in `dropped`.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiting: deque[Incoming] = deque()
        self._wake = asyncio.Event()
        self._ended = False
        self._error: BaseException | None = None
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __aiter__(self) -> "Inbox":
        return self

    async def __anext__(self) -> Incoming:
        while not self._waiting:
            if self._error is not None:
                raise DisconnectedError("the connection failed for good") from self._error
            if self._ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._waiting.popleft()

    def put(self, message: Incoming) -> None:
        """Add a message; never waits. Its sender is held back by the acknowledgements it does not get."""
        if len(self._waiting) >= self._capacity:
            old = next((waiting for waiting in self._waiting if waiting.comes_again), None)
            if old is not None:
                self._waiting.remove(old)
                self.dropped += 1
            elif not message.owed:
                self.dropped += 1
                return
        self._waiting.append(message)
        self._wake.set()

    def drain(self) -> None:
        """Acknowledge and forget what waits."""
        while self._waiting:
            self._waiting.popleft().ack()

    def end(self, error: BaseException | None = None) -> None:
        """No more messages: the iteration stops, or raises `DisconnectedError`, after those that wait."""
        self._ended = True
        self._error = error
        self._wake.set()
