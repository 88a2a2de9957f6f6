"""The coordinator's view of who is a member: the CA's log, followed, verified, kept on disk, asked by device id.

A revocation arrives as soon as the CA has committed it, because a request for what comes next is always waiting there.
With the CA down everything known stays known, also across a restart; certificates still expire by the clock.
"""

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Column, Engine, Integer, LargeBinary, MetaData, Table, delete, insert, select

from fedge_coordinator.enrolment.errors import AuthorityFilesError, MembershipUnavailableError
from fedge_coordinator.enrolment.tables import durable_sqlite
from fedge_coordinator.settlement.recovery import recover_signer
from fedge_protocol import cose
from fedge_protocol.certificates import (
    CertificateRefusedError,
    DeviceIdentity,
    load_fleet_ca,
    verify_device_certificate,
)
from fedge_protocol.enrolment import PATH_MEMBERSHIP
from fedge_protocol.errors import RefusedError
from fedge_protocol.membership import (
    MAX_PAGE_BYTES,
    Change,
    Entry,
    Head,
    LogFault,
    LogRefusedError,
    Page,
    empty_log,
    verify_extends,
    verify_head,
)

LOG = logging.getLogger(__name__)
_METADATA: Final = MetaData()
_ENTRIES: Final = Table(
    "membership_entries",
    _METADATA,
    Column("seq", Integer, primary_key=True),
    Column("entry", LargeBinary(4096), nullable=False),
)
_HEAD: Final = Table("membership_head", _METADATA, Column("head", LargeBinary(256), nullable=False))
# longer than the CA lets a request wait
_READ_TIMEOUT_S: Final = 75.0
_CONNECT_TIMEOUT_S: Final = 10.0
_FIRST_RETRY_S: Final = 0.5
_LAST_RETRY_S: Final = 30.0


class Source(Protocol):
    """Where the log is read."""

    async def page(self, after: int) -> Page:
        """The entries after `after`; waits while there are none.

        Raises:
            MembershipUnavailableError: the CA cannot be asked now.
        """
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """A device that is a member now. `certificate` is DER, `seq` the log entry that made it so."""

    device_id: str
    certificate: bytes
    identity: DeviceIdentity
    seq: int


class HttpsSource:
    """The CA's HTTPS listener, asked with the coordinator's certificate."""

    def __init__(self, url: str, *, ca: Path, cert: Path, key: Path) -> None:
        try:
            context = ssl.create_default_context(cafile=str(ca))
            context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            raise AuthorityFilesError(f"{ca}, {cert} or {key} cannot be used: {error}; see fedge-ca issue") from None
        timeout = httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        self._client = httpx.AsyncClient(base_url=url, verify=context, timeout=timeout, trust_env=False)

    async def page(self, after: int) -> Page:
        """The entries after `after`; waits while there are none.

        Raises:
            MembershipUnavailableError: the CA cannot be asked now, refuses, or answers with something else.
        """
        try:
            async with self._client.stream("GET", PATH_MEMBERSHIP, params={"after": after}) as response:
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_PAGE_BYTES:
                        raise MembershipUnavailableError(f"the CA's answer exceeds {MAX_PAGE_BYTES} bytes")
                if response.status_code != httpx.codes.OK:
                    text = bytes(body[:300]).decode(errors="replace")
                    raise MembershipUnavailableError(f"the CA refused: {response.status_code} {text}")
            return cose.decode(bytes(body), Page, max_bytes=MAX_PAGE_BYTES)
        except httpx.HTTPError as error:
            raise MembershipUnavailableError(
                f"the CA at {self._client.base_url} does not answer: {error or type(error).__name__}"
            ) from None
        except RefusedError as error:
            raise MembershipUnavailableError(f"the CA's answer is no page of the log: {error}") from None

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()


