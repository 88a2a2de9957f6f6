"""Parts of a device that are real, and a wire in the place of the broker."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedge_agent.federation.voice import Voice
from fedge_agent.identity.keys import Identity
from fedge_agent.store import DeviceStore
from fedge_protocol import topics
from fedge_protocol.eip712 import job_id
from fedge_protocol.messages import BlobRef, Cohort, Offer, Training
from fedge_protocol.secp256k1 import ChainKey
from fedge_transport.errors import DisconnectedError

if TYPE_CHECKING:
    from fedge_transport.connection import Connection

FLEET = "test"
DIM = 64


@dataclass
class Wire:
    """Stands for the connection: notes what is published, or is broken."""

    published: list[tuple[str, bytes, bool]] = field(default_factory=list)
    broken: bool = False

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, expiry_s: int | None = None
    ) -> None:
        if self.broken:
            raise DisconnectedError("the wire is broken")
        self.published.append((topic, payload, retain))

    def kinds(self) -> list[str]:
        """What was said, in order."""
        places = [topics.parse(topic) for topic, _, _ in self.published]
        return [place.kind if isinstance(place, topics.UpTopic) else type(place).__name__ for place in places]

    def messages(self, kind: str) -> list[bytes]:
        return [payload for topic, payload, _ in self.published if topic.endswith(f"/up/{kind}")]


class Clock:
    """Seconds that a test turns."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s

    def ms(self) -> int:
        return int(self.now_s * 1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture(scope="session")
def identity() -> Identity:
    return Identity.of(ec.generate_private_key(ec.SECP256R1()), ChainKey.generate())


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[DeviceStore]:
    store = DeviceStore(tmp_path / "state.db", clock.ms)
    yield store
    store.close()


@pytest.fixture
def outgoing(tmp_path: Path) -> Path:
    folder = tmp_path / "outgoing"
    folder.mkdir()
    return folder


@pytest.fixture
def voice(identity: Identity, store: DeviceStore, wire: Wire, outgoing: Path, clock: Clock) -> Voice:
    return voice_of(identity, store, wire, outgoing, clock)


def voice_of(identity: Identity, store: DeviceStore, wire: Wire, outgoing: Path, clock: Clock) -> Voice:
    return Voice(FLEET, identity, store, cast("Connection", wire), outgoing, uniform=lambda: 0.0, clock=clock)


def an_offer(*, job: str = "demo", round_: int = 1, attempt: int = 0, deadline: int = 2_000_000_000) -> Offer:
    """An offer that every check of this device lets pass."""
    weights = bytes(4 * DIM)
    return Offer(
        version=1,
        job=job,
        job_id=job_id(FLEET, job),
        round=round_,
        attempt=attempt,
        spec_hash=bytes(32),
        graph=BlobRef(hashlib.sha256(b"graph").digest(), 5),
        weights=BlobRef(hashlib.sha256(weights).digest(), len(weights)),
        dim=DIM,
        training=Training("watch", 1, 0.1, 0.0, 0.0, 1.0, 1000, 10, 16),
        cohort=Cohort(minimum=2, target=4, allow_small=True),
        suite=1,
        seed_commitment=bytes(32),
        seal_key=X25519PrivateKey.generate().public_key().public_bytes_raw(),
        chain_id=0,
        registry=bytes(20),
        ready_deadline=deadline,
        phase_seconds=10,
    )
