import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID
from eth_account import Account
from eth_account.messages import encode_typed_data

from fedge_coordinator.enrolment.applicant import examine
from fedge_protocol.enrolment import EnrolmentReason, EnrolmentRefusedError

REGISTRY = bytes(20)


def asked(csr, proof, *, now):
    return examine(csr, proof, chain_id=31337, registry=REGISTRY, now=now)


def reason(office, csr, proof) -> EnrolmentReason:
    with pytest.raises(EnrolmentRefusedError) as refusal:
        asked(csr, proof, now=office.clock.now)
    return refusal.value.reason


def csr_of(key, *names, algorithm=None) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else algorithm or hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, algorithm)
    return request.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("name", ["coordinator.lab", "coordinator", "0" * 32, "", "+", "#"])
def test_a_device_cannot_ask_for_the_coordinators_or_any_other_name(office, make_device, name):
    identity = make_device()
    proof = office.enrol_request(bytes(16), identity).proof
    csr = csr_of(identity.key, name) if name else csr_of(identity.key)
    assert reason(office, csr, proof) is EnrolmentReason.BAD_CSR


def test_two_names_a_foreign_key_and_another_curve_are_refused(office, make_device):
    identity = make_device()
    proof = office.enrol_request(bytes(16), identity).proof
    for csr in (
        csr_of(identity.key, identity.device_id, "coordinator.lab"),
        csr_of(make_device().key, identity.device_id),
        csr_of(ec.generate_private_key(ec.SECP384R1()), identity.device_id),
        csr_of(ed25519.Ed25519PrivateKey.generate(), identity.device_id),
        b"",
        bytes(64),
    ):
        assert reason(office, csr, proof) is EnrolmentReason.BAD_CSR


def test_a_request_whose_signature_does_not_hold_is_refused(office, make_device):
    identity = make_device()
    whole = office.enrol_request(bytes(16), identity)
    broken = whole.csr[:-1] + bytes([whole.csr[-1] ^ 1])
    assert reason(office, broken, whole.proof) is EnrolmentReason.BAD_CSR


def test_each_half_of_the_binding_must_hold(office, make_device):
    whole = office.enrol_request(bytes(16), make_device())
    other = office.enrol_request(bytes(16), make_device())
    proof = whole.proof
    for false in (
        msgspec.structs.replace(proof, chain_address=other.proof.chain_address),
        msgspec.structs.replace(proof, identity_signature=other.proof.identity_signature),
        msgspec.structs.replace(proof, binding=other.proof.binding),
        msgspec.structs.replace(proof, binding=msgspec.structs.replace(proof.binding, payout=bytes(20))),
        msgspec.structs.replace(proof, binding=msgspec.structs.replace(proof.binding, signature=bytes(65))),
        msgspec.structs.replace(proof, binding=msgspec.structs.replace(proof.binding, not_after=1)),
    ):
        assert reason(office, whole.csr, false) is EnrolmentReason.BAD_BINDING


def test_a_wallet_signs_the_same_binding(office, make_device):
    """eth-account, as oracle, signs the EIP-712 document that the device signs by hand."""
    identity = make_device()
    whole = office.enrol_request(bytes(16), identity)
    binding = whole.proof.binding
    fields = ["bytes32 deviceId", "address device", "address payout", "bytes32 nonce", "uint64 notAfter"]
    document = encode_typed_data(
        domain_data={"name": "Fedge", "version": "1", "chainId": 31337, "verifyingContract": "0x" + "00" * 20},
        message_types={"DeviceBinding": [dict(zip(("type", "name"), f.split(), strict=True)) for f in fields]},
        message_data={
            "deviceId": identity.device_hash,
            "device": "0x" + identity.chain_address.hex(),
            "payout": "0x" + binding.payout.hex(),
            "nonce": binding.nonce,
            "notAfter": binding.not_after,
        },
    )
    signed = Account.from_key(identity.chain_key.secret()).sign_message(document)
    assert bytes(signed.signature) == binding.signature
    assert asked(whole.csr, whole.proof, now=office.clock.now).chain_address == identity.chain_address
