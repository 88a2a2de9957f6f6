"""What enrolment left behind: one JSON file beside the keys, and PEM files for TLS. Installed as a whole or not at all.

An answer of the CA is stored as `pending.json` first and installed after, so a power loss between any two writes is
continued by the next start: `load` finishes an interrupted installation before it reads.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from msgspec import Meta

from fedge_agent.identity import keys
from fedge_agent.identity.errors import CaUntrustedError, KeyFileError, NotEnrolledError
from fedge_agent.identity.files import read_private, sync_folder, write_durably
from fedge_protocol.certificates import (
    CertificateReason,
    CertificateRefusedError,
    DeviceIdentity,
    load_fleet_ca,
    verify_coordinator_certificate,
    verify_device_certificate,
)
from fedge_protocol.eip712 import Domain
from fedge_protocol.enrolment import Certificate, Csr, EnrolAnswer, Url
from fedge_protocol.ids import DeviceId, Fleet, Hash32
from fedge_protocol.membership import LogRefusedError, verify_head

_T = TypeVar("_T")
RECORD: Final = "identity.json"
PENDING: Final = "pending.json"
NEXT_KEY: Final = "identity.next.key"
CERTIFICATE_PEM: Final = "device.pem"
CA_PEM: Final = "ca.pem"
COORDINATOR_PEM: Final = "coordinator.pem"


class Request(msgspec.Struct, frozen=True):
    """A request as it was, or will be, sent. `purpose` is the token's hash, or the hash of the certificate to renew."""

    purpose: Hash32
    csr: Csr
    proof: bytes
    rotates_key: bool = False


class Record(msgspec.Struct, frozen=True):
    """`identity.json`: whom this device belongs to, and what it pinned when it joined."""

    url: Url
    fleet: Fleet
    ca_sha256: Hash32
    device_id: DeviceId
    answer: EnrolAnswer
    token_sha256: Hash32
    enrolled_at: Annotated[int, Meta(ge=0)]


class Pending(msgspec.Struct, frozen=True):
    """`pending.json`: a request that may have been sent, and, once it came, what is to be installed."""

    request: Request
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class Enrolment:
    """An enrolled device: its record, checked, and where TLS finds its files. Times in Unix seconds."""

    folder: Path
    record: Record
    device: DeviceIdentity
    not_before: int

    @property
    def fleet(self) -> str:
        """The fleet's name."""
        return self.record.fleet

    @property
    def device_id(self) -> str:
        """This device's name: certificate, MQTT user and client id."""
        return self.record.device_id

    @property
    def broker_url(self) -> str:
        """`mqtts://host:port`."""
        return self.record.answer.broker_url

    @property
    def chain_domain(self) -> Domain:
        """Where this device's receipts and binding count: DeviceRegistry on the fleet's chain."""
        return Domain(self.record.answer.chain_id, self.record.answer.registry)

    @property
    def job_signers(self) -> tuple[bytes, ...]:
        """The SPKIs (DER) whose jobs are trusted."""
        return self.record.answer.job_signers

    @property
    def ca(self) -> x509.Certificate:
        """The fleet's root."""
        return x509.load_der_x509_certificate(self.record.answer.ca)

    @property
    def coordinator_key(self) -> ec.EllipticCurvePublicKey:
        """The key that signs the coordinator's messages."""
        key = x509.load_der_x509_certificate(self.record.answer.coordinator).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise CaUntrustedError("the coordinator's key is not P-256; enrol again")
        return key

    @property
    def certificate_file(self) -> Path:
        """The device's certificate, PEM."""
        return self.folder / CERTIFICATE_PEM

    @property
    def key_file(self) -> Path:
        """The device's private key, PEM: a credential of the unit, or a file of mode 0600."""
        return keys.identity_key_file(self.folder)

    @property
    def ca_file(self) -> Path:
        """The fleet's root, PEM: the only trust anchor."""
        return self.folder / CA_PEM

    def renew_at(self) -> int:
        """When two thirds of the certificate's life are over."""
        return self.not_before + (self.device.not_after - self.not_before) * 2 // 3


def load(folder: Path, clock: Callable[[], float] = time.time) -> Enrolment:
    """Read a device's enrolment, finishing an interrupted installation first. An expired certificate is still read.

    Raises:
        NotEnrolledError: there is none.
        KeyFileError: a file is exposed or damaged.
        CaUntrustedError: the files do not belong together.
    """
    return _load(folder, clock, lambda _: keys.load_identity_key(keys.identity_key_file(folder)).public_key())


