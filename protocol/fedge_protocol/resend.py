"""What was sent and not yet acknowledged by its receiver, and when to send it again. No I/O, no clock of its own.

A broker's PUBACK means nothing: a killed broker loses messages it acknowledged. A sender keeps an item here until the
receiver's signed ACK names it, or its deadline passes.
"""

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from fedge_protocol.backoff import Backoff, Uniform
from fedge_protocol.errors import ProtocolError

DEFAULT_BACKOFF: Final = Backoff(first_s=4.0, factor=2.0, ceiling_s=60.0, floor_s=2.0)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ResendFullError(ProtocolError):
    """Too many messages wait for an acknowledgement. Wait until some are acknowledged or expire, then try again."""


@dataclass(frozen=True, slots=True)
class MessageKey:
    """What an ACK names: one message of a conversation with `peer` (a device id, or "coordinator")."""

    peer: str
    kind: str
    round: int
    attempt: int
    sha256: bytes


@dataclass(slots=True)
class Pending(Generic[K, V]):
    """An item that waits for its acknowledgement. `sends` counts how often `due` returned it."""

    key: K
    item: V
    deadline_s: float
    sends: int
    next_s: float


class Resender(Generic[K, V]):
    """Keeps items until they are acknowledged, and says which are to be sent now. Times are seconds on any one clock.

    Args:
        uniform: randomness for the jitter, in [0, 1).
        backoff: how the waits grow.
        capacity: most items kept at once, expired ones included until they are taken.
    """

    def __init__(self, uniform: Uniform, *, backoff: Backoff = DEFAULT_BACKOFF, capacity: int = 4096) -> None:
        self._uniform = uniform
        self._backoff = backoff
        self._capacity = capacity
        self._pending: dict[K, Pending[K, V]] = {}
        self._expired: list[Pending[K, V]] = []
        self._agenda: list[tuple[float, int, K]] = []
        self._order = 0

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, key: K) -> bool:
        return key in self._pending

    def add(self, key: K, item: V, *, now_s: float, deadline_s: float) -> None:
        """Keep `item`, due at once. A key that is kept already stays as it was: adding twice sends once.

        Raises:
            ResendFullError: when `capacity` items are kept.
        """
        if key in self._pending:
            return
        if len(self._pending) + len(self._expired) >= self._capacity:
            raise ResendFullError(f"{self._capacity} messages wait for an acknowledgement; {key!r} is one too many")
        pending = Pending(key=key, item=item, deadline_s=deadline_s, sends=0, next_s=min(now_s, deadline_s))
        self._pending[key] = pending
        self._schedule(pending)

    def acknowledge(self, key: K) -> V | None:
        """The receiver has it: forget it. Returns the item; None for an unknown key, as a second ACK is normal."""
        pending = self._pending.pop(key, None)
        return pending.item if pending is not None else None

    def due(self, now_s: float) -> list[Pending[K, V]]:
        """What to send now, the next attempt of each already scheduled. Items past their deadline are not among it."""
        items: list[Pending[K, V]] = []
        while self._agenda and self._agenda[0][0] <= now_s:
            at_s, _, key = heapq.heappop(self._agenda)
            pending = self._pending.get(key)
            if pending is None or pending.next_s != at_s:
                continue  # acknowledged, or moved by `hurry`
            if now_s >= pending.deadline_s:
                self._expired.append(self._pending.pop(key))
                continue
            delay_s = self._backoff.delay_s(pending.sends, self._uniform)
            pending.sends += 1
            pending.next_s = min(now_s + max(delay_s, 1e-3), pending.deadline_s)
            items.append(pending)
        for pending in items:
            self._schedule(pending)
        return items

    def hurry(self, now_s: float) -> None:
        """Make everything due now: the broker lost its state, or a link came back."""
        self._agenda.clear()
        for pending in self._pending.values():
            pending.next_s = min(now_s, pending.deadline_s)
            self._schedule(pending)

    def take_expired(self) -> list[Pending[K, V]]:
        """The items whose deadline passed since the last call, as `due` found them."""
        expired, self._expired = self._expired, []
        return expired

    def next_at(self) -> float | None:
        """When `due` will next have something to do (send or expire); None while nothing waits."""
        while self._agenda:
            at_s, _, key = self._agenda[0]
            pending = self._pending.get(key)
            if pending is not None and pending.next_s == at_s:
                return at_s
            heapq.heappop(self._agenda)
        return None

    def _schedule(self, pending: Pending[K, V]) -> None:
        self._order += 1
        heapq.heappush(self._agenda, (pending.next_s, self._order, pending.key))
