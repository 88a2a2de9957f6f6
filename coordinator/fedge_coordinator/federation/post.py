"""What the coordinator says: signed once, published, and forgotten; whoever needs it again asks the round machine."""

import asyncio
import hashlib
import logging
from collections.abc import Coroutine
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from fedge_protocol import topics
from fedge_protocol.cose import context_of, encode, sign
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import COORDINATOR, OFFER_KIND, Ack, Body, Down, NoOffer, Offer, Standing
from fedge_transport.connection import Connection
from fedge_transport.errors import DisconnectedError, TransportError

_log = logging.getLogger(__name__)
_KEPT_SIGNATURES: Final = 64


class Post:
    """Signs with the coordinator's key and publishes without waiting.

    A message that meets a broken connection is dropped here: the round's resends and the reconnection bring it again.
    """

    def __init__(self, connection: Connection, fleet: str, key: ec.EllipticCurvePrivateKey) -> None:
        self._connection = connection
        self._fleet = fleet
        self._key = key
        self._signed: dict[int, tuple[Body, bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, device: str, kind: Down, body: Body) -> bytes:
        """Publish a message to one device. The same body object is signed once, however many devices get it.

        Returns the SHA-256 of the message, by which an ACK of it names it.
        """
        known = self._signed.get(id(body))
        if known is None:
            known = (body, self._sign(kind, body))
            if len(self._signed) >= _KEPT_SIGNATURES:
                self._signed.clear()
            self._signed[id(body)] = known
        self._start(self._publish(topics.down(self._fleet, device, kind), known[1]))
        return hashlib.sha256(known[1]).digest()

    def acknowledge(
        self, device: str, kind: str, sha256: bytes, *, round_: int = 0, attempt: int = 0, refused: Reason | None = None
    ) -> None:
        """Tell a device that its message is committed, or refused for good."""
        body = Ack(kind=kind, round=round_, attempt=attempt, sha256=sha256, refused=str(refused) if refused else "")
        self._start(self._publish(topics.down(self._fleet, device, Down.ACK), self._sign(Down.ACK, body)))

    def standing(self, device: str, body: Standing) -> None:
        """Tell a device what is made of its session."""
        self._start(self._publish(topics.down(self._fleet, device, Down.STANDING), self._sign(Down.STANDING, body)))

    async def offer(self, job: str, body: Offer | NoOffer) -> None:
        """Retain the open round of a job (or that there is none). Waits out broken connections."""
        payload = self._sign(OFFER_KIND, body)
        while True:
            try:
                await self._connection.publish(topics.offer(self._fleet, job), payload, retain=True)
            except DisconnectedError:
                await self._connection.wait_connected()
            else:
                return

    async def flushed(self) -> None:
        """Return when all that was said so far is with the broker, or was dropped."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Let what was started end."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)

    def _sign(self, kind: str, body: Body) -> bytes:
        return sign(self._key, encode(body), context_of(self._fleet, COORDINATOR, kind))

    def _start(self, sending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(sending)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _publish(self, topic: str, payload: bytes) -> None:
        try:
            await self._connection.publish(topic, payload)
        except DisconnectedError:
            _log.debug("not sent, no connection: %s", topic)
        except (TransportError, RefusedError) as error:
            _log.warning("not sent: %s: %s", topic, error)
