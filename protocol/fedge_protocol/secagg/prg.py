"""Keystreams: the only pseudo-random bytes of FSA/1. No numpy.

ChaCha20 (RFC 8439 block function, 64-byte blocks, counter from 0) is the default because small devices have no AES
instructions; AES-128-CTR (counter block big endian, from the seed's second half) is twice as fast where they exist.
"""

from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import CTR

from fedge_protocol.secagg.errors import BadInput
from fedge_protocol.secagg.kdf import SEED_BYTES
from fedge_protocol.secagg.params import Suite

CHUNK_BYTES: Final = 64 * 1024
"""The most that is produced at a time: accumulator, keystream and zeros of this size stay in the second-level cache."""

_ZEROS: Final = bytes(CHUNK_BYTES)
_CHACHA_NONCE: Final = bytes(16)
_AES_KEY_BYTES: Final = 16


class Keystream:
    """The bytes that follow from one 32-byte seed, in order. A seed must be used for one purpose only.

    Suite 1: ChaCha20, key = seed, nonce zero. Suite 2: AES-128-CTR, key = seed[:16], first counter block = seed[16:].

    Raises:
        BadInput: the seed has not 32 bytes.
    """

    def __init__(self, suite: Suite, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise BadInput(f"a keystream seed has {len(seed)} bytes instead of {SEED_BYTES}")
        if suite is Suite.CHACHA20:
            self._encryptor = Cipher(ChaCha20(seed, _CHACHA_NONCE), mode=None).encryptor()
        else:
            self._encryptor = Cipher(AES128(seed[:_AES_KEY_BYTES]), CTR(seed[_AES_KEY_BYTES:])).encryptor()

    def fill(self, out: memoryview | bytearray) -> None:
        """Overwrite `out` (at most 64 KiB of writable bytes) with the next bytes of the stream."""
        self._encryptor.update_into(_ZEROS[: len(out)] if len(out) != CHUNK_BYTES else _ZEROS, out)

    def read(self, count: int) -> bytes:
        """The next `count` bytes of the stream."""
        return self._encryptor.update(bytes(count))
