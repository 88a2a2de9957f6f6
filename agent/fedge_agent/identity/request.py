"""Makes a certificate request and the binding of chain address and identity key that goes with it."""

from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from fedge_agent.identity.keys import Identity
from fedge_agent.identity.record import Request
from fedge_protocol import cose
from fedge_protocol.certificates import Binding
from fedge_protocol.enrolment import BindingProof, FleetInfo, identity_statement
from fedge_protocol.receipts import sign_binding

BINDING_DAYS: Final = 365
_MAX_PROOF_BYTES: Final = 1024


def make(
    identity: Identity, fleet: FleetInfo, *, payout: bytes, nonce: bytes, purpose: bytes, rotates_key: bool = False
) -> Request:
    """A request for `identity` in the fleet, to be stored before it is sent.

    Args:
        identity: whose both keys sign.
        fleet: which chain the binding counts on, and the CA's clock, from which the binding's end is reckoned.
        payout: 20-byte address that is paid.
        nonce: 32 fresh random bytes.
        purpose: see `Request`.
        rotates_key: the identity's key is a new one that waits in `NEXT_KEY`.
    """
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.device_id)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(identity.key, hashes.SHA256())
    unsigned = Binding(1, fleet.chain_id, fleet.registry, payout, nonce, fleet.time + BINDING_DAYS * 86400, bytes(65))
    domain, statement = unsigned.statement(identity.device_hash, identity.chain_address)
    binding = msgspec.structs.replace(unsigned, signature=sign_binding(identity.chain_key, domain, statement))
    consent = identity.sign_raw(identity_statement(identity.device_hash, identity.chain_address, binding))
    proof = BindingProof(identity.chain_address, binding, consent)
    return Request(purpose, csr.public_bytes(serialization.Encoding.DER), cose.encode(proof), rotates_key)


def proof_of(request: Request) -> BindingProof:
    """The binding in a stored request.

    Raises:
        RefusedError: it was stored by another version.
    """
    return cose.decode(request.proof, BindingProof, max_bytes=_MAX_PROOF_BYTES)


def fits(request: Request, fleet: FleetInfo, *, payout: bytes, chain_address: bytes) -> bool:
    """Whether a stored request still says what would be asked for now."""
    proof = proof_of(request)
    binding = proof.binding
    return (binding.chain_id, binding.registry, binding.payout, proof.chain_address) == (
        fleet.chain_id,
        fleet.registry,
        payout,
        chain_address,
    ) and binding.not_after > fleet.time
