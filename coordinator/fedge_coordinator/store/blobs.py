"""Content-addressed files: graphs, weights, vectors. The name of a blob is the SHA-256 of its bytes."""

import hashlib
import os
import secrets
from pathlib import Path
from typing import Final

from fedge_coordinator.store.errors import BlobCorruptError, BlobTooLargeError, NotFoundError, StoreUnavailableError

HASH_BYTES: Final = 32
MAX_BLOB_BYTES: Final = 16 * 1024 * 1024


class Blobs:
    """Files under `folder`, two levels deep: `ab/cd...`. A blob is whole or absent, also after a power loss."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BLOB_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def put(self, content: bytes) -> bytes:
        """Store bytes; durable when this returns. Returns their SHA-256 (32 bytes).

        Raises:
            BlobTooLargeError: more than the limit.
            StoreUnavailableError: the folder cannot be written.
        """
        if len(content) > self._max_bytes:
            raise BlobTooLargeError(f"blob of {len(content)} bytes exceeds the limit of {self._max_bytes} bytes")
        digest = hashlib.sha256(content).digest()
        path = self.path(digest)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            _make_folder(path.parent)
            if not _holds(path, digest):
                try:
                    _write_durably(temporary, content)
                    temporary.rename(path)
                finally:
                    temporary.unlink(missing_ok=True)
            # also when the file was there: a killed process may have renamed it without this
            _sync_folder(path.parent)
        except OSError as error:
            raise StoreUnavailableError(f"cannot write blob {digest.hex()} to {path}: {error.strerror}") from error
        return digest

    def get(self, digest: bytes) -> bytes:
        """The bytes with this SHA-256.

        Raises:
            NotFoundError: no such blob.
            BlobCorruptError: the file does not hash to its name.
        """
        path = self.path(digest)
        try:
            with path.open("rb") as file:
                content = file.read(self._max_bytes + 1)
        except FileNotFoundError:
            raise NotFoundError(f"no blob {digest.hex()}") from None
        if hashlib.sha256(content).digest() != digest:
            raise BlobCorruptError(f"{path} does not hold the bytes it is named after; delete it")
        return content

    def remove(self, digest: bytes) -> bool:
        """Delete a blob; returns whether there was one.

        Raises:
            StoreUnavailableError: it cannot be deleted.
        """
        path = self.path(digest)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreUnavailableError(f"cannot delete blob {digest.hex()} at {path}: {error.strerror}") from error
        return True

    def has(self, digest: bytes) -> bool:
        """Whether a blob of this name is there (not re-hashed)."""
        return self.path(digest).is_file()

    def path(self, digest: bytes) -> Path:
        """Where the blob is, or would be.

        Raises:
            ValueError: not 32 bytes.
        """
        if len(digest) != HASH_BYTES:
            raise ValueError(f"a blob's name is {HASH_BYTES} bytes of SHA-256, got {len(digest)}")
        name = digest.hex()
        return self._folder / name[:2] / name[2:]


def _holds(path: Path, digest: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest() == digest


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents; each new name is durable."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(each.parent)


def _write_durably(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
