import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from eth_utils.address import to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge_coordinator.enrolment.authority import Authority
from fedge_protocol import cose
from fedge_protocol.certificates import (
    BINDING_OID,
    MAX_CERTIFICATE_BYTES,
    Binding,
    CertificateReason,
    CertificateRefusedError,
    DeviceCertificates,
    Role,
    address_of_did,
    checksum_address,
    coordinator_name,
    did_of,
    load_fleet_ca,
    spki_der,
    subject_name,
    verify_coordinator_certificate,
    verify_device_certificate,
)
from fedge_protocol.ids import device_id_of
from fedge_protocol.receipts import sign_binding
from fedge_protocol.secp256k1 import ChainKey

NOW = datetime(2026, 5, 4, tzinfo=UTC)
DAY = timedelta(days=1)
LAB = Authority.create("lab", NOW)
OTHER = Authority.create("other", NOW)
NAMESAKE = Authority.create("lab", NOW)
CHAIN = ChainKey.from_secret(bytes(31) + b"\x07")
KEY = ec.generate_private_key(ec.SECP256R1())
ID = device_id_of(spki_der(KEY.public_key()))


def binding(chain: ChainKey = CHAIN, key: ec.EllipticCurvePrivateKey = KEY) -> Binding:
    unsigned = Binding(1, 31337, bytes(range(20)), b"\x09" * 20, bytes(32), 2_000_000_000, bytes(65))
    device_hash = hashlib.sha256(spki_der(key.public_key())).digest()
    signature = sign_binding(chain, *unsigned.statement(device_hash, chain.address))
    return Binding(*[*[getattr(unsigned, name) for name in unsigned.__struct_fields__[:-1]], signature])


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def issued(authority: Authority = LAB, name: str = ID, bound: Binding | None = None) -> bytes:
    certificate = authority.issue_device(
        KEY.public_key(), name, CHAIN.address, bound or binding(), now=NOW, lifetime=90 * DAY
    )
    return der(certificate)


def verified(content: bytes, *, when: datetime = NOW, check_binding: bool = True, authority: Authority = LAB):
    return verify_device_certificate(
        content, ca=authority.certificate, fleet="lab", now=when.timestamp(), check_binding=check_binding
    )


def reason(content: bytes, *, when: datetime = NOW, check_binding: bool = True) -> CertificateReason:
    with pytest.raises(CertificateRefusedError) as refusal:
        verified(content, when=when, check_binding=check_binding)
    return refusal.value.reason


def crafted(role: Role = Role.DEVICE, key=KEY, **changes) -> bytes:
    """A certificate signed by the real root that differs from the profile in one thing."""
    names = changes.get("names", [x509.UniformResourceIdentifier(did_of(31337, CHAIN.address))])
    usage = changes.get("usage", x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]))
    key_usage = dict.fromkeys(
        (
            "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
            "crl_sign", "encipher_only", "decipher_only",
        ),
        False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(changes.get("subject", subject_name("lab", role, ID)))
        .issuer_name(LAB.certificate.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=changes.get("ca", False), path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=changes.get("signs", True), **key_usage), critical=True)
        .add_extension(usage, critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    extension = changes.get("extension", cose.encode(binding()))
    if extension is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(BINDING_OID, extension), critical=False)
    if changes.get("critical"):
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.32473.9"), b"\x05\x00")
        builder = builder.add_extension(unknown, critical=True)
    return der(builder.sign(LAB._key, changes.get("hash", hashes.SHA256())))


def test_a_device_certificate_names_its_key_its_addresses_and_its_end():
    found = verified(issued())
    assert (found.device_id, found.chain_address, found.payout) == (ID, CHAIN.address, b"\x09" * 20)
    assert found.public_key == KEY.public_key()
    assert found.not_after == int((NOW + 90 * DAY).timestamp())


