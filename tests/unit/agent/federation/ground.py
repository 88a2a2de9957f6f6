"""A client with all its parts. The wire, the fetcher and the signals are stand-ins; the rest is real, worker too."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cryptography.hazmat.primitives.asymmetric import ec
from tests.unit.agent.federation.conftest import FLEET, Wire

from fedge_agent.admission.controller import AdmissionController
from fedge_agent.admission.judgement import Signals
from fedge_agent.admission.machine import Decision
from fedge_agent.admission.policy import AdmissionPolicy
from fedge_agent.admission.worker_control import WorkerControl
from fedge_agent.config import SourceTable
from fedge_agent.federation.client import Belonging, FederationClient, presence_message
from fedge_agent.federation.consent import Consent
from fedge_agent.federation.driver import Parts
from fedge_agent.federation.prekey_pool import PrekeyPool
from fedge_agent.federation.voice import Voice
from fedge_agent.identity.host import Host
from fedge_agent.identity.keys import Identity
from fedge_agent.store import DeviceStore
from fedge_protocol import topics
from fedge_protocol.cose import context_of, decode, encode, open_signed, sign
from fedge_protocol.eip712 import Domain
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import COORDINATOR, OFFER_KIND, BlobRef, Body, Down, Presence, Session, Standing, Verdict
from fedge_transport.errors import MissingBlobError
from fedge_transport.events import Connected, EventStream
from fedge_transport.inbox import Inbox, Incoming

if TYPE_CHECKING:
    from fedge_transport.connection import Connection

COORDINATOR_KEY = ec.derive_private_key(99, ec.SECP256R1())
STRANGER_KEY = ec.derive_private_key(98, ec.SECP256R1())
ANYTHING = Consent(sources=frozenset({"watch"}), allow_small_cohort=True)


class LiveWire(Wire):
    """A wire that also carries what the coordinator says."""

    def __init__(self) -> None:
        super().__init__()
        self.inbox = Inbox(100)
        self.stream = EventStream(Connected(session_present=False))
        self.filters: list[str] = []
        self.closed = False
        self.greeter: Callable[[bytes], None] | None = None

    async def publish(self, topic: str, payload: bytes, **options: Any) -> None:
        await super().publish(topic, payload, **options)
        if topic.endswith("/up/session") and self.greeter is not None:
            self.greeter(payload)

    def incoming(self) -> Inbox:
        return self.inbox

    def events(self) -> EventStream:
        return self.stream

    async def subscribe(self, *filters: str) -> None:
        self.filters += filters

    async def close(self) -> None:
        self.closed = True


@dataclass
class GivenBlobs:
    """Stands for the fetcher: blobs that are here, by hash."""

    paths: dict[bytes, Path] = field(default_factory=dict)

    async def fetch(self, ref: BlobRef) -> Path:
        if ref.sha256 not in self.paths:
            raise MissingBlobError(ref.sha256.hex(), (0,))
        return self.paths[ref.sha256]


class Quiet:
    """Signals of a device that nobody uses."""

    def sample(self, now_s: float) -> Signals | None:
        return Signals(cpu_some=0.0)

    def exclude(self, worker: Path | None) -> None:
        pass

    def restart(self) -> None:
        pass


class JumpingClock:
    """The machine's clock, which a test may put forward."""

    offset_s = 0.0

    def monotonic_s(self) -> float:
        return time.monotonic() + self.offset_s

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)


