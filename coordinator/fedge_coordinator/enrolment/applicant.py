"""What a certificate request proves, before anybody decides whether to grant it."""

import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedge_protocol import cose
from fedge_protocol.certificates import Binding, checksum_address, spki_der
from fedge_protocol.enrolment import BindingProof, EnrolmentReason, EnrolmentRefusedError, identity_statement
from fedge_protocol.errors import RefusedError
from fedge_protocol.ids import device_id_of
from fedge_protocol.receipts import verify_binding

_MAKE_ANEW = "let the agent make the request: fedge-agent enroll"


@dataclass(frozen=True, slots=True)
class Applicant:
    """A device that holds its identity key and its chain key, and bound each to the other."""

    device_id: str
    public_key: ec.EllipticCurvePublicKey
    chain_address: bytes
    binding: Binding


def examine(csr: bytes, proof: BindingProof, *, chain_id: int, registry: bytes, now: float) -> Applicant:
    """Check a request and the binding that comes with it; `now` in Unix seconds.

    Raises:
        EnrolmentRefusedError: `wrong-chain`, `bad-binding` or `bad-csr` (no P-256 request, not signed by its key, or
            for a name other than the key's own: no device can ask for the coordinator's).
    """
    key, name = _requested(csr)
    spki = spki_der(key)
    device_id, device_hash = device_id_of(spki), hashlib.sha256(spki).digest()
    if name != device_id:
        raise EnrolmentRefusedError(
            EnrolmentReason.BAD_CSR, f"asks for the name {name[:80]!r}, its key is {device_id}", _MAKE_ANEW
        )
    binding = proof.binding
    if (binding.chain_id, binding.registry) != (chain_id, registry):
        raise EnrolmentRefusedError(
            EnrolmentReason.WRONG_CHAIN,
            f"bound on chain {binding.chain_id} at {checksum_address(binding.registry)}, "
            f"this fleet is on chain {chain_id} at {checksum_address(registry)}",
            "the fleet's chain changed since the request was made: enrol again",
        )
    if binding.not_after < now:
        raise EnrolmentRefusedError(
            EnrolmentReason.BAD_BINDING,
            f"the binding ended at {binding.not_after}",
            "check the device's clock, enrol again",
        )
    domain, statement = binding.statement(device_hash, proof.chain_address)
    if not verify_binding(domain, statement, binding.signature):
        raise EnrolmentRefusedError(
            EnrolmentReason.BAD_BINDING, f"not signed by {checksum_address(proof.chain_address)}", _MAKE_ANEW
        )
    try:
        cose.verify_raw(key, proof.identity_signature, identity_statement(device_hash, proof.chain_address, binding))
    except RefusedError:
        raise EnrolmentRefusedError(EnrolmentReason.BAD_BINDING, "not signed by the identity key", _MAKE_ANEW) from None
    return Applicant(device_id, key, proof.chain_address, binding)


def _requested(csr: bytes) -> tuple[ec.EllipticCurvePublicKey, str]:
    """The key and the common name that a request asks to join. Its extensions are ignored: the CA writes its own."""
    try:
        request = x509.load_der_x509_csr(csr)
        key = request.public_key()
        names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        valid = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise EnrolmentRefusedError(
            EnrolmentReason.BAD_CSR, f"no PKCS#10 ({type(error).__name__})", _MAKE_ANEW
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise EnrolmentRefusedError(EnrolmentReason.BAD_CSR, f"{type(key).__name__}, not P-256", _MAKE_ANEW)
    if not valid:
        raise EnrolmentRefusedError(EnrolmentReason.BAD_CSR, "not signed by its own key", _MAKE_ANEW)
    if len(names) != 1 or not isinstance(names[0].value, str):
        raise EnrolmentRefusedError(EnrolmentReason.BAD_CSR, f"{len(names)} common names", _MAKE_ANEW)
    return key, names[0].value