def test_the_crafted_profile_itself_is_accepted():
    assert verified(crafted()).device_id == ID


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (issued(OTHER), CertificateReason.OTHER_FLEET),
        (issued(NAMESAKE), CertificateReason.BAD_SIGNATURE),
        (issued(name="0" * 32), CertificateReason.WRONG_NAME),
        (issued(name=coordinator_name("lab")), CertificateReason.WRONG_NAME),
        (b"", CertificateReason.MALFORMED),
        (bytes(100), CertificateReason.MALFORMED),
        (issued() + b"\0", CertificateReason.MALFORMED),
        (bytes(MAX_CERTIFICATE_BYTES + 1), CertificateReason.OVERSIZED),
        (LAB.der, CertificateReason.WRONG_ROLE),
        (crafted(Role.EVICTION), CertificateReason.WRONG_ROLE),
        (crafted(key=ec.generate_private_key(ec.SECP384R1())), CertificateReason.WRONG_KEY_TYPE),
        (crafted(key=rsa.generate_private_key(65537, 2048)), CertificateReason.WRONG_KEY_TYPE),
        (crafted(ca=True), CertificateReason.WRONG_USAGE),
        (crafted(signs=False), CertificateReason.WRONG_USAGE),
        (
            crafted(usage=x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])),
            CertificateReason.WRONG_USAGE,
        ),
        (crafted(critical=True), CertificateReason.MALFORMED),
        (crafted(hash=hashes.SHA512()), CertificateReason.BAD_SIGNATURE),
        (crafted(extension=None), CertificateReason.BAD_BINDING),
        (crafted(extension=b"\x80"), CertificateReason.BAD_BINDING),
        (crafted(extension=bytes(600)), CertificateReason.BAD_BINDING),
        (crafted(names=[]), CertificateReason.MALFORMED),
        (crafted(names=[x509.DNSName("a.b")]), CertificateReason.BAD_BINDING),
        (
            crafted(names=[x509.UniformResourceIdentifier(did_of(1, CHAIN.address))]),
            CertificateReason.BAD_BINDING,
        ),
        (
            crafted(names=[x509.UniformResourceIdentifier(did_of(31337, CHAIN.address).lower())]),
            CertificateReason.BAD_BINDING,
        ),
        (
            crafted(names=[x509.UniformResourceIdentifier(did_of(31337, bytes(20)))]),
            CertificateReason.BAD_BINDING,
        ),
        (
            crafted(subject=x509.Name([*subject_name("lab", Role.DEVICE, ID), *subject_name("lab", Role.CA, "x")])),
            CertificateReason.MALFORMED,
        ),
    ],
)
def test_what_is_no_device_certificate_of_this_fleet_is_refused_by_name(content, expected):
    assert reason(content) is expected


def test_a_certificate_counts_from_its_beginning_to_its_end():
    assert reason(issued(), when=NOW - DAY) is CertificateReason.NOT_YET_VALID
    assert verified(issued(), when=NOW + 90 * DAY).device_id == ID
    assert reason(issued(), when=NOW + 90 * DAY + timedelta(seconds=1)) is CertificateReason.EXPIRED


def test_a_binding_signed_by_another_chain_key_is_found_when_asked_for():
    stranger = ChainKey.from_secret(bytes(31) + b"\x08")
    forged = issued(bound=binding(stranger))
    assert verified(forged, check_binding=False).chain_address == CHAIN.address
    assert reason(forged) is CertificateReason.BAD_BINDING


def test_a_coordinators_certificate_is_no_devices_and_the_other_way_round():
    coordinator = der(LAB.issue_service(Role.COORDINATOR, [], KEY.public_key(), now=NOW, lifetime=DAY))
    found = verify_coordinator_certificate(coordinator, ca=LAB.certificate, fleet="lab", now=NOW.timestamp())
    assert (found.name, found.public_key) == ("coordinator.lab", KEY.public_key())
    assert reason(coordinator) is CertificateReason.WRONG_ROLE
    for content in (issued(), crafted(Role.COORDINATOR), crafted(Role.BROKER)):
        with pytest.raises(CertificateRefusedError):
            verify_coordinator_certificate(content, ca=LAB.certificate, fleet="lab", now=NOW.timestamp())


def test_a_broker_named_like_the_coordinator_is_not_the_coordinator():
    broker = der(LAB.issue_service(Role.BROKER, ["coordinator.lab"], KEY.public_key(), now=NOW, lifetime=DAY))
    with pytest.raises(CertificateRefusedError) as refusal:
        verify_coordinator_certificate(broker, ca=LAB.certificate, fleet="lab", now=NOW.timestamp())
    assert refusal.value.reason is CertificateReason.WRONG_ROLE


def test_only_a_root_of_this_fleet_is_loaded_as_its_root():
    assert load_fleet_ca(LAB.der, fleet="lab") == LAB.certificate
    for content in (OTHER.der, issued(), crafted(Role.CA), b"x"):
        with pytest.raises(CertificateRefusedError):
            load_fleet_ca(content, fleet="lab")


def test_verified_certificates_are_remembered_but_not_beyond_their_end_nor_their_number():
    known = DeviceCertificates(LAB.certificate, "lab", capacity=1)
    first, second = issued(), issued()
    identity = known.verify(first, now=NOW.timestamp())
    assert known.verify(first, now=NOW.timestamp()) is identity
    known.verify(second, now=NOW.timestamp())
    assert known.verify(first, now=NOW.timestamp()) is not identity
    with pytest.raises(CertificateRefusedError):
        known.verify(first, now=(NOW + 91 * DAY).timestamp())


VALID = issued()


@settings(max_examples=300)
@given(st.integers(0, 2047), st.integers(1, 255))
def test_a_damaged_certificate_is_refused_and_nothing_else_happens(position, change):
    content = bytearray(VALID)
    content[position % len(content)] ^= change
    with pytest.raises(CertificateRefusedError):
        verified(bytes(content))


@given(st.binary(min_size=20, max_size=20), st.integers(0, 2**53))
def test_addresses_are_written_as_eip55_and_read_back(address, chain_id):
    assert checksum_address(address) == to_checksum_address(address)
    assert address_of_did(did_of(chain_id, address), chain_id) == address
