"""The fleet's certificates: four profiles under one P-256 root, and the checks that hold each role to its own.

Every subject is O = fleet, OU = role, CN = name. A device's name is the hash of its own key, so no certificate request
can ask for another device's name or for the coordinator's. A device's certificate also carries its chain address (SAN
URI `did:pkh:eip155:<chain>:<address>`) and, in a private extension, the chain key's consent (EIP-712 `DeviceBinding`).

The extension's number lies under 1.3.6.1.4.1.32473, the arc that RFC 5612 reserves for documentation: these
certificates never leave their fleet. It changes when the project registers a private enterprise number.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from fedge_protocol import cose
from fedge_protocol.eip712 import ADDRESS_BYTES, DeviceBinding, Domain
from fedge_protocol.errors import ProtocolError, RefusedError
from fedge_protocol.ids import Counter, Hash32, Signature65, device_id_of
from fedge_protocol.keccak import keccak256
from fedge_protocol.receipts import Recover, verify_binding
from fedge_protocol.secp256k1 import recover_address

BINDING_OID: Final = x509.ObjectIdentifier("1.3.6.1.4.1.32473.1.1")
MAX_CERTIFICATE_BYTES: Final = 2048
Address = Annotated[bytes, msgspec.Meta(min_length=ADDRESS_BYTES, max_length=ADDRESS_BYTES)]
_UNDECODABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
_E = TypeVar("_E", bound=x509.ExtensionType)
_DID_PREFIX: Final = "did:pkh:eip155:"
_KNOWN_EXTENSIONS: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        BINDING_OID,
    }
)


class Role(StrEnum):
    """What a certificate may be used for; the subject's OU."""

    CA = "ca"
    SERVER = "server"
    BROKER = "broker"
    COORDINATOR = "coordinator"
    DEVICE = "device"
    EVICTION = "eviction"


class CertificateReason(StrEnum):
    """Why a certificate is refused."""

    OVERSIZED = "oversized"
    MALFORMED = "malformed"
    OTHER_FLEET = "other-fleet"
    WRONG_ISSUER = "wrong-issuer"
    BAD_SIGNATURE = "bad-signature"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    WRONG_KEY_TYPE = "wrong-key-type"
    WRONG_ROLE = "wrong-role"
    WRONG_NAME = "wrong-name"
    WRONG_USAGE = "wrong-usage"
    BAD_BINDING = "bad-binding"


