"""A coordinator with all its parts, and members made of real device machines. Only the broker is a stand-in.

Members answer at once; a test decides who is there, who is silent, and what is lost.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from tests.unit.rounds.fleet import ANYTHING, Device

from fedge_agent.federation import effects as device_effects
from fedge_agent.federation.machine import DeviceRound
from fedge_coordinator.federation.finish import Finisher
from fedge_coordinator.federation.hub import Hub
from fedge_coordinator.federation.intake import Intake, Sender
from fedge_coordinator.federation.observer import Event
from fedge_coordinator.federation.post import Post
from fedge_coordinator.federation.runner import JobRunner, Parts
from fedge_coordinator.settlement.ledger import LedgerSettlement
from fedge_coordinator.settlement.signer import LocalSigner
from fedge_coordinator.store import Store, open_store
from fedge_coordinator.store.jobs import Job, JobStatus
from fedge_protocol import jobspec, topics
from fedge_protocol.chunks import split
from fedge_protocol.cose import context_of, decode, encode, sign, verify
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import (
    COORDINATOR,
    OFFER_KIND,
    PRESENCE_KIND,
    Abort,
    Ack,
    BlobRef,
    Body,
    Down,
    Inbound,
    NoOffer,
    Offer,
    Prekeys,
    Presence,
    Result,
    Round,
    Standing,
    Survivors,
    UnmaskRequest,
    Up,
)
from fedge_protocol.secagg.masking import mask
from fedge_protocol.secagg.params import Suite
from fedge_protocol.secagg.quantise import quantise
from fedge_protocol.secagg.rotation import rotate
from fedge_transport.blobs import BlobPublisher
from fedge_transport.events import Connected, EventStream
from fedge_transport.inbox import Inbox, Incoming

if TYPE_CHECKING:
    from fedge_transport.connection import Connection

FLEET = "test"
KEY = ec.derive_private_key(77, ec.SECP256R1())
_DOWN: dict[str, type[Body]] = {
    Down.ACK: Ack,
    Down.ROUND: Round,
    Down.INBOUND: Inbound,
    Down.SURVIVORS: Survivors,
    Down.UNMASK_REQUEST: UnmaskRequest,
    Down.RESULT: Result,
    Down.ABORT: Abort,
    Down.STANDING: Standing,
}


def document(name: str = "demo", **changes: Any) -> jobspec.TrainingJob:
    spec: dict[str, Any] = {
        "model": {"input": 4, "layers": [{"dense": 3}], "loss": "softmax-cross-entropy", "seed": 1},
        "data": {"source": "watch", "kind": "directory"},
        "training": {"learningRate": 0.1, "clipNorm": 1.0, "weightUnit": 10, "weightMax": 16},
        "cohort": {
            "minimum": 3,
            "target": 4,
            "allowSmallCohort": True,
            "readySeconds": 60,
            "phaseSeconds": 30,
        },
        "rollout": {"rounds": 2},
        "rewards": {"perRound": "1000", "epochRounds": 1},
    }
    return jobspec.parse(
        {
            "apiVersion": "fedge.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": name},
            "spec": spec | changes,
        }
    )


class Wire:
    """Stands for the connection to the broker."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes, bool]] = []
        self.inbox = Inbox(1000)
        self.stream = EventStream(Connected(session_present=False))
        self.connected = True

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, **_: object) -> None:
        self.published.append((topic, payload, retain))

    async def wait_connected(self) -> None: ...

    async def subscribe(self, *filters: str) -> None: ...

    async def unsubscribe(self, *filters: str) -> None: ...

    def incoming(self) -> Inbox:
        return self.inbox

    def events(self) -> EventStream:
        return self.stream


