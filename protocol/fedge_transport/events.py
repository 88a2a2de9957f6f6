"""What happens to a connection, as its owner sees it."""

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_KEPT: Final = 64


class Ending(StrEnum):
    """Why a connection, or an attempt at one, ended."""

    CLOSED = "closed"
    UNREACHABLE = "unreachable"
    TLS = "tls"
    REFUSED = "refused"
    TAKEN_OVER = "taken-over"
    LOST = "lost"
    SERVER = "server"
    PROTOCOL = "protocol"
    BUDGET = "budget"


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted us and our subscriptions stand.

    Without a present session the broker has forgotten everything: what was in flight either way, and, when it had no
    persistence, retained messages too. The owner then sends again what is not acknowledged by its receiver.
    """

    session_present: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection ended, or an attempt failed; the next attempt is in `retry_in_s` seconds (None: there is none)."""

    reason: Ending
    detail: str
    retry_in_s: float | None


@dataclass(frozen=True, slots=True)
class FiltersRefused:
    """After a reconnection the broker refused filters that it should allow."""

    filters: tuple[str, ...]


Event = Connected | Disconnected | FiltersRefused


class EventStream:
    """An async iterator over events, for one reader. A reader that sleeps loses the oldest, never the latest 64."""

    def __init__(self, current: Event | None = None) -> None:
        self._waiting: deque[Event] = deque(maxlen=_KEPT)
        self._wake = asyncio.Event()
        self._ended = False
        if current is not None:
            self.put(current)

    def __aiter__(self) -> "EventStream":
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._waiting.popleft()

    def put(self, event: Event) -> None:
        """Add an event; never waits."""
        self._waiting.append(event)
        self._wake.set()

    def end(self) -> None:
        """No more events: the iteration stops after those that wait."""
        self._ended = True
        self._wake.set()
