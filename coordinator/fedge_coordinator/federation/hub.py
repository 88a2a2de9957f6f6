"""Where all messages of the fleet arrive: checked, folded into their rounds in one commit, then acknowledged."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

from fedge_coordinator.federation.intake import Chunk, Intake, Message
from fedge_coordinator.federation.lineage import Sessions
from fedge_coordinator.federation.observer import Event, Observer, Value
from fedge_coordinator.federation.post import Post
from fedge_coordinator.federation.runner import JobRunner
from fedge_coordinator.federation.uploads import Complete, Uploads
from fedge_coordinator.rounds.inputs import Kind
from fedge_coordinator.rounds.machine import Verdict
from fedge_coordinator.store import Store
from fedge_protocol import topics
from fedge_protocol.cose import encode, verify_raw
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import (
    PRESENCE_KIND,
    Ack,
    Condition,
    Down,
    Masked,
    Prekeys,
    Presence,
    Ready,
    Refusal,
    Session,
    Shares,
    Survivor,
    Unmask,
    Up,
    Want,
    prekey_statement,
)
from fedge_protocol.secagg.x25519 import is_usable
from fedge_transport.blobs import BlobPublisher
from fedge_transport.connection import Connection
from fedge_transport.events import Connected
from fedge_transport.inbox import Incoming

_log = logging.getLogger(__name__)
_BATCH: Final = 32
_MOST_WANTED: Final = 256
"""Blobs asked for at once. Who asks in vain asks again."""
_PRESUMED_MS: Final = 60_000


class Hub:
    """Owns the subscription; `runners` are the jobs that run now, by name. `were_online`: before a restart."""

    def __init__(
        self,
        fleet: str,
        connection: Connection,
        intake: Intake,
        store: Store,
        post: Post,
        publisher: BlobPublisher,
        observer: Observer,
        clock_ms: Callable[[], int],
        were_online: frozenset[str] = frozenset(),
    ) -> None:
        self.runners: dict[str, JobRunner] = {}
        self._fleet = fleet
        self._connection = connection
        self._intake = intake
        self._store = store
        self._post = post
        self._publisher = publisher
        self._observer = observer
        self._clock_ms = clock_ms
        self._uploads = Uploads()
        self._sessions = Sessions(store.sessions, os.urandom)
        self._complete: list[Complete] = []
        self._online: set[str] = set()
        self._presumed = set(were_online)
        self._presumed_until_ms = clock_ms() + _PRESUMED_MS
        self._reached = False
        self._wanted: asyncio.Queue[bytes] = asyncio.Queue(_MOST_WANTED)
        self._joined: asyncio.Queue[str] = asyncio.Queue()
        self._after: list[Callable[[], None]] = []

    def expected(self) -> frozenset[str]:
        """Devices that may still answer: whose birth was the last that was heard of them.

        Right after a start also those that were online before and have not been heard of since, or a killed coordinator
        would go on without them.
        """
        if self._clock_ms() >= self._presumed_until_ms:
            self._presumed.clear()
        return frozenset(self._online | self._presumed) - self._store.sessions.duplicates().keys()

    def connected(self) -> bool:
        """Whether devices can be heard, and the rounds know that they can."""
        return self._reached and self._connection.connected

    def member_joined(self, device: str) -> None:
        """The CA has entered a device: its birth may have come, and been refused, before that was known here."""
        self._joined.put_nowait(device)

    async def run(self) -> None:
        """Serve until cancelled. An error that is no refusal ends the coordinator: it restarts from its journal."""
        await self._connection.subscribe(topics.up_filter(self._fleet), topics.presence_filter(self._fleet))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_connection())
            group.create_task(self._receive())
            group.create_task(self._answer_wants())
            group.create_task(self._greet())

    async def _watch_connection(self) -> None:
        first = True
        async for event in self._connection.events():
            if not isinstance(event, Connected):
                self._reached = False
                continue
            forgotten = not event.session_present and not first
            if forgotten:
                self._observer.happened(Event("broker-lost-session", self._clock_ms()))
                await self._publisher.republish()
            for runner in list(self.runners.values()):
                await runner.reconnected(forgotten=forgotten)
            self._reached = True
            first = False

    async def _answer_wants(self) -> None:
        while True:
            await self._publisher.want(await self._wanted.get())

    async def _greet(self) -> None:
        """Have the broker send the retained births of new members again, which a fresh subscription makes it do."""
        while True:
            filters = [topics.presence(self._fleet, await self._joined.get())]
            while not self._joined.empty():
                filters.append(topics.presence(self._fleet, self._joined.get_nowait()))
            await self._connection.subscribe(*filters)
            await self._connection.unsubscribe(*filters)

    async def _receive(self) -> None:
        inbox = self._connection.incoming()
        async for first in inbox:
            batch = [first]
            while len(inbox) and len(batch) < _BATCH:
                batch.append(await anext(inbox))
            with self._committed():
                for incoming in batch:
                    self._one(incoming)
            for incoming in batch:
                incoming.ack()
            if self._complete:
                await self._keep_vectors()
            # Let what was just sent leave before the next batch is taken.
            await asyncio.sleep(0)

    async def _keep_vectors(self) -> None:
        """Put whole vectors on disk, side by side and off the event loop; then their manifests may be taken."""
        complete, self._complete = self._complete, []
        await asyncio.gather(*(asyncio.to_thread(self._store.blobs.put, each.vector) for each in complete))
        with self._committed():
            for each in complete:
                self._message(each.manifest)

    @contextmanager
    def _committed(self) -> Iterator[None]:
        """One transaction around the handling of messages; what follows from them is sent after its commit."""
        with self._store.transaction():
            yield
            for runner in self.runners.values():
                runner.write()
        self._uploads.keep(lambda context: any(runner.speaks_of(context) for runner in self.runners.values()))
        for runner in self.runners.values():
            runner.flush()
        after, self._after = self._after, []
        for action in after:
            action()

    def _one(self, incoming: Incoming) -> None:
        kind = incoming.topic.rpartition("/")[2] if "/chunk/" not in incoming.topic else str(Up.CHUNK)
        self._observer.received(kind, len(incoming.payload))
        try:
            opened = self._intake.open(incoming.topic, incoming.payload)
        except RefusedError as error:
            # An empty retained presence is how a broker is told to forget a device; it says nothing.
            if incoming.payload or kind != PRESENCE_KIND:
                self._refused("unverified", kind, error)
            return
        if isinstance(opened, Chunk):
            self._chunk(opened)
        else:
            self._message(opened)

    def _message(self, message: Message) -> None:
        device = message.sender.device
        try:
            self._hear(message)
        except RefusedError as error:
            self._refused(device, message.kind, error)
            self._store.devices.refused(device, str(error.reason), error.detail[:256])
            self._acknowledge(message, refused=error.reason)

    def _hear(self, message: Message) -> None:
        device, body = message.sender.device, message.body
        if isinstance(body, Presence):
            self._presence(device, body)
        elif isinstance(body, Session):
            self._session(device, body)
        elif self._store.sessions.duplicate(device) is not None:
            raise RefusedError(Reason.DUPLICATE_IDENTITY, "more than one disk speaks for this device")
        else:
            self._dispatch(message)

    def _dispatch(self, message: Message) -> None:
        device, body = message.sender.device, message.body
        match body:
            case Prekeys():
                self._prekeys(message, body)
                self._acknowledge(message)
            case Want():
                with suppress(asyncio.QueueFull):
                    self._wanted.put_nowait(body.sha256)
            case Ack():
                if body.kind == Down.RESULT:
                    for runner in self.runners.values():
                        runner.result_acknowledged(device, body.sha256)
            case Ready():
                self._take(self._runner_of(body.job), Kind.READY, message)
                self._store.sessions.said_ready(device, message.sha256)
            case Refusal():
                self._refusal(message, body)
            case Condition():
                self._condition(device, body)
            case Shares() | Masked() | Survivor() | Unmask():
                self._answer(message, body)

    def _runner_of(self, job: str) -> JobRunner:
        try:
            return self.runners[job]
        except KeyError:
            raise RefusedError(Reason.WRONG_JOB, f"{job} does not run") from None

    def _runner_for(self, context: bytes) -> JobRunner:
        for runner in self.runners.values():
            if runner.speaks_of(context):
                return runner
        raise RefusedError(Reason.WRONG_CONTEXT, "of no open round")

    def _take(self, runner: JobRunner, kind: Kind, message: Message) -> None:
        verdict = runner.take(kind, message)
        if verdict is not Verdict.NOT_NEEDED:
            _log.debug("%s of %s: %s", kind, message.sender.device, verdict)
        self._acknowledge(message)

    def _refusal(self, message: Message, body: Refusal) -> None:
        device = message.sender.device
        self._store.devices.refused(device, body.reason, body.detail)
        self._observer.happened(
            Event("device-refused", self._clock_ms(), {"device": device, "job": body.job, "reason": body.reason})
        )
        try:
            self._take(self._runner_of(body.job), Kind.REFUSAL, message)
        except RefusedError as error:
            _log.debug("the refusal of %s changes no round: %s", device, error)
            self._acknowledge(message)  # it was heard, which is all that is asked for

    def _condition(self, device: str, body: Condition) -> None:
        """For people and metrics alone: a broker may repeat an old one, so nothing is decided by it."""
        self._store.devices.set_state(device, f"{body.state}: {body.reason}")
        self._observer.happened(
            Event(
                "device-condition",
                self._clock_ms(),
                {"device": device, "state": str(body.state), "reason": str(body.reason)},
            )
        )

    def _answer(self, message: Message, body: Shares | Masked | Survivor | Unmask) -> None:
        if any(runner.has_ended(body.context) for runner in self.runners.values()):
            if message.kind not in {Up.SURVIVOR, Up.UNMASK}:  # of these a threshold is enough, the rest is always late
                error = RefusedError(Reason.OUT_OF_PHASE, "its round has ended")
                self._refused(message.sender.device, message.kind, error)
            self._acknowledge(message)  # nobody waits for it, so let it not come again
            return
        runner = self._runner_for(body.context)
        if isinstance(body, Masked):
            self._masked(runner, message, body)
        else:
            self._take(runner, Kind(message.kind), message)

    def _masked(self, runner: JobRunner, message: Message, body: Masked) -> None:
        runner.check_upload(message.sender.device, body.vector)
        if self._store.blobs.has(body.vector.sha256):
            self._take(runner, Kind.MASKED, message)
        else:
            self._uploads.announce(message, body)

    def _chunk(self, chunk: Chunk) -> None:
        try:
            complete = self._uploads.add(chunk)
        except RefusedError as error:
            # Of a vector that is here already, chunks come again when its device did not get the acknowledgement.
            if error.reason is not Reason.MISSING_BLOB or not self._store.blobs.has(chunk.sha256):
                self._refused(chunk.device, Up.CHUNK, error)
            return
        if complete is not None:
            self._complete.append(complete)

    def _prekeys(self, message: Message, body: Prekeys) -> None:
        device = message.sender.device
        for statement in body.statements:
            signed = prekey_statement(
                self._fleet, device, statement.prekey_id, statement.mask_public, statement.channel_public
            )
            verify_raw(message.sender.public_key, statement.signature, signed)
            if not (is_usable(statement.mask_public) and is_usable(statement.channel_public)):
                raise RefusedError(Reason.UNKNOWN_PREKEY, f"prekey {statement.prekey_id} has a key of low order")
        prekeys, offered = self._store.prekeys, [(s.prekey_id, encode(s)) for s in body.statements]
        added = prekeys.add(device, offered)
        if added.conflicting:
            prekeys.burn((device, prekey_id) for prekey_id in added.fresh)
            raise RefusedError(Reason.EQUIVOCATION, f"prekeys {added.conflicting} were published with other keys")
        if added.surplus:
            # Ids are used in order, so the lowest are those that the device has given up without telling.
            oldest = prekeys.fresh(device)[: len(added.surplus)]
            prekeys.burn((device, prekey.prekey_id) for prekey in oldest)
            prekeys.add(device, offered)

    def _presence(self, device: str, body: Presence) -> None:
        self._store.devices.presence(
            device, online=body.online, version=body.version, missing_features=body.missing_features
        )
        self._presumed.discard(device)
        (self._online.add if body.online else self._online.discard)(device)
        self._observer.happened(
            Event("device-online" if body.online else "device-offline", self._clock_ms(), {"device": device})
        )
        for runner in self.runners.values():
            if body.online:
                runner.device_is_back(device)
            runner.consider_closing()

    def _session(self, device: str, body: Session) -> None:
        judgement = self._sessions.judge(device, body)
        for answer in judgement.answers:
            self._after.append(partial(self._post.standing, device, answer))
        if judgement.welcome:
            for runner in self.runners.values():
                runner.device_is_back(device)
        if judgement.found:
            _log.warning(
                "duplicate identity: device %s (%s) takes part in nothing until fedgectl devices accept %s",
                device,
                judgement.found,
                device,
            )
            fields: dict[str, Value] = {"device": device, "reason": judgement.found}
            self._observer.happened(Event("device-duplicate", self._clock_ms(), fields))
            for runner in self.runners.values():
                runner.consider_closing()  # nobody waits for this one

    def _acknowledge(self, message: Message, *, refused: Reason | None = None) -> None:
        body = message.body
        round_, attempt = getattr(body, "round", 0), getattr(body, "attempt", 0)
        self._after.append(
            lambda: self._post.acknowledge(
                message.sender.device, message.kind, message.sha256, round_=round_, attempt=attempt, refused=refused
            )
        )

    def _refused(self, who: str, kind: str, error: RefusedError) -> None:
        _log.info("refused %s of %s: %s", kind, who, error)
        self._observer.refused(kind, str(error.reason))