@dataclass
class Notes:
    """An observer that remembers."""

    events: list[Event] = field(default_factory=list)
    refusals: list[tuple[str, str]] = field(default_factory=list)

    def happened(self, event: Event) -> None:
        self.events.append(event)

    def refused(self, kind: str, reason: str) -> None:
        self.refusals.append((kind, reason))

    def received(self, kind: str, size: int) -> None:
        pass

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event.fields for event in self.events if event.name == name]


class Clock:
    """Unix milliseconds that a test may put forward."""

    offset_ms = 0

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000 + self.offset_ms


class Member:
    """One device: a machine a round, a worker that masks, and a voice. `silent` answers nothing."""

    def __init__(self, number: int, ground: "Ground") -> None:
        self.device = Device(np.full(15, 0.01 * number, np.float32), 10 * (number + 1))
        self.ground = ground
        self.silent = False
        self.deaf_to: set[str] = set()
        self.acks: list[Ack] = []
        self.heard: list[Body] = []
        self.offer: Offer | None = None
        self.next_prekey = 1
        self._vectors: dict[bytes, bytes] = {}

    @property
    def name(self) -> str:
        return self.device.name

    def sender(self) -> Sender:
        device = self.device
        return Sender(device.name, device.certificate, device.key.public_key(), device.chain.address, bytes(20))

    def says(self, kind: str, body: Body) -> bytes:
        """Sign and send; returns the message's hash."""
        return self.sends(kind, encode(body))

    def sends(self, kind: str, content: bytes) -> bytes:
        message = sign(self.device.key, content, context_of(FLEET, self.name, kind))
        topic = topics.presence(FLEET, self.name) if kind == PRESENCE_KIND else topics.up(FLEET, self.name, kind)
        self.ground.arrives(topic, message)
        return hashlib.sha256(message).digest()

    def appears(self, *, online: bool = True) -> None:
        self.says(PRESENCE_KIND, Presence(online, bytes(16), "1", 0))

    def publishes(self, *ids: int) -> bytes:
        return self.says(Up.PREKEYS, Prekeys(tuple(self.device.statement(number) for number in ids)))

    def answered(self, sha256: bytes) -> str | None:
        """The coordinator's word on a message: None, "" or the reason for which it was refused."""
        return next((ack.refused for ack in self.acks if ack.sha256 == sha256), None)

    def offered(self, offer: Offer) -> None:
        if self.silent or (self.offer is not None and (offer.round, offer.attempt) <= self._round()):
            return
        self.offer = offer
        self.device.machine = machine = DeviceRound(
            fleet=FLEET,
            device=self.name,
            offer=offer,
            offer_hash=hashlib.sha256(encode(offer)).digest(),
            consent=ANYTHING,
            signer=self.device,
            check_certificate=self.ground.check_certificate,
            random=os.urandom,
        )
        now, unix_now = time.monotonic(), time.time()
        prekey = self.device.prekeys[self.next_prekey]
        self.next_prekey += 1
        for step in (
            lambda: machine.start(now=now, unix_now=unix_now),
            machine.fetched,
            machine.admitted,
            lambda: machine.trained(self.device.samples, offer.dim, prekey, now=now, unix_now=unix_now),
        ):
            self.run(step())

    def hears(self, kind: str, raw: bytes) -> None:
        body = decode(raw, _DOWN[kind])
        if isinstance(body, Ack):
            self.acks.append(body)
            return
        self.heard.append(body)
        if self.silent or kind in self.deaf_to or not hasattr(self.device, "machine"):
            return
        machine, now = self.device.machine, time.monotonic()
        match body:
            case Round():
                self.run(machine.round_opened(body, raw, now=now))
            case Inbound():
                self.run(machine.inbound(body, now=now))
            case Survivors():
                self.run(machine.survivors(body, now=now))
            case UnmaskRequest():
                self.run(machine.unmask(body, now=now))
            case Abort() if (body.round, body.attempt) == self._round():
                self.run(machine.aborted(body))

    def acknowledges(self, message: bytes, body: Result) -> None:
        self.says(Up.ACK, Ack(Down.RESULT, body.round, body.attempt, hashlib.sha256(message).digest(), ""))

    def run(self, todo: list[device_effects.Effect]) -> None:
        for effect in todo:
            match effect:
                case device_effects.Say(kind=kind, body=body):
                    self.says(kind, body)
                case device_effects.MaskUpdate():
                    self._mask(effect)
                case device_effects.SendVector(vector=vector):
                    self.uploads(self._vectors[vector.sha256])
                case _:
                    pass

    def uploads(self, content: bytes) -> None:
        ref, parts = split(content)
        for index, part in enumerate(parts):
            self.ground.arrives(topics.up_chunk(FLEET, self.name, ref.sha256.hex(), index), bytes(part))

    def _mask(self, effect: device_effects.MaskUpdate) -> None:
        coded = quantise(
            rotate(self.device.update, effect.rotation_seed),
            coordinate_range=effect.coordinate_range,
            levels=effect.levels,
            weight=effect.weight,
            weight_max=effect.weight_max,
        )
        masked = mask(coded, self_seed=effect.self_seed, pairs=effect.pairs, suite=Suite(effect.suite))
        content = masked.astype("<u2").tobytes()
        ref = BlobRef(hashlib.sha256(content).digest(), len(content))
        self._vectors[ref.sha256] = content
        self.run(self.device.machine.masked(ref))

    def _round(self) -> tuple[int, int]:
        return (self.offer.round, self.offer.attempt) if self.offer is not None else (0, 0)