@dataclass
class Ground:
    """One device."""

    identity: Identity
    store: DeviceStore
    wire: LiveWire
    voice: Voice
    client: FederationClient
    parts: Parts
    blobs: GivenBlobs
    admission: AdmissionController
    clock: JumpingClock
    data: Path

    def hears(self, kind: Down, body: Body, key: ec.EllipticCurvePrivateKey = COORDINATOR_KEY) -> bytes:
        """The coordinator, or who holds `key`, says something to this device. Returns the message."""
        message = sign(key, encode(body), context_of(FLEET, COORDINATOR, kind))
        self.arrives(topics.down(FLEET, self.identity.device_id, kind), message)
        return message

    def coordinator_says(self, plain: list[object], kind: str = Down.STANDING) -> bytes:
        """Whatever it is, signed by the coordinator."""
        return sign(COORDINATOR_KEY, encode(plain), context_of(FLEET, COORDINATOR, kind))

    def greets(self, message: bytes) -> None:
        """The coordinator that knows nothing of this device yet: it asks once, and is content with any answer."""
        said = decode(open_signed(message)[0], Session)
        asked = said.challenge != bytes(16)
        verdict = Verdict.WELCOME if asked else Verdict.PROVE
        self.hears(Down.STANDING, Standing(1, said.session, b"\x01" * 16, verdict, "", 0, bytes(16), b""))

    def offered(self, body: Body, *, job: str = "demo", key: ec.EllipticCurvePrivateKey = COORDINATOR_KEY) -> None:
        message = sign(key, encode(body), context_of(FLEET, COORDINATOR, OFFER_KIND))
        self.arrives(topics.offer(FLEET, job), message)

    def arrives(self, topic: str, payload: bytes) -> None:
        self.wire.inbox.put(Incoming(topic, payload, retain=False, receipt=None))

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for what must happen; the test's own timeout ends it otherwise."""
        while not condition():  # noqa: ASYNC110 - nothing tells a test of every change
            await asyncio.sleep(0.005)

    async def settle(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)


def make_ground(tmp_path: Path, identity: Identity, store: DeviceStore, consent: Consent = ANYTHING) -> Ground:
    wire, blobs, clock = LiveWire(), GivenBlobs(), JumpingClock()
    folders = [tmp_path / name for name in ("blobs", "work", "outgoing", "data")]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    blob_dir, work_dir, outgoing, data = folders
    connection = cast("Connection", wire)
    voice = Voice(FLEET, identity, store, connection, outgoing)
    clients: list[FederationClient] = []

    def decided(_: Decision) -> None:
        for client in clients:
            client.admission_changed()

    policy = AdmissionPolicy(enter_after_s=0.0, consider_every_s=0.01, window_s=0.01)
    admission = AdmissionController(Quiet(), policy, clock, publish=decided)
    parts = Parts(
        store=store,
        voice=voice,
        prekeys=PrekeyPool(FLEET, identity, store, voice, os.urandom),
        fetcher=cast("Any", blobs),
        admission=admission,
        control=WorkerControl(None),
        sources={"watch": SourceTable(kind="directory", path=str(data))},
        blob_dir=blob_dir,
        work_dir=work_dir,
        outgoing_dir=outgoing,
        changed=lambda: None,
    )

    def check_certificate(_: bytes) -> tuple[str, ec.EllipticCurvePublicKey]:
        raise RefusedError(Reason.BAD_SIGNATURE, "a certificate of nobody")

    belonging = Belonging(
        FLEET, identity.device_id, COORDINATOR_KEY.public_key(), Domain(0, bytes(20)), check_certificate
    )
    birth, farewell = (
        presence_message(identity, FLEET, Presence(online, bytes(16), "1", 0)) for online in (True, False)
    )
    host = Host(b"m" * 32, b"h" * 32)
    client = FederationClient(
        belonging, identity, consent, connection, parts, birth=birth, farewell=farewell, host=host
    )
    clients.append(client)
    ground = Ground(identity, store, wire, voice, client, parts, blobs, admission, clock, data)
    wire.greeter = ground.greets
    return ground


@asynccontextmanager
async def serving(ground: Ground) -> AsyncIterator[None]:
    """The client and admission run; at the end everything is taken down, as the daemon does."""
    tasks = [asyncio.create_task(ground.client.run()), asyncio.create_task(ground.admission.run())]
    await ground.settle()
    try:
        yield
        assert not any(task.done() for task in tasks), "the client gave up"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
