"""What the device says: signed once, stored, and sent until the coordinator's signed ACK; a PUBACK means nothing."""

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedge_agent.identity.keys import Identity
from fedge_agent.store import DeviceStore
from fedge_protocol import topics
from fedge_protocol.backoff import Backoff, Uniform
from fedge_protocol.chunks import chunk_count
from fedge_protocol.cose import context_of, decode, encode, open_signed
from fedge_protocol.errors import RefusedError
from fedge_protocol.messages import BlobRef, Body, Masked, Up
from fedge_protocol.resend import Resender
from fedge_transport.blobs import file_reader
from fedge_transport.connection import Connection
from fedge_transport.errors import DisconnectedError, TransportError

_log = logging.getLogger(__name__)
_BACKOFF: Final = Backoff(first_s=4.0, factor=2.0, ceiling_s=60.0, floor_s=2.0)
_WORTH_SAYING_AGAIN: Final = frozenset({Up.MASKED, Up.SURVIVOR, Up.UNMASK, Up.REFUSAL})
"""After a restart. READY and SHARES would only bring a device into a sum that it can contribute nothing to any more."""


@dataclass(frozen=True)
class Item:
    """A message on its way. `vector` is the file whose chunks follow it."""

    job: str
    round: int
    attempt: int
    kind: str
    message: bytes
    vector: tuple[BlobRef, Path] | None = None

    @property
    def size(self) -> int:
        """Bytes that one sending of it puts on the wire, without headers."""
        return len(self.message) + (self.vector[0].size if self.vector is not None else 0)