class Ground:
    """One coordinator process: `kill` it and make another on the same folder."""

    def __init__(self, folder: Path, members: int = 4, *, known: list[Member] | None = None) -> None:
        self.folder = folder
        self.clock = Clock()
        self.wire = Wire()
        self.notes = Notes()
        self.store: Store = open_store(folder / "coordinator.db", clock_ms=self.clock)
        self.members = known or [Member(number, self) for number in range(members)]
        for member in self.members:
            member.ground = self
        self.by_name = {member.name: member for member in self.members}
        self.left: set[str] = set()
        connection = cast("Connection", self.wire)
        self.post = Post(connection, FLEET, KEY)
        publisher = BlobPublisher(connection, FLEET)
        intake = Intake(FLEET, self)
        self.hub = Hub(FLEET, connection, intake, self.store, self.post, publisher, self.notes, self.clock, frozenset())
        signer = LocalSigner(b"\x05" * 32)
        self.settlement = LedgerSettlement(self.store.database.engine, committee=[signer])
        self.parts = Parts(
            fleet=FLEET,
            store=self.store,
            post=self.post,
            publisher=publisher,
            settlement=self.settlement,
            finisher=Finisher(FLEET, self.store, self.settlement, {}, self.clock),
            observer=self.notes,
            expected=self.hub.expected,
            connected=lambda: self.wire.connected,
            finished=lambda: None,
            clock_ms=self.clock,
            random=os.urandom,
        )
        self._seen = 0
        self._tasks: list[asyncio.Task[None]] = []

    # --- what the intake and the members ask

    def sender(self, device: str) -> Sender:
        if device in self.left:
            raise RefusedError(Reason.REVOKED, device)
        if device not in self.by_name:
            raise RefusedError(Reason.UNKNOWN_DEVICE, device)
        return self.by_name[device].sender()

    def check_certificate(self, der: bytes) -> tuple[str, ec.EllipticCurvePublicKey]:
        for member in self.members:
            if member.device.certificate == der:
                return member.name, member.device.key.public_key()
        raise RefusedError(Reason.BAD_SIGNATURE, "a certificate of nobody")

    # --- running

    def arrives(self, topic: str, payload: bytes) -> None:
        self.wire.inbox.put(Incoming(topic, payload, retain=False, receipt=None))

    def apply(self, job: jobspec.TrainingJob) -> None:
        self.store.jobs.apply(job)
        self.run_job(job.metadata.name)

    def run_job(self, name: str = "demo") -> asyncio.Task[None]:
        runner = self.hub.runners[name] = JobRunner(name, self.parts)
        task = asyncio.create_task(runner.run(), name=f"job {name}")
        self._tasks.append(task)
        return task

    def steer(self, status: JobStatus, name: str = "demo") -> None:
        """What `fedgectl` does."""
        self.store.jobs.set_status(name, status)
        if name in self.hub.runners:
            self.hub.runners[name].poke()

    def jumps(self, seconds: float) -> None:
        """Time passes at once."""
        self.clock.offset_ms += int(seconds * 1000)
        for runner in self.hub.runners.values():
            runner.poke()

    def job(self, name: str = "demo") -> Job:
        return self.store.jobs.get(name)

    def introduce(self) -> None:
        """Every member is there and has published prekeys."""
        for member in self.members:
            member.appears()
            member.publishes(*range(1, 9))

    async def until(self, condition: Callable[[], Any]) -> None:
        """Let everybody talk until something is so; the test's own timeout ends it otherwise."""
        while not condition():
            self.pump()
            await asyncio.sleep(0.001)
            for task in self._tasks:
                if task.done() and not task.cancelled() and task.exception() is not None:
                    raise cast("BaseException", task.exception())

    async def settle(self) -> None:
        for _ in range(100):
            self.pump()
            await asyncio.sleep(0)

    def pump(self) -> None:
        """Deliver what the coordinator has published since the last time."""
        while self._seen < len(self.wire.published):
            topic, payload, _ = self.wire.published[self._seen]
            self._seen += 1
            place = topics.parse(topic)
            if isinstance(place, topics.OfferTopic):
                body = verify(payload, KEY.public_key(), context_of(FLEET, COORDINATOR, OFFER_KIND))
                offer = _offer(body)
                if isinstance(offer, Offer):
                    for member in self.members:
                        member.offered(offer)
            elif isinstance(place, topics.DownTopic):
                body = verify(payload, KEY.public_key(), context_of(FLEET, COORDINATOR, place.kind))
                member = self.by_name[place.device]
                member.hears(place.kind, body)
                if place.kind == Down.RESULT and not member.silent and Down.RESULT not in member.deaf_to:
                    member.acknowledges(payload, decode(body, Result))

    def offers(self, name: str = "demo") -> list[Offer | NoOffer]:
        """Everything that was retained as a job's offer, oldest first."""
        found: list[Offer | NoOffer] = []
        for topic, payload, retain in self.wire.published:
            if topic == topics.offer(FLEET, name):
                assert retain
                body = verify(payload, KEY.public_key(), context_of(FLEET, COORDINATOR, OFFER_KIND))
                found.append(_offer(body))
        return found

    def said(self, kind: Down) -> list[tuple[str, Body]]:
        """Everything of a kind that was sent down, by device."""
        found = []
        for topic, payload, _ in self.wire.published:
            place = topics.parse(topic)
            if isinstance(place, topics.DownTopic) and place.kind == kind:
                body = verify(payload, KEY.public_key(), context_of(FLEET, COORDINATOR, kind))
                found.append((place.device, decode(body, _DOWN[kind])))
        return found


def _offer(body: bytes) -> Offer | NoOffer:
    try:
        return decode(body, Offer)
    except RefusedError:
        return decode(body, NoOffer)


@asynccontextmanager
async def serving(ground: Ground) -> AsyncIterator[Ground]:
    """The hub runs; at the end the process is killed: what is not on disk is gone."""
    hub = asyncio.create_task(ground.hub.run(), name="hub")
    ground._tasks.append(hub)
    await asyncio.sleep(0)
    try:
        yield ground
        assert not hub.done(), "the hub ended"
    finally:
        for task in ground._tasks:
            task.cancel()
        await asyncio.gather(*ground._tasks, return_exceptions=True)
        ground.store.close()
