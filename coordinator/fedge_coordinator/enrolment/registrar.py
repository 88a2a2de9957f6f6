"""Who becomes, stays and ceases to be a member. Every decision is one transaction; every answer can be had again."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Connection, Engine, func, insert, select, update

from fedge_coordinator.enrolment import log, tokens
from fedge_coordinator.enrolment.applicant import Applicant, examine
from fedge_coordinator.enrolment.authority import Authority, RevokedCertificate
from fedge_coordinator.enrolment.errors import NotFoundError
from fedge_coordinator.enrolment.settings import Settings
from fedge_coordinator.enrolment.tables import CERTIFICATES, DEVICES
from fedge_protocol.certificates import (
    CertificateRefusedError,
    Role,
    checksum_address,
    verify_coordinator_certificate,
    verify_device_certificate,
)
from fedge_protocol.enrolment import (
    EnrolAnswer,
    EnrolmentReason,
    EnrolmentRefusedError,
    EnrolRequest,
    FleetInfo,
    LeaveRequest,
    RenewRequest,
    Token,
)
from fedge_protocol.membership import Change, Page

_NEW_TOKEN = "ask the operator, and enrol again with new keys and a new token"  # noqa: S105 - a cure, no secret


class DeviceState(msgspec.Struct, frozen=True):
    """What the CA knows of a device. Times in Unix seconds; addresses as EIP-55 text."""

    device_id: str
    chain_address: str
    payout: str
    enrolled_at: int
    not_after: int
    revoked_at: int | None
    replaced_by: str | None


class Registrar:
    """Decides for one fleet. May be called from several threads; `clock` returns Unix seconds."""

    def __init__(self, engine: Engine, authority: Authority, settings: Settings, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._authority = authority
        self._settings = settings
        self._clock = clock

    def fleet_info(self) -> FleetInfo:
        """What a device must know before it can ask."""
        settings = self._settings
        return FleetInfo(settings.fleet, settings.chain_id, settings.registry_address, self._now())

    def create_token(self, *, secret: bytes, uses: int, ttl_s: int, label: str) -> tuple[str, tokens.TokenState]:
        """Make a token around fresh random bytes. Its text is returned this once and can never be shown again."""
        token = Token(self._settings.url, self._settings.fleet, self._authority.sha256, secret)
        with self._engine.begin() as connection:
            state = tokens.create(connection, token, uses=uses, ttl_s=ttl_s, label=label, now=self._now())
        return token.text(), state

    def list_tokens(self) -> list[tokens.TokenState]:
        """All tokens, the newest first."""
        with self._engine.begin() as connection:
            return tokens.listing(connection)

    def revoke_token(self, token_id: str) -> tokens.TokenState:
        """End a token.

        Raises:
            NotFoundError: no such token.
        """
        with self._engine.begin() as connection:
            return tokens.revoke(connection, token_id, now=self._now())

    def enrol(self, request: EnrolRequest) -> EnrolAnswer:
        """Make the asking device a member. The same token and request always get the same certificate.

        Raises:
            EnrolmentRefusedError: with the reason; the token is not burned then.
        """
        now, csr_sha256 = self._now(), hashlib.sha256(request.csr).digest()
        with self._engine.begin() as connection:
            token = tokens.find(connection, hashlib.sha256(request.secret).digest())
            origin = f"token:{token.id}"
            issued = self._issued(connection, origin, csr_sha256)
            if issued is None:
                tokens.burn(connection, token, now=now)
                applicant = self._examine(request.csr, request, now)
                issued = self._admit(connection, applicant, origin, csr_sha256, now)
            return self._answer(connection, issued, now)

    def renew(self, peer: bytes | None, request: RenewRequest) -> EnrolAnswer:
        """Give a member, proven by its TLS certificate `peer` (DER), its next certificate.

        With another key the device gets another id, and the log says which one it replaces; the chain address stays.

        Raises:
            EnrolmentRefusedError: with the reason.
        """
        now, csr_sha256 = self._now(), hashlib.sha256(request.csr).digest()
        old_id, chain_address, serial = self._member_certificate(peer, now)
        origin = f"renewal:{serial}"
        with self._engine.begin() as connection:
            self._refuse_revoked(connection, serial)
            issued = self._issued(connection, origin, csr_sha256)
            if issued is None:
                applicant = self._examine(request.csr, request, now)
                if applicant.chain_address != chain_address:
                    raise EnrolmentRefusedError(
                        EnrolmentReason.BAD_BINDING,
                        f"the device's address is {checksum_address(chain_address)}, "
                        f"not {checksum_address(applicant.chain_address)}",
                        "a device keeps its chain key; for another one " + _NEW_TOKEN,
                    )
                replaces = old_id if applicant.device_id != old_id else ""
                issued = self._admit(connection, applicant, origin, csr_sha256, now, renews=old_id, replaces=replaces)
            return self._answer(connection, issued, now)

    def leaving(self, peer: bytes | None, request: LeaveRequest) -> str:
        """The id of the device that asks to leave, proven by its TLS certificate `peer` (DER); also when it has left.

        Raises:
            EnrolmentRefusedError: `no-certificate` or `unknown-device`.
        """
        device_id, _, serial = self._member_certificate(peer, self._now())
        with self._engine.begin() as connection:
            known = connection.execute(
                select(CERTIFICATES.c.name).where(CERTIFICATES.c.serial == serial)
            ).scalar_one_or_none()
        if known is None or device_id != request.device_id:
            raise EnrolmentRefusedError(
                EnrolmentReason.UNKNOWN_DEVICE,
                f"certificate {serial} is not device {request.device_id}'s in this CA's records",
                "the operator can: fedgectl devices revoke DEVICE",
            )
        return device_id

    def revoke(self, name: str) -> list[str]:
        """End a device's or a service's certificates. Returns the ids of devices that ceased to be members by it.

        Raises:
            NotFoundError: no certificate has that name.
        """
        now = self._now()
        with self._engine.begin() as connection:
            found = connection.execute(select(func.count()).where(CERTIFICATES.c.name == name)).scalar_one()
            if not found:
                raise NotFoundError(f"no device or service {name!r}; see fedge-ca devices")
            connection.execute(
                update(CERTIFICATES)
                .where(CERTIFICATES.c.name == name, CERTIFICATES.c.revoked_at.is_(None))
                .values(revoked_at=now)
            )
            ended = connection.execute(
                update(DEVICES)
                .where(DEVICES.c.device_id == name, DEVICES.c.revoked_at.is_(None))
                .values(revoked_at=now)
                .returning(DEVICES.c.device_id)
            ).scalars()
            revoked = list(ended)
            for device_id in revoked:
                log.append(connection, self._authority, Change.REVOKED, device_id, now=now)
            return revoked

    def devices(self) -> list[DeviceState]:
        """All devices that ever were members, in the order of their enrolment."""
        with self._engine.begin() as connection:
            rows = connection.execute(select(DEVICES).order_by(DEVICES.c.enrolled_at, DEVICES.c.device_id)).all()
        return [
            DeviceState(
                row.device_id,
                checksum_address(row.chain_address),
                checksum_address(row.payout),
                row.enrolled_at,
                row.not_after,
                row.revoked_at,
                row.replaced_by,
            )
            for row in rows
        ]

    def revoked_devices(self) -> list[str]:
        """The ids of revoked devices whose certificates have not run out by themselves."""
        query = select(DEVICES.c.device_id).where(DEVICES.c.revoked_at.is_not(None), DEVICES.c.not_after >= self._now())
        with self._engine.begin() as connection:
            return list(connection.execute(query.order_by(DEVICES.c.device_id)).scalars())

    def crl_pem(self) -> bytes:
        """The present revocation list."""
        now = self._now()
        revoked = CERTIFICATES.c.revoked_at.is_not(None)
        query = select(CERTIFICATES.c.serial, CERTIFICATES.c.revoked_at).where(revoked, CERTIFICATES.c.not_after >= now)
        with self._engine.begin() as connection:
            number = connection.execute(select(func.count()).where(revoked)).scalar_one()
            lines = [RevokedCertificate(int(row.serial, 16), row.revoked_at) for row in connection.execute(query)]
        return self._authority.crl_pem(lines, number=number, now=_moment(now))

    def page(self, after: int) -> Page:
        """The membership log after entry `after`."""
        with self._engine.begin() as connection:
            return log.page(connection, self._authority, after)

    def require_reader(self, peer: bytes | None) -> None:
        """Check that `peer` (DER, from TLS) may read the membership log: the coordinator, or a member.

        Raises:
            EnrolmentRefusedError: `no-certificate` or `device-revoked`.
        """
        now = self._now()
        try:
            verify_coordinator_certificate(
                peer or b"", ca=self._authority.certificate, fleet=self._settings.fleet, now=now
            )
        except CertificateRefusedError:
            _, _, serial = self._member_certificate(peer, now)
        else:
            serial = _serial(x509.load_der_x509_certificate(peer or b""))
        with self._engine.begin() as connection:
            self._refuse_revoked(connection, serial)

    def issue_service(self, role: Role, names: Sequence[str], key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        """A certificate for a server, a broker or the coordinator, remembered so that it can be revoked."""
        now = self._now()
        certificate = self._authority.issue_service(
            role, names, key, now=_moment(now), lifetime=timedelta(days=self._settings.service_days)
        )
        with self._engine.begin() as connection:
            name = names[0] if role is not Role.COORDINATOR else f"coordinator.{self._settings.fleet}"
            self._store(
                connection, certificate, role, name, "operator", hashlib.sha256(_der(certificate)).digest(), now
            )
        return certificate

    def _now(self) -> int:
        return int(self._clock())

    def _examine(self, csr: bytes, request: EnrolRequest | RenewRequest, now: int) -> Applicant:
        settings = self._settings
        return examine(csr, request.proof, chain_id=settings.chain_id, registry=settings.registry_address, now=now)

    def _issued(self, connection: Connection, origin: str, csr_sha256: bytes) -> bytes | None:
        row = connection.execute(
            select(CERTIFICATES.c.der, CERTIFICATES.c.name, CERTIFICATES.c.revoked_at).where(
                CERTIFICATES.c.origin == origin, CERTIFICATES.c.csr_sha256 == csr_sha256
            )
        ).one_or_none()
        if row is None:
            return None
        if row.revoked_at is not None:
            raise EnrolmentRefusedError(EnrolmentReason.DEVICE_REVOKED, f"device {row.name} was revoked", _NEW_TOKEN)
        return bytes(row.der)

    def _admit(
        self,
        connection: Connection,
        applicant: Applicant,
        origin: str,
        csr_sha256: bytes,
        now: int,
        *,
        renews: str = "",
        replaces: str = "",
    ) -> bytes:
        known = connection.execute(select(DEVICES).where(DEVICES.c.device_id == applicant.device_id)).one_or_none()
        former = connection.execute(select(DEVICES).where(DEVICES.c.device_id == renews)).one_or_none()
        for row in (known, former):
            if row is not None and (row.revoked_at is not None or row.replaced_by is not None):
                raise EnrolmentRefusedError(
                    EnrolmentReason.DEVICE_REVOKED, f"device {row.device_id} was revoked or replaced", _NEW_TOKEN
                )
        self._refuse_shared_address(connection, applicant, renews, now)
        certificate = self._authority.issue_device(
            applicant.public_key,
            applicant.device_id,
            applicant.chain_address,
            applicant.binding,
            now=_moment(now),
            lifetime=timedelta(days=self._settings.device_days),
        )
        not_after = self._store(connection, certificate, Role.DEVICE, applicant.device_id, origin, csr_sha256, now)
        state = {
            "chain_address": applicant.chain_address,
            "payout": applicant.binding.payout,
            "not_after": not_after,
        }
        if known is None:
            connection.execute(insert(DEVICES).values(device_id=applicant.device_id, enrolled_at=now, **state))
        else:
            connection.execute(update(DEVICES).where(DEVICES.c.device_id == applicant.device_id).values(**state))
        if replaces:
            connection.execute(
                update(DEVICES).where(DEVICES.c.device_id == replaces).values(replaced_by=applicant.device_id)
            )
        change = Change.RENEWED if known is not None or replaces else Change.ADDED
        log.append(
            connection,
            self._authority,
            change,
            applicant.device_id,
            now=now,
            certificate=_der(certificate),
            replaces=replaces,
        )
        return _der(certificate)

    def _refuse_shared_address(self, connection: Connection, applicant: Applicant, renews: str, now: int) -> None:
        """One chain address stands for one device at a time, or one owner would be paid for many."""
        other = connection.execute(
            select(DEVICES.c.device_id)
            .where(
                DEVICES.c.chain_address == applicant.chain_address,
                DEVICES.c.device_id.not_in([applicant.device_id, renews]),
                DEVICES.c.revoked_at.is_(None),
                DEVICES.c.replaced_by.is_(None),
                DEVICES.c.not_after >= now,
            )
            .limit(1)
        ).scalar_one_or_none()
        if other is not None:
            raise EnrolmentRefusedError(
                EnrolmentReason.CHAIN_ADDRESS_IN_USE,
                f"{checksum_address(applicant.chain_address)} belongs to device {other}",
                f"if that is this device's former life: fedge-ca revoke {other}; else remove chain.key and enrol again",
            )

    def _store(
        self,
        connection: Connection,
        certificate: x509.Certificate,
        role: Role,
        name: str,
        origin: str,
        csr_sha256: bytes,
        now: int,
    ) -> int:
        not_after = int(certificate.not_valid_after_utc.timestamp())
        connection.execute(
            insert(CERTIFICATES).values(
                serial=_serial(certificate),
                role=role.value,
                name=name,
                der=_der(certificate),
                origin=origin,
                csr_sha256=csr_sha256,
                issued_at=now,
                not_after=not_after,
            )
        )
        return not_after

    def _member_certificate(self, peer: bytes | None, now: int) -> tuple[str, bytes, str]:
        """Device id, chain address and serial number of a member's TLS certificate."""
        cure = "call with the device's own valid certificate; when it has expired, enrol again with a new token"
        if peer is None:
            raise EnrolmentRefusedError(EnrolmentReason.NO_CERTIFICATE, "no TLS client certificate", cure)
        try:
            identity = verify_device_certificate(
                peer, ca=self._authority.certificate, fleet=self._settings.fleet, now=now
            )
        except CertificateRefusedError as error:
            raise EnrolmentRefusedError(EnrolmentReason.NO_CERTIFICATE, str(error), cure) from None
        return identity.device_id, identity.chain_address, _serial(x509.load_der_x509_certificate(peer))

    def _refuse_revoked(self, connection: Connection, serial: str) -> None:
        row = connection.execute(
            select(CERTIFICATES.c.revoked_at, CERTIFICATES.c.name).where(CERTIFICATES.c.serial == serial)
        ).one_or_none()
        if row is None:
            raise EnrolmentRefusedError(
                EnrolmentReason.UNKNOWN_DEVICE, f"certificate {serial} is not in this CA's records", _NEW_TOKEN
            )
        if row.revoked_at is not None:
            raise EnrolmentRefusedError(EnrolmentReason.DEVICE_REVOKED, f"{row.name} was revoked", _NEW_TOKEN)

    def _answer(self, connection: Connection, certificate: bytes, now: int) -> EnrolAnswer:
        coordinator = connection.execute(
            select(CERTIFICATES.c.der)
            .where(
                CERTIFICATES.c.role == Role.COORDINATOR.value,
                CERTIFICATES.c.revoked_at.is_(None),
                CERTIFICATES.c.not_after > now,
            )
            .order_by(CERTIFICATES.c.issued_at.desc(), CERTIFICATES.c.not_after.desc())
            .limit(1)
        ).scalar_one_or_none()
        if coordinator is None:
            raise EnrolmentRefusedError(
                EnrolmentReason.NO_COORDINATOR,
                f"fleet {self._settings.fleet!r} has no coordinator yet",
                "on the CA: fedge-ca issue --kind coordinator",
            )
        signers = tuple(bytes.fromhex(text) for text in self._settings.job_signers)
        if not signers:
            key = x509.load_der_x509_certificate(coordinator).public_key()
            signers = (key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),)
        settings = self._settings
        return EnrolAnswer(
            certificate=certificate,
            ca=self._authority.der,
            coordinator=coordinator,
            broker_url=settings.broker_url,
            chain_id=settings.chain_id,
            registry=settings.registry_address,
            job_signers=signers,
            head=log.head(connection, self._authority),
        )


def _moment(now: int) -> datetime:
    return datetime.fromtimestamp(now, UTC)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _serial(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:040x}"