def look(folder: Path, clock: Callable[[], float] = time.time) -> Enrolment:
    """As `load`, for commands outside of the unit: a key kept as its credential is out of reach and not compared.

    Raises:
        NotEnrolledError, KeyFileError, CaUntrustedError: as `load`.
    """
    path = keys.identity_key_file(folder)
    if path.exists() and path.stat().st_size:
        return load(folder, clock)
    return _load(folder, clock, lambda certificate: certificate.public_key())


def _load(
    folder: Path, clock: Callable[[], float], key_of: Callable[[x509.Certificate], CertificatePublicKeyTypes]
) -> Enrolment:
    pending = read_pending(folder)
    if pending is not None and pending.record is not None:
        install(folder, pending)
    if not (folder / RECORD).exists():
        raise NotEnrolledError(f"no {folder / RECORD}: this device belongs to no fleet; fedge-agent enroll TOKEN")
    record = _decode(folder / RECORD, Record)
    certificate = x509.load_der_x509_certificate(record.answer.certificate)
    key = key_of(certificate)
    # an expired certificate still says who we are; whether it may be used is asked elsewhere
    now = min(clock(), certificate.not_valid_after_utc.timestamp())
    now = max(now, certificate.not_valid_before_utc.timestamp())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CaUntrustedError("the certificate's key is not P-256; enrol again")
    device = check(record, key, now=now, coordinator=False)
    return Enrolment(folder, record, device, int(certificate.not_valid_before_utc.timestamp()))


def check(record: Record, key: ec.EllipticCurvePublicKey, *, now: float, coordinator: bool = True) -> DeviceIdentity:
    """Check that an answer is this fleet's CA's, for this device's key, with its coordinator and a signed log head.

    Raises:
        CaUntrustedError: with what is wrong.
    """
    answer = record.answer
    try:
        ca = load_fleet_ca(answer.ca, fleet=record.fleet)
        device = verify_device_certificate(answer.certificate, ca=ca, fleet=record.fleet, now=now)
        if coordinator:
            verify_coordinator_certificate(answer.coordinator, ca=ca, fleet=record.fleet, now=now)
        root_key = ca.public_key()
        if isinstance(root_key, ec.EllipticCurvePublicKey):
            verify_head(answer.head, key=root_key, fleet=record.fleet)
    except CertificateRefusedError as error:
        clock = error.reason in {CertificateReason.NOT_YET_VALID, CertificateReason.EXPIRED}
        cure = "set this device's clock and run the command again" if clock else "do not use this CA; tell the operator"
        raise CaUntrustedError(f"the CA's answer does not hold: {error}; {cure}") from None
    except LogRefusedError as error:
        raise CaUntrustedError(f"the CA's membership log does not hold: {error}; tell the operator") from None
    if device.public_key != key or device.device_id != record.device_id:
        raise CaUntrustedError(f"the certificate is for device {device.device_id}, not for this one; enrol again")
    return device


def read_pending(folder: Path) -> Pending | None:
    """A request that was begun and not finished.

    Raises:
        KeyFileError: the file is exposed or damaged.
    """
    path = folder / PENDING
    return _decode(path, Pending) if path.exists() else None


def write_pending(folder: Path, pending: Pending) -> None:
    """Store a request before it is sent, or its answer before it is installed."""
    write_durably(folder / PENDING, msgspec.json.encode(pending))


def install(folder: Path, pending: Pending) -> None:
    """Put a stored answer in force. Every step may be repeated, so the next start finishes what a power loss left."""
    record = pending.record
    if record is None:
        raise ValueError("nothing to install: the request has no answer yet")
    if pending.request.rotates_key and (folder / NEXT_KEY).exists():
        (folder / NEXT_KEY).replace(folder / keys.IDENTITY_KEY)
        sync_folder(folder)
    for name, der in (
        (CERTIFICATE_PEM, record.answer.certificate),
        (CA_PEM, record.answer.ca),
        (COORDINATOR_PEM, record.answer.coordinator),
    ):
        write_durably(folder / name, pem_of(der))
    write_durably(folder / RECORD, msgspec.json.encode(record))
    (folder / PENDING).unlink(missing_ok=True)
    sync_folder(folder)


def pem_of(der: Certificate) -> bytes:
    """A certificate in PEM."""
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


def _decode(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(read_private(path), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path} is damaged ({error}); remove it and enrol again") from None
