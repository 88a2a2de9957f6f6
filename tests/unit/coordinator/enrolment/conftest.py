"""A CA in this process with a clock and randomness of the test's own, and devices that ask it by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedge_agent.identity import request
from fedge_agent.identity.keys import Identity
from fedge_coordinator.enrolment import tables
from fedge_coordinator.enrolment.authority import Authority
from fedge_coordinator.enrolment.registrar import Registrar
from fedge_coordinator.enrolment.settings import Settings
from fedge_protocol.certificates import Role
from fedge_protocol.enrolment import EnrolRequest, FleetInfo, RenewRequest, parse_token
from fedge_protocol.secp256k1 import ChainKey

START = datetime(2026, 5, 4, tzinfo=UTC).timestamp()
DAY_S = 86400


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@dataclass
class Office:
    """A registrar and what a test wants to see of it."""

    registrar: Registrar
    authority: Authority
    settings: Settings
    clock: Clock
    secrets: int = 0

    def token(self, *, uses: int = 1, ttl_s: int = DAY_S) -> bytes:
        self.secrets += 1
        secret = self.secrets.to_bytes(16, "big")
        text, _ = self.registrar.create_token(secret=secret, uses=uses, ttl_s=ttl_s, label="")
        return parse_token(text).secret

    def enrol_request(self, secret: bytes, identity: Identity | None = None, **changes: Any) -> EnrolRequest:
        asked = self._request(identity or device(), **changes)
        return EnrolRequest(secret, asked.csr, request.proof_of(asked))

    def renew_request(self, identity: Identity, **changes: Any) -> RenewRequest:
        asked = self._request(identity, **changes)
        return RenewRequest(asked.csr, request.proof_of(asked))

    def _request(self, identity: Identity, *, fleet: FleetInfo | None = None, payout: bytes = b"\x09" * 20):
        info = fleet or self.registrar.fleet_info()
        return request.make(identity, info, payout=payout, nonce=bytes(32), purpose=bytes(32))


def device(chain: ChainKey | None = None) -> Identity:
    return Identity.of(ec.generate_private_key(ec.SECP256R1()), chain or ChainKey.generate())


@pytest.fixture
def make_device() -> Callable[..., Identity]:
    return device


@pytest.fixture
def office(tmp_path: Path) -> Office:
    clock = Clock()
    settings = Settings("lab", "127.0.0.1:8443", ("ca.example.org",), "mqtts://mq.example.org:8883", chain_id=31337)
    authority = Authority.create("lab", datetime.fromtimestamp(START, UTC))
    registrar = Registrar(tables.open_database(tmp_path / "ca.db"), authority, settings, clock)
    registrar.issue_service(Role.COORDINATOR, [], ec.generate_private_key(ec.SECP256R1()).public_key())
    return Office(registrar, authority, settings, clock)
