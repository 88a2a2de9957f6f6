"""The device at the broker: verifies what the coordinator says and gives it to the round it belongs to."""

import asyncio
import hashlib
import logging
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from fedge_agent.federation.condition import ConditionTeller
from fedge_agent.federation.consent import Consent
from fedge_agent.federation.driver import Parts, RoundDriver
from fedge_agent.federation.machine import DeviceRound
from fedge_agent.federation.offers import open_offer
from fedge_agent.federation.roster import CertificateCheck
from fedge_agent.federation.sessions import Sessions
from fedge_agent.federation.turned_away import TurnedAway
from fedge_agent.identity.host import Host
from fedge_agent.identity.keys import Identity
from fedge_protocol import topics
from fedge_protocol.backoff import Backoff
from fedge_protocol.cose import context_of, decode, decode_version, encode, verify
from fedge_protocol.eip712 import Domain
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import (
    COORDINATOR,
    OFFER_KIND,
    PRESENCE_KIND,
    Abort,
    Ack,
    Down,
    Inbound,
    NoOffer,
    Offer,
    Presence,
    Result,
    Round,
    Standing,
    Survivors,
    UnmaskRequest,
    Up,
    Verdict,
)
from fedge_protocol.printable import printable
from fedge_transport.connection import Connection
from fedge_transport.errors import DisconnectedError, TransportError
from fedge_transport.events import Connected, Disconnected

_log = logging.getLogger(__name__)
_KINDS: Final = {OFFER_KIND, PRESENCE_KIND, *Down, *Up}
_OTHER: Final = "other"
_AGAIN_WITHIN_MS: Final = 3_600_000
_AGAIN_VALID_S: Final = 60.0
_ASK: Final = Backoff(first_s=2.0, factor=2.0, ceiling_s=60.0, floor_s=1.0)
"""For the coordinator's word on a session."""
_ASK_AGAIN: Final = Backoff(first_s=60.0, factor=1.0, ceiling_s=60.0, floor_s=30.0)
"""For the operator's word on a duplicate."""
_MOST_KEPT: Final = 128
"""Topics of which the newest message waits for the session to be confirmed."""
_LAST_BATCHES: Final = 4
"""Of prekeys: what is left of them is in the last two."""


@dataclass(frozen=True)
class Belonging:
    """Which fleet, and whose word counts."""

    fleet: str
    device: str
    coordinator_key: ec.EllipticCurvePublicKey
    domain: Domain
    check_certificate: CertificateCheck


def presence_message(identity: Identity, fleet: str, body: Presence) -> bytes:
    """The signed birth, farewell or last will of this device."""
    return identity.sign(encode(body), context_of(fleet, identity.device_id, PRESENCE_KIND))


class _Signer:
    """The identity as the round machine sees it."""

    def __init__(self, identity: Identity) -> None:
        self.sign_statement = identity.sign_raw
        self.sign_receipt = identity.sign_receipt


