"""What an operator may ask of the CA, as one interface with two ends: the CA's own process, and its socket.

One rule decides which: whoever holds `DIR/lock` owns the database. A command takes the lock and works on the files;
when `fedge-ca run` holds it, the command asks that process through `DIR/ca.sock` instead.
"""

import fcntl
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedge_coordinator import credentials
from fedge_coordinator.enrolment import broker, settings, tables
from fedge_coordinator.enrolment.authority import Authority
from fedge_coordinator.enrolment.errors import AuthorityFilesError, BrokerError
from fedge_coordinator.enrolment.files import PRIVATE, PUBLIC, read_private, write_durably
from fedge_coordinator.enrolment.registrar import DeviceState, Registrar
from fedge_coordinator.enrolment.tokens import TokenState
from fedge_protocol.certificates import Role
from fedge_protocol.enrolment import SECRET_BYTES

LOG = logging.getLogger(__name__)
SETTINGS: Final = "ca.toml"
DATABASE: Final = "ca.db"
KEY: Final = "ca.key"
CERTIFICATE: Final = "ca.pem"
SOCKET: Final = "ca.sock"
LOCK: Final = "lock"
CRL: Final = "crl.pem"


class NewToken(msgspec.Struct, frozen=True):
    """A token's text, shown this once, and what may be known about it."""

    token: str
    state: TokenState


class Revocation(msgspec.Struct, frozen=True):
    """What a revocation did. `broker` says how far the broker was told: "told", "none" (not configured) or a fault."""

    name: str
    devices: list[str]
    broker: str


class Desk(Protocol):
    """What an operator may ask."""

    def create_token(self, *, uses: int, ttl_s: int, label: str) -> NewToken:
        """Make a token."""
        ...

    def list_tokens(self) -> list[TokenState]:
        """All tokens, the newest first."""
        ...

    def revoke_token(self, token_id: str) -> TokenState:
        """End a token."""
        ...

    def devices(self) -> list[DeviceState]:
        """All devices that ever were members."""
        ...

    def revoke(self, name: str) -> Revocation:
        """End a device's or a service's certificates."""
        ...

    def crl_pem(self) -> bytes:
        """The present revocation list."""
        ...

    def issue_service(self, role: Role, names: Sequence[str], public_key: bytes) -> bytes:
        """A certificate (DER) for a broker or the coordinator with this SPKI (DER)."""
        ...


