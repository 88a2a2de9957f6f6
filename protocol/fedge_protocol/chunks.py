"""Blobs cut into chunks of 128 KiB, and put together again from whatever arrives, in any order, any number of times."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final

from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import MAX_BLOB_BYTES, BlobRef

CHUNK_BYTES: Final = 131_072
_SHA256_BYTES: Final = 32


def chunk_count(size: int) -> int:
    """How many chunks a blob of `size` bytes has."""
    return -(-size // CHUNK_BYTES)


def chunk_length(size: int, index: int) -> int:
    """How many bytes chunk `index` of a blob of `size` bytes has: all are full but the last.

    Raises:
        RefusedError: `malformed` when the blob has no such chunk.
    """
    if not 0 <= index < chunk_count(size):
        raise RefusedError(Reason.MALFORMED, f"chunk {index} of a blob with {chunk_count(size)} chunks")
    return min(CHUNK_BYTES, size - index * CHUNK_BYTES)


def split(blob: bytes) -> tuple[BlobRef, tuple[memoryview, ...]]:
    """Name a blob and cut it; the slices share the blob's memory.

    Raises:
        RefusedError: `malformed` for an empty blob, `oversized` above `MAX_BLOB_BYTES`.
    """
    ref = checked(BlobRef(sha256=hashlib.sha256(blob).digest(), size=len(blob)))
    view = memoryview(blob)
    return ref, tuple(view[at : at + CHUNK_BYTES] for at in range(0, len(blob), CHUNK_BYTES))


def checked(ref: BlobRef, max_bytes: int = MAX_BLOB_BYTES) -> BlobRef:
    """`ref` itself, when its name is a SHA-256 and its size is in 1..`max_bytes`.

    Raises:
        RefusedError: `malformed` or `oversized`.
    """
    if len(ref.sha256) != _SHA256_BYTES or ref.size < 1:
        raise RefusedError(Reason.MALFORMED, f"blob of {ref.size} bytes named by {len(ref.sha256)} bytes")
    if ref.size > max_bytes:
        raise RefusedError(Reason.OVERSIZED, f"blob of {ref.size} bytes, at most {max_bytes}")
    return ref


class Holdings:
    """Which chunks of a blob are here: a bitmap, bit `i % 8` of byte `i // 8` for chunk `i`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._bits = bytearray(-(-count // 8))
        self._held = 0

    def __contains__(self, index: int) -> bool:
        return bool(self._bits[index >> 3] >> (index & 7) & 1)

    def add(self, index: int) -> None:
        """Chunk `index` is here; it may have been before."""
        if index not in self:
            self._bits[index >> 3] |= 1 << (index & 7)
            self._held += 1

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self._held == self.count

    def missing(self) -> tuple[int, ...]:
        """The chunks that are not here, ascending."""
        return tuple(index for index in range(self.count) if index not in self)

    def missing_bitmap(self) -> bytes:
        """The chunks that are not here, one bit each; what a receiver sends to name what it still needs."""
        return pack_bitmap(self.missing(), self.count)


def pack_bitmap(indices: Sequence[int], count: int) -> bytes:
    """The set of chunk numbers below `count` as a bitmap of `ceil(count / 8)` bytes."""
    holdings = Holdings(count)
    for index in indices:
        holdings.add(index)
    return bytes(holdings._bits)  # noqa: SLF001  one class's packing, shown as a function


def unpack_bitmap(bitmap: bytes, count: int) -> tuple[int, ...]:
    """The chunk numbers in a bitmap that a peer sent, ascending.

    Raises:
        RefusedError: `malformed` when its length is not that of `count` chunks, or a bit beyond them is set.
    """
    if len(bitmap) != -(-count // 8):
        raise RefusedError(Reason.MALFORMED, f"bitmap of {len(bitmap)} bytes for {count} chunks")
    indices = tuple(_set_bits(bitmap))
    if indices and indices[-1] >= count:
        raise RefusedError(Reason.MALFORMED, f"bitmap names chunk {indices[-1]} of {count}")
    return indices


def _set_bits(bitmap: bytes) -> Iterator[int]:
    for position, byte in enumerate(bitmap):
        yield from (position * 8 + bit for bit in range(8) if byte >> bit & 1)


class Assembly:
    """A blob being put together in memory. Holds only what arrived, at most the size that was announced.

    Args:
        ref: name and size, from a message whose signature was checked.
        source: who answers for the bytes (a device id, "broker"); named when they turn out wrong.
        max_bytes: the most that is accepted here.

    Raises:
        RefusedError: `malformed` or `oversized` when `ref` is out of bounds.
    """

    def __init__(self, ref: BlobRef, source: str, *, max_bytes: int = MAX_BLOB_BYTES) -> None:
        self.ref = checked(ref, max_bytes)
        self.source = source
        self._holdings = Holdings(chunk_count(ref.size))
        self._parts: dict[int, bytes] = {}

    def accept(self, index: int, data: bytes) -> bool:
        """Take one chunk; True when it is new. A chunk that is here already stays as it is.

        Raises:
            RefusedError: `malformed` when there is no such chunk or it has another length.
        """
        expected = chunk_length(self.ref.size, index)
        if len(data) != expected:
            raise RefusedError(
                Reason.MALFORMED, f"chunk {index} from {self.source} has {len(data)} bytes, not {expected}"
            )
        if index in self._holdings:
            return False
        self._parts[index] = bytes(data)
        self._holdings.add(index)
        return True

    @property
    def complete(self) -> bool:
        """Whether `blob` can be asked for."""
        return self._holdings.complete

    def missing(self) -> tuple[int, ...]:
        """The chunks still needed, ascending."""
        return self._holdings.missing()

    def missing_bitmap(self) -> bytes:
        """The chunks still needed, one bit each."""
        return self._holdings.missing_bitmap()

    def blob(self) -> bytes:
        """The whole blob, its SHA-256 checked.

        Raises:
            RefusedError: `missing-blob` while chunks are missing; `malformed`, naming the source, when the bytes are
                not the announced ones. Everything is then thrown away: nobody can tell which chunk was wrong.
        """
        if not self.complete:
            raise RefusedError(Reason.MISSING_BLOB, f"{len(self.missing())} chunks of {self.ref.sha256.hex()} missing")
        blob = b"".join(self._parts[index] for index in range(self._holdings.count))
        found = hashlib.sha256(blob).digest()
        if found != self.ref.sha256:
            self._holdings = Holdings(self._holdings.count)
            self._parts.clear()
            raise RefusedError(
                Reason.MALFORMED, f"{self.source} sent {found.hex()} under the name {self.ref.sha256.hex()}"
            )
        return blob