class Members:
    """Who is a member, from the last verified head on. `clock` returns Unix seconds.

    Args:
        engine: where the log is kept (two tables of its own); see `open_cache`.
        ca: the fleet's root certificate.
        fleet: its name.
        clock: for the expiry of certificates.
        on_change: called after every entry that was taken over, in order; after the commit.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        ca: x509.Certificate,
        fleet: str,
        clock: Callable[[], float],
        on_change: Callable[[Entry], None] = lambda _: None,
    ) -> None:
        key = ca.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise AuthorityFilesError("the root's key is not P-256")
        self._engine = engine
        self._ca = ca
        self._key = key
        self._fleet = fleet
        self._clock = clock
        self._on_change = on_change
        self._members: dict[str, Member] = {}
        _METADATA.create_all(engine)
        self._head = self._recall()

    @property
    def head(self) -> Head:
        """The head of what is known."""
        return self._head

    def get(self, device_id: str) -> Member | None:
        """The member with this id; None when it never was one, was revoked or replaced, or its certificate expired."""
        member = self._members.get(device_id)
        if member is None or self._clock() > member.identity.not_after:
            return None
        return member

    def all(self) -> list[Member]:
        """All present members, by id."""
        found = (self.get(device_id) for device_id in sorted(self._members))
        return [member for member in found if member is not None]

    async def follow(self, source: Source) -> None:
        """Take over what the CA appends, until cancelled. An unreachable CA is asked again, later and later.

        Raises:
            LogRefusedError: the CA's log contradicts what was seen before. Nothing of it was taken over; an operator
                must find out which of the two is false.
        """
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                page = await source.page(self._head.seq)
            except MembershipUnavailableError as error:
                LOG.warning("membership: %s; asking again in %.1f s", error, retry_s)
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _LAST_RETRY_S)
                continue
            retry_s = _FIRST_RETRY_S
            self.take(page)

    def take(self, page: Page) -> None:
        """Verify a page and take it over: on disk first, then in force.

        Raises:
            LogRefusedError: it does not extend what is known; nothing was changed.
        """
        verify_head(page.head, key=self._key, fleet=self._fleet)
        verify_extends(self._head, page.entries, page.head)
        if not page.entries:
            return
        changes = [(entry, self._identity(entry)) for entry in page.entries]
        with self._engine.begin() as connection:
            connection.execute(
                insert(_ENTRIES), [{"seq": entry.seq, "entry": cose.encode(entry)} for entry in page.entries]
            )
            connection.execute(delete(_HEAD))
            connection.execute(insert(_HEAD).values(head=cose.encode(page.head)))
        self._head = page.head
        for entry, identity in changes:
            self._apply(entry, identity)
            self._on_change(entry)

    def _identity(self, entry: Entry) -> DeviceIdentity | None:
        """Whom an entry's certificate names. It was valid when it was entered, whatever has expired since."""
        if entry.change is Change.REVOKED:
            return None
        try:
            identity = verify_device_certificate(
                entry.certificate,
                ca=self._ca,
                fleet=self._fleet,
                now=entry.time,
                check_binding=True,
                recover=recover_signer,
            )
        except CertificateRefusedError as error:
            raise LogRefusedError(LogFault.BAD_ENTRY, f"entry {entry.seq}: {error}") from error
        if identity.device_id != entry.device_id:
            raise LogRefusedError(LogFault.BAD_ENTRY, f"entry {entry.seq} names another device than its certificate")
        return identity

    def _apply(self, entry: Entry, identity: DeviceIdentity | None) -> None:
        self._members.pop(entry.replaces, None)
        if identity is None:
            self._members.pop(entry.device_id, None)
        else:
            self._members[entry.device_id] = Member(entry.device_id, entry.certificate, identity, entry.seq)

    def _recall(self) -> Head:
        """Read the kept log back; it is verified as if it came from the CA, except the chain keys' slow signatures."""
        start = empty_log(self._fleet, hashlib.sha256(self._ca.public_bytes(serialization.Encoding.DER)).digest())
        with self._engine.begin() as connection:
            stored = connection.execute(select(_HEAD.c.head)).scalar_one_or_none()
            blobs = list(connection.execute(select(_ENTRIES.c.entry).order_by(_ENTRIES.c.seq)).scalars())
        if stored is None:
            return start
        head = cose.decode(stored, Head)
        entries = [cose.decode(blob, Entry) for blob in blobs]
        verify_head(head, key=self._key, fleet=self._fleet)
        verify_extends(start, entries, head)
        last = {entry.device_id: entry.seq for entry in entries}
        for entry in entries:
            if entry.change is Change.REVOKED or last[entry.device_id] != entry.seq:
                self._apply(entry, None)
                continue
            identity = verify_device_certificate(entry.certificate, ca=self._ca, fleet=self._fleet, now=entry.time)
            self._apply(entry, identity)
        return head


def open_cache(path: Path) -> Engine:
    """A SQLite file for `Members`, when the coordinator's own database is not used."""
    return durable_sqlite(path)


def open_members(
    folder: Path,
    *,
    ca: Path,
    fleet: str,
    clock: Callable[[], float],
    on_change: Callable[[Entry], None] = lambda _: None,
) -> Members:
    """`Members` with `folder/members.db` and the fleet's root from a PEM file.

    Raises:
        AuthorityFilesError: the root cannot be read or is another fleet's.
        LogRefusedError: what was kept is not the log of this fleet's CA.
    """
    try:
        der = x509.load_pem_x509_certificate(ca.read_bytes()).public_bytes(serialization.Encoding.DER)
        root = load_fleet_ca(der, fleet=fleet)
    except (OSError, ValueError, CertificateRefusedError) as error:
        raise AuthorityFilesError(f"{ca} is not the root of fleet {fleet!r}: {error}") from None
    return Members(open_cache(folder / "members.db"), ca=root, fleet=fleet, clock=clock, on_change=on_change)
