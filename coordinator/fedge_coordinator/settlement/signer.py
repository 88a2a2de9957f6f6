"""Who signs for the coordinator: the committee's members and the account that pays for gas.

A key-management service implements `Signer`. Zeroising keys in Python memory is not reliable; keep the process apart.
"""

import os
import re
import stat
from pathlib import Path
from typing import Protocol

import coincurve

from fedge_coordinator import credentials
from fedge_coordinator.settlement.errors import KeyFileError
from fedge_coordinator.settlement.transaction import SignedTransaction, Transaction
from fedge_protocol.keccak import keccak256

KEY_BYTES = 32
_MAX_FILE_BYTES = 128
_OPEN_MODE_BITS = 0o077
_HEX_KEY = re.compile(rb"(?:0x)?([0-9a-fA-F]{64})\s*")


class Signer(Protocol):
    """One Ethereum account's signing power."""

    @property
    def address(self) -> bytes:
        """The account's 20-byte address."""
        ...  # pragma: no cover

    def sign_digest(self, digest: bytes) -> bytes:
        """Return the 65-byte signature (r, s, v in {27, 28}) of a 32-byte digest; the same bytes every time."""
        ...  # pragma: no cover

    def sign_transaction(self, transaction: Transaction) -> SignedTransaction:
        """Return the signed EIP-1559 transaction."""
        ...  # pragma: no cover


class LocalSigner:
    """A key in this process's memory."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise KeyFileError(f"a signing key has 32 bytes, not {len(secret)}")
        try:
            self._key = coincurve.PrivateKey(secret)
        except ValueError:
            raise KeyFileError("the signing key's scalar lies outside the group order") from None
        self._address = keccak256(self._key.public_key.format(compressed=False)[1:])[12:]

    @classmethod
    def from_file(cls, path: Path) -> "LocalSigner":
        """Load a key of 32 raw bytes or 64 hex digits from a credential, or a file that only its owner may read.

        Raises:
            KeyFileError: when the file is missing, a link, open to group or others, a third party's, or malformed.
        """
        return cls(_read_key(path))

    @property
    def address(self) -> bytes:
        """The account's 20-byte address."""
        return self._address

    def sign_digest(self, digest: bytes) -> bytes:
        """Return the 65-byte signature (r, s, v in {27, 28}) of a 32-byte digest; the same bytes every time."""
        signature = self._key.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes([signature[64] + 27])

    def sign_transaction(self, transaction: Transaction) -> SignedTransaction:
        """Return the signed EIP-1559 transaction."""
        return transaction.signed(self._key.secret)


def _read_key(path: Path) -> bytes:
    try:
        # NONBLOCK: a pipe in the key's place must not hold the process up
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KeyFileError(f"key file {path}: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(f"key file {path} is not a regular file")
        granted = credentials.holds(path)  # by an access list, perhaps, whose mask looks like a group's right
        if not granted and status.st_mode & _OPEN_MODE_BITS:
            raise KeyFileError(f"key file {path} has mode {stat.S_IMODE(status.st_mode):04o}; run chmod 600 on it")
        if status.st_uid not in {0, os.geteuid()}:
            raise KeyFileError(f"key file {path} belongs to uid {status.st_uid}, neither root nor this process's user")
        content = os.read(descriptor, _MAX_FILE_BYTES)
    finally:
        os.close(descriptor)
    matched = _HEX_KEY.fullmatch(content)
    if matched:
        return bytes.fromhex(matched[1].decode())
    if len(content) != KEY_BYTES:
        raise KeyFileError(f"key file {path} holds neither 32 raw bytes nor 64 hex digits")
    return content