class CertificateRefusedError(ProtocolError):
    """A certificate does not prove what it is shown for. `reason` is named, `detail` carries the value at fault."""

    def __init__(self, reason: CertificateReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Binding(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The private extension: all that is needed, beside the certificate itself, to check the chain key's consent."""

    version: Literal[1]
    chain_id: Counter
    registry: Address
    payout: Address
    nonce: Hash32
    not_after: Counter
    signature: Signature65

    def statement(self, device_hash: bytes, chain_address: bytes) -> tuple[Domain, DeviceBinding]:
        """The EIP-712 domain and struct that `signature` is over. `device_hash`: 32-byte sha256 of the SPKI."""
        binding = DeviceBinding(device_hash, chain_address, self.payout, self.nonce, self.not_after)
        return Domain(self.chain_id, self.registry), binding


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """What a valid device certificate proves. `not_after` is in Unix seconds, addresses are 20 bytes."""

    device_id: str
    public_key: ec.EllipticCurvePublicKey
    chain_address: bytes
    payout: bytes
    not_after: int
    binding: Binding


@dataclass(frozen=True, slots=True)
class ServiceIdentity:
    """What a valid broker's, server's or coordinator's certificate proves. `not_after` is in Unix seconds."""

    name: str
    public_key: ec.EllipticCurvePublicKey
    not_after: int


def spki_der(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """The SubjectPublicKeyInfo (DER) of which devices are named."""
    return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def coordinator_name(fleet: str) -> str:
    """The common name of the fleet's coordinator. Its dot keeps it apart from every device id."""
    return f"coordinator.{fleet}"


def subject_name(fleet: str, role: Role, name: str) -> x509.Name:
    """The subject of every certificate of a fleet."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role.value),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def checksum_address(address: bytes) -> str:
    """The EIP-55 text of a 20-byte address."""
    text = address.hex()
    digest = keccak256(text.encode()).hex()
    return "0x" + "".join(c.upper() if int(h, 16) >= 8 else c for c, h in zip(text, digest, strict=False))  # noqa: PLR2004 - EIP-55: the high bit


def did_of(chain_id: int, address: bytes) -> str:
    """The decentralised identifier of an account: `did:pkh:eip155:<chain>:<EIP-55 address>`."""
    return f"{_DID_PREFIX}{chain_id}:{checksum_address(address)}"


def address_of_did(did: str, chain_id: int) -> bytes:
    """The 20-byte address in a `did:pkh` of this chain; only the exact text that `did_of` writes is accepted.

    Raises:
        CertificateRefusedError: `bad-binding`.
    """
    text = did.removeprefix(f"{_DID_PREFIX}{chain_id}:0x")
    try:
        address = bytes.fromhex(text)
    except ValueError:
        address = b""
    if did != did_of(chain_id, address):
        raise CertificateRefusedError(CertificateReason.BAD_BINDING, f"{did[:80]!r} is no account of chain {chain_id}")
    return address


def load_fleet_ca(der: bytes, *, fleet: str) -> x509.Certificate:
    """Decode a fleet's root certificate, whose fingerprint the caller has checked against what it pinned.

    Raises:
        CertificateRefusedError: it is not the self-signed P-256 root of this fleet.
    """
    certificate = _parse(der)
    _check_subject(certificate, fleet, Role.CA)
    _check_signature(certificate, certificate)
    _public_key(certificate)
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    if not constraints.ca or not usage.key_cert_sign or not usage.crl_sign or not usage.digital_signature:
        raise CertificateRefusedError(CertificateReason.WRONG_USAGE, "not a root that signs certificates and lists")
    return certificate


def verify_device_certificate(
    der: bytes,
    *,
    ca: x509.Certificate,
    fleet: str,
    now: float,
    check_binding: bool = False,
    recover: Recover = recover_address,
) -> DeviceIdentity:
    """Return whom a device certificate names.

    Args:
        der: hostile bytes.
        ca: the fleet's root, from `load_fleet_ca`.
        fleet: the fleet that the device must belong to.
        now: Unix seconds.
        check_binding: check the chain key's signature too; whoever pays or settles asks for it.
        recover: how; the default takes 2-4 ms, the coordinator passes coincurve's.

    Raises:
        CertificateRefusedError: with the reason. Revocation is not looked at: that is the membership log's part.
    """
    certificate = _verify(der, ca=ca, fleet=fleet, now=now, role=Role.DEVICE, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    key = _public_key(certificate)
    spki = spki_der(key)
    device_id = device_id_of(spki)
    name = _attribute(certificate, NameOID.COMMON_NAME)
    if name != device_id:
        raise CertificateRefusedError(CertificateReason.WRONG_NAME, f"named {name[:80]!r}, the key is {device_id}")
    binding, address = _binding(certificate)
    if check_binding:
        domain, statement = binding.statement(hashlib.sha256(spki).digest(), address)
        if not verify_binding(domain, statement, binding.signature, recover=recover):
            raise CertificateRefusedError(
                CertificateReason.BAD_BINDING, f"not signed by chain address {checksum_address(address)}"
            )
    return DeviceIdentity(device_id, key, address, binding.payout, _not_after(certificate), binding)


def verify_coordinator_certificate(der: bytes, *, ca: x509.Certificate, fleet: str, now: float) -> ServiceIdentity:
    """Return the coordinator whose key signs offers and acknowledgements in this fleet.

    Raises:
        CertificateRefusedError: with the reason.
    """
    certificate = _verify(
        der, ca=ca, fleet=fleet, now=now, role=Role.COORDINATOR, usage=ExtendedKeyUsageOID.CLIENT_AUTH
    )
    name = _attribute(certificate, NameOID.COMMON_NAME)
    if name != coordinator_name(fleet):
        raise CertificateRefusedError(
            CertificateReason.WRONG_NAME, f"named {name[:80]!r}, the coordinator is {coordinator_name(fleet)!r}"
        )
    return ServiceIdentity(name, _public_key(certificate), _not_after(certificate))


class DeviceCertificates:
    """Verified device certificates by their hash, so that a certificate seen every round is checked once.

    At most `capacity` are kept, the least recently used goes first; validity in time is checked at every use.
    """

    def __init__(self, ca: x509.Certificate, fleet: str, *, capacity: int = 4096, check_binding: bool = False) -> None:
        self._ca = ca
        self._fleet = fleet
        self._capacity = capacity
        self._check_binding = check_binding
        self._known: OrderedDict[bytes, DeviceIdentity] = OrderedDict()

    def verify(self, der: bytes, *, now: float) -> DeviceIdentity:
        """As `verify_device_certificate`."""
        digest = hashlib.sha256(der).digest()
        identity = self._known.get(digest)
        if identity is not None and now <= identity.not_after:
            self._known.move_to_end(digest)
            return identity
        self._known.pop(digest, None)
        identity = verify_device_certificate(
            der, ca=self._ca, fleet=self._fleet, now=now, check_binding=self._check_binding
        )
        self._known[digest] = identity
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)
        return identity


def _verify(
    der: bytes, *, ca: x509.Certificate, fleet: str, now: float, role: Role, usage: x509.ObjectIdentifier
) -> x509.Certificate:
    certificate = _parse(der)
    _check_subject(certificate, fleet, role)
    _check_signature(certificate, ca)
    if now > _not_after(certificate):
        raise CertificateRefusedError(CertificateReason.EXPIRED, f"at {certificate.not_valid_after_utc:%FT%TZ}")
    if now < certificate.not_valid_before_utc.timestamp():
        raise CertificateRefusedError(
            CertificateReason.NOT_YET_VALID,
            f"valid from {certificate.not_valid_before_utc:%FT%TZ}; is this clock right?",
        )
    _public_key(certificate)
    unknown = [e.oid.dotted_string for e in certificate.extensions if e.critical and e.oid not in _KNOWN_EXTENSIONS]
    if unknown:
        raise CertificateRefusedError(CertificateReason.MALFORMED, f"unknown critical extensions {unknown}")
    if _extension(certificate, x509.BasicConstraints).ca:
        raise CertificateRefusedError(CertificateReason.WRONG_USAGE, "a certificate authority is no device or service")
    if not _extension(certificate, x509.KeyUsage).digital_signature:
        raise CertificateRefusedError(CertificateReason.WRONG_USAGE, "the key may not sign")
    if list(_extension(certificate, x509.ExtendedKeyUsage)) != [usage]:
        raise CertificateRefusedError(CertificateReason.WRONG_USAGE, f"not for {usage.dotted_string} alone")
    return certificate


def _parse(der: bytes) -> x509.Certificate:
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise CertificateRefusedError(CertificateReason.OVERSIZED, f"{len(der)} bytes, at most {MAX_CERTIFICATE_BYTES}")
    try:
        certificate = x509.load_der_x509_certificate(der)
        # decodes lazily: ask for all parts now, so that nothing below fails in another way
        _ = (certificate.extensions, certificate.subject, certificate.issuer, certificate.not_valid_after_utc)
    except _UNDECODABLE as error:
        raise CertificateRefusedError(CertificateReason.MALFORMED, type(error).__name__) from None
    return certificate


def _check_subject(certificate: x509.Certificate, fleet: str, role: Role) -> None:
    organisation = _attribute(certificate, NameOID.ORGANIZATION_NAME)
    if organisation != fleet:
        raise CertificateRefusedError(CertificateReason.OTHER_FLEET, f"of fleet {organisation[:64]!r}, not {fleet!r}")
    unit = _attribute(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME)
    if unit != role:
        raise CertificateRefusedError(CertificateReason.WRONG_ROLE, f"for a {unit[:64]!r}, not for a {role.value!r}")


def _check_signature(certificate: x509.Certificate, ca: x509.Certificate) -> None:
    if certificate.issuer != ca.subject:
        raise CertificateRefusedError(CertificateReason.WRONG_ISSUER, certificate.issuer.rfc4514_string()[:160])
    try:
        if not isinstance(certificate.signature_hash_algorithm, hashes.SHA256):
            raise CertificateRefusedError(CertificateReason.BAD_SIGNATURE, "not ECDSA with SHA-256")
        certificate.verify_directly_issued_by(ca)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        raise CertificateRefusedError(CertificateReason.BAD_SIGNATURE, "not signed by this fleet's root") from None


def _attribute(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    values = certificate.subject.get_attributes_for_oid(oid)
    if len(values) != 1 or not isinstance(values[0].value, str):
        raise CertificateRefusedError(
            CertificateReason.MALFORMED, f"{len(values)} subject attributes {oid.dotted_string}"
        )
    return values[0].value


def _public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    try:
        key = certificate.public_key()
    except (UnsupportedAlgorithm, ValueError):
        raise CertificateRefusedError(CertificateReason.WRONG_KEY_TYPE, "undecodable") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateRefusedError(CertificateReason.WRONG_KEY_TYPE, f"{type(key).__name__}, not P-256")
    return key


def _extension(certificate: x509.Certificate, kind: type[_E]) -> _E:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        raise CertificateRefusedError(CertificateReason.MALFORMED, f"no {kind.__name__}") from None


def _binding(certificate: x509.Certificate) -> tuple[Binding, bytes]:
    try:
        extension = certificate.extensions.get_extension_for_oid(BINDING_OID).value
    except x509.ExtensionNotFound:
        raise CertificateRefusedError(CertificateReason.BAD_BINDING, "no binding to a chain address") from None
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise CertificateRefusedError(CertificateReason.BAD_BINDING, "undecodable")
    try:
        binding = cose.decode(extension.value, Binding, max_bytes=512)
    except RefusedError as error:
        raise CertificateRefusedError(CertificateReason.BAD_BINDING, error.detail) from None
    names = list(_extension(certificate, x509.SubjectAlternativeName))
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise CertificateRefusedError(CertificateReason.BAD_BINDING, "not exactly one URI among the alternative names")
    return binding, address_of_did(names[0].value, binding.chain_id)


def _not_after(certificate: x509.Certificate) -> int:
    return int(certificate.not_valid_after_utc.timestamp())