class FederationClient:
    """Runs rounds, one at a time, for as long as it is run.

    Args:
        birth: the signed message that this device is there, and
        farewell: that it goes; see `presence_message`.
        host: what tells this machine from others.
    """

    def __init__(
        self,
        belonging: Belonging,
        identity: Identity,
        consent: Consent,
        connection: Connection,
        parts: Parts,
        *,
        birth: bytes,
        farewell: bytes,
        host: Host,
    ) -> None:
        self.sessions = Sessions(belonging.device, parts.store, host, os.urandom)
        self.round: RoundDriver | None = None
        self.waiting_for: NoOffer | None = None
        self.connected = False
        self.refused: Counter[tuple[str, str]] = Counter()
        self._reintroduced = b""
        self._belonging = belonging
        self._identity = identity
        self._consent = consent
        self._connection = connection
        self._parts = parts
        self._birth = birth
        self._farewell = farewell
        self._condition = ConditionTeller(lambda body: parts.voice.tell(Up.CONDITION, body))
        self._session_changed = asyncio.Event()
        self._kept: dict[str, bytes] = {}
        self._turned_away = TurnedAway()
        self._beginning = asyncio.Lock()

    async def run(self) -> None:
        """Serve until cancelled."""
        who, parts = self._belonging, self._parts
        parts.voice.hold()
        parts.store.burn_reserved()
        parts.voice.say_again(int(time.time() * 1000) - _AGAIN_WITHIN_MS, valid_s=_AGAIN_VALID_S)
        await self._connection.subscribe(topics.down_filter(who.fleet, who.device), topics.offers_filter(who.fleet))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch_connection())
                group.create_task(self._receive())
                group.create_task(self._introduce())
                group.create_task(self._take_up())
                group.create_task(self._condition.run())
                group.create_task(parts.voice.run())
        finally:
            if self.round is not None:
                await self.round.close()

    async def farewell(self) -> None:
        """Say that this device goes; the last will stays for the unexpected."""
        await self._announce(self._farewell)

    def admission_changed(self) -> None:
        """Pass a decision on to the round."""
        if self.round is not None and self.round.outcome is None:
            self.round.admission_changed()
        self._condition.changed(self._parts.admission.decision)
        self._parts.changed()

    async def _watch_connection(self) -> None:
        async for event in self._connection.events():
            if isinstance(event, Connected):
                self.connected = True
                self._parts.voice.hold()
                self.sessions.begin()
                self._session_changed.set()
                await self._announce(self._birth)
            elif isinstance(event, Disconnected):
                self.connected = False
                self._parts.voice.hold()
                self.sessions.end()
                self._session_changed.set()
                _log.info("not connected: %s %s", event.reason, event.detail)
            self._parts.changed()

    async def _introduce(self) -> None:
        """Say whose connection this is, again and again until the coordinator has answered."""
        attempt = 0
        while True:
            self._session_changed.clear()
            wait_s: float | None = None
            if (session := self.sessions.pending) is not None:
                await self._parts.voice.tell(Up.SESSION, session)
                wait_s = (_ASK if self.sessions.mark is None else _ASK_AGAIN).delay_s(attempt, random.random)
            try:
                async with asyncio.timeout(wait_s):
                    await self._session_changed.wait()
            except TimeoutError:
                attempt += 1
            else:
                attempt = 0

    async def _announce(self, presence: bytes) -> None:
        topic = topics.presence(self._belonging.fleet, self._belonging.device)
        try:
            await self._connection.publish(topic, presence, retain=True)
        except DisconnectedError:
            return
        except TransportError as error:
            _log.warning("presence was not sent: %s", error)

    async def _receive(self) -> None:
        async for incoming in self._connection.incoming():
            try:
                await self._take(incoming.topic, incoming.payload)
            except RefusedError as error:
                self._refused(incoming.topic, error)
            finally:
                incoming.ack()

    def _refused(self, topic: str, error: RefusedError) -> None:
        kind = topic.rpartition("/")[2]  # the broker's word: it may make up as many as it likes
        self.refused[kind if kind in _KINDS else _OTHER, str(error.reason)] += 1
        _log.warning("refused %s: %s", printable(topic), printable(str(error)))

    async def _take(self, topic: str, payload: bytes) -> None:
        place = topics.parse(topic)
        if place.fleet != self._belonging.fleet:
            raise RefusedError(Reason.WRONG_FLEET, place.fleet)
        match place:
            case topics.OfferTopic(_, job):
                if payload:
                    body = self._verified(OFFER_KIND, payload)
                    if self._may_take(topic, payload):
                        await self._offer(job, body)
            case topics.DownTopic(_, device, kind) if device == self._belonging.device:
                body = self._verified(kind, payload)
                if kind == Down.STANDING:
                    await self._standing(decode_version(body, Standing, 1))
                elif self._may_take(topic, payload):
                    await self._down(kind, body, hashlib.sha256(payload).digest())
            case _:
                raise RefusedError(Reason.WRONG_TOPIC, topic)

    def _may_take(self, topic: str, payload: bytes) -> bool:
        """Whether the session is confirmed. If not, the newest verified message of each topic waits until it is."""
        if self.sessions.confirmed:
            return True
        if self.sessions.mark is None and (topic in self._kept or len(self._kept) < _MOST_KEPT):
            self._kept.pop(topic, None)  # in the order in which they came
            self._kept[topic] = payload
        return False

    async def _standing(self, body: Standing) -> None:
        before = self.sessions.mark
        if not self.sessions.answered(body):
            return
        if body.verdict is not Verdict.DUPLICATE:  # which is asked about again, but not at once
            self._session_changed.set()
        if self.sessions.confirmed:
            if before is not None:
                _log.warning("the operator has accepted this device again")
            await self._admitted_again()
        elif (mark := self.sessions.mark) is not None:
            if mark != before:
                _log.error("%s", mark.line)
            await self._stopped()
        self._parts.changed()

    async def _admitted_again(self) -> None:
        """The coordinator knows this session: now everything that waited may be said and heard."""
        self._parts.prekeys.refill()
        self._parts.voice.hurry()
        self._condition.again(self._parts.admission.decision)
        kept, self._kept = self._kept, {}
        for topic, payload in kept.items():
            try:
                await self._take(topic, payload)
            except RefusedError as error:
                self._refused(topic, error)

    async def _stopped(self) -> None:
        """This identity is on more than one disk: nothing is said any more, and what was under way ends."""
        self._parts.voice.hold()
        self._kept.clear()
        self._turned_away.clear()
        if self.round is not None and self.round.outcome is None:
            machine = self.round.machine
            self.round.step(lambda: machine.abandon("duplicate identity"))
        if self.sessions.over:
            await self.farewell()
            await self._connection.close()

    def _verified(self, kind: str, payload: bytes) -> bytes:
        who = self._belonging
        return verify(payload, who.coordinator_key, context_of(who.fleet, COORDINATOR, kind))

    async def _offer(self, job: str, body: bytes) -> None:
        who = self._belonging
        found = open_offer(body, fleet=who.fleet, job=job, domain=who.domain)
        if isinstance(found, NoOffer):
            self._turned_away.forget(job)
            self._no_offer(found)
        else:
            await self._begin(found, hashlib.sha256(body).digest())

    def _no_offer(self, body: NoOffer) -> None:
        """The job's round is over, or was cancelled: nobody waits for an update that is still being made."""
        self.waiting_for = body
        current = self.round
        if current is None or current.outcome is not None or current.offer.job != body.job:
            return
        over = current.offer.round < body.next_round  # its RESULT was lost, or comes yet
        if over or (current.machine.frozen_allowed and current.offer.round == body.next_round):
            current.step(lambda: current.machine.abandon("the job offers no round any more"))

    async def _take_up(self) -> None:
        """When a round has ended, answer the offers of other jobs that came meanwhile."""
        while True:
            await self._turned_away.wait()
            if self.round is not None:
                await self.round.ended.wait()
            if (waiting := self._turned_away.take()) is not None:
                await self._begin(*waiting)

    async def _begin(self, offer: Offer, offer_hash: bytes) -> None:
        async with self._beginning:
            await self._begin_alone(offer, offer_hash)

    async def _begin_alone(self, offer: Offer, offer_hash: bytes) -> None:
        key = (offer.job, offer.round, offer.attempt)
        current = self.round
        # An offer that cannot be taken up must not end the round that runs: a broker may show old ones.
        if current is not None and (current.offer.job, current.offer.round, current.offer.attempt) == key:
            return
        if self._parts.store.has_signed(*key, Up.READY):
            _log.info("job %s round %d was answered before; sitting it out", offer.job, offer.round)
            return
        if offer.ready_deadline < time.time():
            _log.info("the offer of job %s round %d came after its deadline", offer.job, offer.round)
            return
        if current is not None:
            if current.outcome is None:
                running = current.offer
                if running.job != offer.job:
                    self._turned_away.keep(offer, offer_hash)  # one round at a time
                    return
                if (running.round, running.attempt) > (offer.round, offer.attempt):
                    return
                current.step(lambda: current.machine.abandon(f"round {offer.round} was offered"))
            await current.close()
        who = self._belonging
        machine = DeviceRound(
            fleet=who.fleet,
            device=who.device,
            offer=offer,
            offer_hash=offer_hash,
            consent=self._consent,
            signer=_Signer(self._identity),
            check_certificate=who.check_certificate,
            random=os.urandom,
        )
        self.waiting_for = None
        self._prune({offer.graph.sha256.hex(), offer.weights.sha256.hex()})
        self.round = RoundDriver(machine, self._parts)
        self.round.start()

    def _prune(self, wanted: set[str]) -> None:
        """Delete blobs, whole or in parts, of rounds gone by."""
        for path in self._parts.blob_dir.iterdir():
            if path.name.removesuffix(".part") not in wanted:
                path.unlink()

    async def _down(self, kind: str, body: bytes, sha256: bytes) -> None:
        if kind == Down.ACK:
            self._acknowledged(decode(body, Ack))
            return
        if kind == Down.RESULT:
            await self._result(decode(body, Result), sha256)
            return
        driver = self.round
        if driver is None or driver.outcome is not None:
            return
        machine, now = driver.machine, time.monotonic()
        match kind:
            case Down.ROUND:
                driver.step(lambda: machine.round_opened(decode(body, Round), body, now=now))
            case Down.INBOUND:
                driver.step(lambda: machine.inbound(decode(body, Inbound), now=now))
            case Down.SURVIVORS:
                driver.step(lambda: machine.survivors(decode(body, Survivors), now=now))
            case Down.UNMASK_REQUEST:
                driver.step(lambda: machine.unmask(decode(body, UnmaskRequest), now=now))
            case Down.ABORT:
                driver.step(lambda: machine.aborted(decode(body, Abort)))
            case _:
                raise RefusedError(Reason.WRONG_TOPIC, kind)

    def _runs(self, job: str, round_: int, attempt: int) -> bool:
        """Whether this is the round that has not ended here."""
        if self.round is None or self.round.outcome is not None:
            return False
        offer = self.round.offer
        return (offer.job, offer.round, offer.attempt) == (job, round_, attempt)

    async def _result(self, result: Result, sha256: bytes) -> None:
        """How a round ended: the one that runs, or one that this device was cut off from or killed in."""
        answer = Ack(kind=Down.RESULT, round=result.round, attempt=result.attempt, sha256=sha256, refused="")
        await self._parts.voice.tell(Up.ACK, answer)
        key = (result.job, result.round, result.attempt)
        if self.round is not None and self._runs(*key):
            machine = self.round.machine
            self.round.step(lambda: machine.result(result))
        elif self._parts.store.has_signed(*key, Up.READY):
            self._parts.store.round_ended(*key, outcome="included" if result.included else "not-included")
            self._parts.voice.forget(*key)

    def _acknowledged(self, ack: Ack) -> None:
        item = self._parts.voice.acknowledged(ack.sha256)
        if item is None:
            return
        if item.kind == Up.PREKEYS:
            pool = self._parts.prekeys
            (pool.refused if ack.refused else pool.acknowledged)(item.round)
        elif ack.refused and self.round is not None and self._runs(item.job, item.round, item.attempt):
            machine = self.round.machine
            if item.kind == Up.READY and ack.refused == Reason.UNKNOWN_PREKEY and ack.sha256 != self._reintroduced:
                # The coordinator has lost what it acknowledged: it gets the stored bytes, and this READY, once more.
                self._reintroduced = ack.sha256
                self._parts.voice.repeat(Up.PREKEYS, _LAST_BATCHES, then=item, valid_s=_AGAIN_VALID_S)
                return
            self.round.step(lambda: machine.refused_by_coordinator(item.kind, ack.refused))