class OwnDesk:
    """The desk of the process that owns the CA's directory."""

    def __init__(
        self,
        folder: Path,
        authority: Authority,
        registrar: Registrar,
        chosen: settings.Settings,
        clock: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._authority = authority
        self._registrar = registrar
        self._settings = chosen
        self._clock = clock

    def create_token(self, *, uses: int, ttl_s: int, label: str) -> NewToken:
        """Make a token."""
        secret = secrets.token_bytes(SECRET_BYTES)
        return NewToken(*self._registrar.create_token(secret=secret, uses=uses, ttl_s=ttl_s, label=label))

    def list_tokens(self) -> list[TokenState]:
        """All tokens, the newest first."""
        return self._registrar.list_tokens()

    def revoke_token(self, token_id: str) -> TokenState:
        """End a token.

        Raises:
            NotFoundError: no such token.
        """
        return self._registrar.revoke_token(token_id)

    def devices(self) -> list[DeviceState]:
        """All devices that ever were members."""
        return self._registrar.devices()

    def revoke(self, name: str) -> Revocation:
        """End a device's or a service's certificates, publish the lists and end the device's session.

        The revocation stands once it is in the log, whatever the broker says; a fault there is reported, not raised.

        Raises:
            NotFoundError: no certificate has that name.
        """
        ended = self._registrar.revoke(name)
        LOG.warning("revoked %s", name)
        try:
            told = self.publish()
            if told == "told":
                for device_id in ended:
                    self._evict(device_id)
        except BrokerError as error:
            LOG.error("the broker was not told that %s is revoked: %s", name, error)  # noqa: TRY400 - the error says it all
            told = str(error)
        return Revocation(name, ended, told)

    def publish(self) -> str:
        """Write the revocation lists, here and for the broker on this machine. Returns how far the broker was told.

        Raises:
            BrokerError: it could not be signalled.
        """
        crl = self._registrar.crl_pem()
        write_durably(self._folder / CRL, crl, mode=PUBLIC)
        link = self._settings.broker
        if link is None:
            return "none"
        folder = Path(link.dir)
        try:
            write_durably(folder / CRL, crl, mode=PUBLIC)
            broker.write_acl(folder / "acl", self._settings.fleet, self._registrar.revoked_devices())
        except OSError as error:
            raise BrokerError(f"{error.filename}: {error.strerror}; may this user write there?") from None
        if not link.pid_file:
            return "written"
        broker.reload(broker.read_pid(Path(link.pid_file)))
        return "told"

    def crl_pem(self) -> bytes:
        """The present revocation list."""
        return self._registrar.crl_pem()

    def issue_service(self, role: Role, names: Sequence[str], public_key: bytes) -> bytes:
        """A certificate (DER) for a broker or the coordinator with this SPKI (DER).

        Raises:
            AuthorityFilesError: the key is not P-256.
        """
        key = serialization.load_der_public_key(public_key)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise AuthorityFilesError("a service's key is P-256 (openssl ecparam -name prime256v1 -genkey)")
        return self._registrar.issue_service(role, names, key).public_bytes(serialization.Encoding.DER)

    def _evict(self, device_id: str) -> None:
        address = urlsplit(self._settings.broker_url)
        certificate, key = self._authority.issue_eviction(device_id, now=datetime.fromtimestamp(self._clock(), UTC))
        broker.evict(
            broker.Eviction(
                device_id,
                self._settings.fleet,
                certificate,
                key,
                self._authority.certificate,
                address.hostname or "",
                (address.scheme == "mqtts" and address.port) or 8883,  # beside a WebSocket, MQTT has its own port
            )
        )


@dataclass(frozen=True, slots=True)
class OpenOffice:
    """All parts of a CA, built from its directory by the process that owns it."""

    folder: Path
    settings: settings.Settings
    authority: Authority
    registrar: Registrar
    desk: OwnDesk


def establish(folder: Path, chosen: settings.Settings, *, now: datetime) -> Authority:
    """Make a new CA in `folder`: root key, certificate, settings, an empty revocation list.

    Raises:
        AuthorityFilesError: there is one already; its key is never overwritten.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    if (folder / KEY).exists():
        raise AuthorityFilesError(f"{folder / KEY} exists: this is a CA already; choose another --dir")
    authority = Authority.create(chosen.fleet, now)
    write_durably(folder / SETTINGS, settings.as_toml(chosen).encode(), mode=PRIVATE)
    write_durably(folder / CERTIFICATE, authority.certificate_pem(), mode=PUBLIC)
    write_durably(folder / CRL, authority.crl_pem([], number=0, now=now), mode=PUBLIC)
    tables.open_database(folder / DATABASE).dispose()
    (folder / DATABASE).chmod(PRIVATE)
    # last: a directory without the key is no CA, and `init` may be run again
    write_durably(folder / KEY, authority.key_pem(), mode=PRIVATE)
    return authority


def open_office(folder: Path, clock: Callable[[], float]) -> OpenOffice:
    """Read a CA's directory. The caller holds the lock.

    Raises:
        AuthorityFilesError: keys missing, exposed or not belonging together.
        SettingsError: `ca.toml` cannot be used.
    """
    chosen = settings.load(folder / SETTINGS)
    key = read_private(credentials.path_of(folder / KEY))
    authority = Authority.load(key, (folder / CERTIFICATE).read_bytes(), chosen.fleet)
    registrar = Registrar(tables.open_database(folder / DATABASE), authority, chosen, clock)
    return OpenOffice(folder, chosen, authority, registrar, OwnDesk(folder, authority, registrar, chosen, clock))


@contextmanager
def ownership(folder: Path) -> Iterator[bool]:
    """Try to own the CA's directory; yields whether this process does. The kernel frees the lock of a killed process.

    Raises:
        AuthorityFilesError: there is no such directory.
    """
    try:
        # The directory may be another user's when root asks: no link of his is followed, and the file is his.
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
    except OSError as error:
        raise AuthorityFilesError(
            f"{folder / LOCK}: {error.strerror}; is --dir right, and are you its owner?"
        ) from None
    try:
        if os.geteuid() == 0 and os.fstat(descriptor).st_nlink == 1:
            owner = folder.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def certificate_pem(der: bytes) -> bytes:
    """A certificate in PEM."""
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
