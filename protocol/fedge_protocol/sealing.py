"""Confidential parts of messages: HPKE base mode (RFC 9180), DHKEM(X25519), HKDF-SHA256, AES-128-GCM.

Base mode does not authenticate the sender: what is sealed always travels inside a signed message.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from fedge_protocol.errors import Reason, RefusedError

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_128_GCM)


def seal(public: bytes, plain: bytes, context: bytes) -> bytes:
    """Seal `plain` to a raw X25519 public key (32 bytes); `context` is HPKE's info. Adds 48 bytes.

    Raises:
        RefusedError: `malformed`, when the key is no X25519 key or one of low order.
    """
    try:
        return _SUITE.encrypt(plain, X25519PublicKey.from_public_bytes(public), info=context)
    except ValueError:
        raise RefusedError(Reason.MALFORMED, "cannot be sealed to this key") from None


def unseal(private: bytes, sealed: bytes, context: bytes) -> bytes:
    """Open what `seal` made.

    Raises:
        RefusedError: `malformed`, when it was sealed to another key, under another context, or altered.
    """
    try:
        return _SUITE.decrypt(sealed, X25519PrivateKey.from_private_bytes(private), info=context)
    except (InvalidTag, ValueError):
        raise RefusedError(Reason.MALFORMED, "cannot be unsealed") from None