class Voice:
    """Signs, stores, sends, resends. `outgoing` is the directory of masked vectors, each named by its SHA-256."""

    def __init__(
        self,
        fleet: str,
        identity: Identity,
        store: DeviceStore,
        connection: Connection,
        outgoing: Path,
        *,
        uniform: Uniform = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._identity = identity
        self._store = store
        self._connection = connection
        self._outgoing = outgoing
        self._clock = clock
        self._waiting: Resender[bytes, Item] = Resender(uniform, backoff=_BACKOFF, capacity=256)
        self._of_round: dict[tuple[str, int, int], set[bytes]] = {}
        self._wake = asyncio.Event()
        self._held = False
        self.bytes_sent = 0

    def say(self, job: str, round_: int, attempt: int, kind: Up, body: Body, *, valid_s: float) -> None:
        """Sign (or find what was signed), store, and send for at most `valid_s` seconds.

        Raises:
            AlreadySignedError: another body of this kind was signed for this round and attempt.
            SigningStoppedError: this identity is a duplicate.
        """
        message = self._store.sign_once(job, round_, attempt, kind, encode(body), lambda plain: self._sign(kind, plain))
        self._keep(Item(job, round_, attempt, kind, message, self._vector(body)), valid_s)

    def say_again(self, since_ms: int, *, valid_s: float) -> int:
        """After a start: send what was signed since then and not acknowledged, byte for byte. Returns how many.

        Vectors that nothing refers to any more are deleted.
        """
        found = [signed for signed in self._store.unacknowledged(since_ms) if signed.kind in _WORTH_SAYING_AGAIN]
        vectors = set()
        for signed in found:
            body = decode(open_signed(signed.message)[0], Masked) if signed.kind == Up.MASKED else None
            item = Item(signed.job, signed.round, signed.attempt, signed.kind, signed.message, self._vector(body))
            if item.vector is not None and not item.vector[1].exists():
                continue  # its round was over, or the vector here, before this start
            self._keep(item, valid_s)
            vectors |= {item.vector[1]} if item.vector is not None else set()
        for path in self._outgoing.iterdir():
            if path not in vectors:
                path.unlink()
        return len(found)

    async def tell(self, kind: Up, body: Body) -> None:
        """Send once, without waiting for an ACK; dropped when there is no connection, or all but SESSION is held."""
        if kind is Up.SESSION or not self._held:
            await self._publish(kind, self._sign(kind, encode(body)))

    def acknowledged(self, sha256: bytes) -> Item | None:
        """The coordinator has the message with this hash. Returns it; None when it was not waiting."""
        self._store.acknowledged(sha256)
        item = self._waiting.acknowledge(sha256)
        if item is not None:
            self._let_go(sha256, item)
        return item

    def repeat(self, kind: Up, last: int, *, then: Item, valid_s: float) -> None:
        """Send the newest `last` messages of a kind again, as they were stored, and after them an item."""
        for signed in self._store.newest(kind, last):
            self._keep(Item(signed.job, signed.round, signed.attempt, signed.kind, signed.message), valid_s)
        self._keep(then, valid_s)

    def forget(self, job: str, round_: int, attempt: int) -> None:
        """The round is over: stop sending what belonged to it."""
        for sha256 in list(self._of_round.get((job, round_, attempt), ())):
            item = self._waiting.acknowledge(sha256)
            if item is not None:
                self._let_go(sha256, item)

    def hold(self) -> None:
        """Let nothing leave until `hurry`: the coordinator has yet to confirm whom it hears."""
        self._held = True

    def hurry(self) -> None:
        """The connection is back and confirmed: send everything that waits."""
        self._held = False
        self._waiting.hurry(self._clock())
        self._wake.set()

    async def run(self) -> None:
        """Send what is due until cancelled."""
        while True:
            if self._held:
                self._wake.clear()
                await self._wake.wait()
                continue
            now_s = self._clock()
            for pending in self._waiting.due(now_s):
                await self._send(pending.item)
            for expired in self._waiting.take_expired():
                _log.info("no acknowledgement of %s, round %s: given up", expired.item.kind, expired.item.round)
                self._let_go(expired.key, expired.item)
            next_s = self._waiting.next_at()
            self._wake.clear()
            try:
                async with asyncio.timeout(None if next_s is None else max(next_s - self._clock(), 0.0)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _sign(self, kind: str, body: bytes) -> bytes:
        return self._identity.sign(body, context_of(self._fleet, self._identity.device_id, kind))

    def _vector(self, body: Body | None) -> tuple[BlobRef, Path] | None:
        return (body.vector, self._outgoing / body.vector.sha256.hex()) if isinstance(body, Masked) else None

    def _keep(self, item: Item, valid_s: float) -> None:
        now_s = self._clock()
        sha256 = _hash(item.message)
        self._waiting.add(sha256, item, now_s=now_s, deadline_s=now_s + valid_s)
        self._of_round.setdefault((item.job, item.round, item.attempt), set()).add(sha256)
        self._wake.set()

    def _let_go(self, sha256: bytes, item: Item) -> None:
        """Nothing sends this item any more: its vector is not needed either."""
        key = (item.job, item.round, item.attempt)
        waiting = self._of_round.get(key, set())
        waiting.discard(sha256)
        if not waiting:
            self._of_round.pop(key, None)
        if item.vector is not None:
            item.vector[1].unlink(missing_ok=True)

    async def _send(self, item: Item) -> None:
        if self._held:
            return  # it is due again when the connection is confirmed
        if not await self._publish(item.kind, item.message) or item.vector is None:
            return
        ref, path = item.vector
        read = file_reader(path, ref)
        try:
            for index in range(chunk_count(ref.size)):
                topic = topics.up_chunk(self._fleet, self._identity.device_id, ref.sha256.hex(), index)
                chunk = read(index)
                await self._connection.publish(topic, chunk)
                self.bytes_sent += len(chunk)
        except DisconnectedError:
            return
        except (OSError, TransportError) as error:
            _log.warning("the masked vector could not be sent: %s", error)

    async def _publish(self, kind: str, message: bytes) -> bool:
        try:
            await self._connection.publish(topics.up(self._fleet, self._identity.device_id, kind), message)
        except DisconnectedError:
            return False
        except (TransportError, RefusedError) as error:
            _log.warning("%s was not sent: %s", kind, error)
            return False
        self.bytes_sent += len(message)
        return True


def _hash(message: bytes) -> bytes:
    return hashlib.sha256(message).digest()
