"""X25519 (RFC 7748) on raw 32-byte keys."""

from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

KEY_BYTES: Final = 32


class LowOrderError(ValueError):
    """The other side's point has low order: the agreed secret would be zero whatever the private key."""


def public_of(private: bytes) -> bytes:
    """The public key (32 bytes) of a private key (32 bytes)."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


class Agreement:
    """One private key, parsed once, that agrees on secrets with many peers."""

    def __init__(self, private: bytes) -> None:
        self._private = X25519PrivateKey.from_private_bytes(private)

    def with_peer(self, public: bytes) -> bytes:
        """The 32-byte secret shared with the holder of `public` (32 bytes).

        Raises:
            LowOrderError: the peer's key is a point of low order.
        """
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise LowOrderError(f"no secret with public key {public.hex()}") from error


_PROBE: Final = bytes(range(KEY_BYTES))


def is_usable(public: bytes) -> bool:
    """Whether secrets can be agreed with this public key: 32 bytes and no point of low order.

    For whoever takes in prekeys: one such key in a bucket makes every honest peer leave it.
    """
    if len(public) != KEY_BYTES:
        return False
    try:
        Agreement(_PROBE).with_peer(public)
    except LowOrderError:
        return False
    return True
