"""The fleet's root key and all that it signs: certificates, revocation lists, heads of the membership log."""

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedge_coordinator.enrolment.errors import AuthorityFilesError
from fedge_protocol import cose, membership
from fedge_protocol.certificates import (
    BINDING_OID,
    Binding,
    CertificateRefusedError,
    Role,
    coordinator_name,
    did_of,
    load_fleet_ca,
    subject_name,
)

ROOT_DAYS: Final = 20 * 365
EVICTION_LIFETIME: Final = timedelta(minutes=10)
# A device's clock may be some minutes behind the CA's.
BACKDATE: Final = timedelta(minutes=10)
# Mosquitto refuses everybody once the list's next update has passed, so a CA that is down must not stop the fleet.
CRL_LIFETIME: Final = timedelta(days=365)
_SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
_CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH
_USAGE: Final = {
    Role.SERVER: _SERVER,
    Role.BROKER: _SERVER,
    Role.COORDINATOR: _CLIENT,
    Role.DEVICE: _CLIENT,
    Role.EVICTION: _CLIENT,
}


@dataclass(frozen=True, slots=True)
class RevokedCertificate:
    """A line of the revocation list. `revoked_at` in Unix seconds."""

    serial: int
    revoked_at: int


class Authority:
    """Signs for one fleet. Holds the root key; keeps no state and asks no questions: `Registrar` decides."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, fleet: str) -> None:
        self._key = key
        self.certificate = certificate
        self.fleet = fleet
        self.der = certificate.public_bytes(serialization.Encoding.DER)
        self.sha256 = hashlib.sha256(self.der).digest()

    @classmethod
    def create(cls, fleet: str, now: datetime) -> "Authority":
        """Make a new root of a fleet."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = subject_name(fleet, Role.CA, f"Fedge fleet {fleet}")
        builder = _builder(name, name, key.public_key(), key.public_key(), now, timedelta(days=ROOT_DAYS))
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate, fleet)

    @classmethod
    def load(cls, key_pem: bytes, certificate_pem: bytes, fleet: str) -> "Authority":
        """Read a root back.

        Raises:
            AuthorityFilesError: the two do not belong together or are not this fleet's root.
        """
        try:
            key = serialization.load_pem_private_key(key_pem, password=None)
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            load_fleet_ca(certificate.public_bytes(serialization.Encoding.DER), fleet=fleet)
        except (ValueError, CertificateRefusedError) as error:
            raise AuthorityFilesError(
                f"ca.key or ca.pem cannot be used: {error}; restore both from the backup"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise AuthorityFilesError("ca.key is not the key of ca.pem; restore both from the same backup")
        return cls(key, certificate, fleet)

    def key_pem(self) -> bytes:
        """The root key, for a file of mode 0600."""
        return private_pem(self._key)

    def certificate_pem(self) -> bytes:
        """The root certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue_device(
        self,
        key: ec.EllipticCurvePublicKey,
        device_id: str,
        chain_address: bytes,
        binding: Binding,
        *,
        now: datetime,
        lifetime: timedelta,
    ) -> x509.Certificate:
        """A device's certificate. The caller has checked the request, the binding and the name."""
        uri = x509.UniformResourceIdentifier(did_of(binding.chain_id, chain_address))
        return (
            self._leaf(Role.DEVICE, device_id, key, now, lifetime)
            .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
            .add_extension(x509.UnrecognizedExtension(BINDING_OID, cose.encode(binding)), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def issue_service(
        self, role: Role, names: Sequence[str], key: ec.EllipticCurvePublicKey, *, now: datetime, lifetime: timedelta
    ) -> x509.Certificate:
        """A certificate for an HTTPS server or a broker with these host names and addresses, or for the coordinator."""
        if role is Role.COORDINATOR:
            return self._leaf(role, coordinator_name(self.fleet), key, now, lifetime).sign(self._key, hashes.SHA256())
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        return (
            self._leaf(role, names[0][:64], key, now, lifetime)
            .add_extension(alternatives, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def issue_eviction(self, device_id: str, *, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """Ten minutes of a revoked device's name at the broker, to take its session over and end it.

        Its role and key make it worthless as a device's certificate (`verify_device_certificate`), and the broker's
        list of revoked names lets it neither publish nor read.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self._leaf(Role.EVICTION, device_id, key.public_key(), now, EVICTION_LIFETIME)
        return leaf.sign(self._key, hashes.SHA256()), key

    def crl_pem(self, revoked: Iterable[RevokedCertificate], *, number: int, now: datetime) -> bytes:
        """The revocation list. `number` never falls."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - BACKDATE)
            .next_update(now + CRL_LIFETIME)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(_authority_identifier(self.certificate), critical=False)
        )
        for line in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(line.serial)
                .revocation_date(datetime.fromtimestamp(line.revoked_at, UTC))
                .build()
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def sign_head(self, seq: int, digest: bytes) -> membership.Head:
        """The signed head of a membership log of `seq` entries."""
        return membership.sign_head(self._key, self.fleet, seq, digest)

    def genesis(self) -> membership.Head:
        """The signed head of the empty log."""
        return self.sign_head(0, membership.genesis_hash(self.fleet, self.sha256))

    def _leaf(
        self, role: Role, name: str, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
    ) -> x509.CertificateBuilder:
        subject = subject_name(self.fleet, role, name)
        return (
            _builder(subject, self.certificate.subject, key, self._key.public_key(), now, lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_USAGE[role]]), critical=False)
        )


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PKCS#8 PEM, for a file of mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _authority_identifier(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
