"""A blob being put together on disk, which goes on where it stopped: after a broken link, a kill, a power cut.

`<sha256>.part` is the blob's own bytes, sparse until they come, and behind them five bytes a chunk: 1 when it is here,
and its CRC-32 (big endian). Nothing is synced while chunks come; instead every chunk that the file claims to hold is
checked against its CRC when the file is opened again, so a chunk that a power cut tore is asked for anew. Only
`finish`, which checks the SHA-256, gives the file its name without `.part`.
"""

import hashlib
import os
import struct
import zlib
from pathlib import Path
from typing import Final

from fedge_protocol.chunks import CHUNK_BYTES, Holdings, checked, chunk_count, chunk_length
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import MAX_BLOB_BYTES, BlobRef

_ENTRY: Final = struct.Struct(">BI")
_HERE: Final = 1


class PartialBlob:
    """The unfinished file of one blob. Same contract as `fedge_protocol.chunks.Assembly`, on disk.

    Args:
        directory: where it lives; exists, and is not writable by others.
        ref: name and size, from a message whose signature was checked.
        source: who answers for the bytes; named when they turn out wrong.
        max_bytes: the most that is accepted here.

    Raises:
        RefusedError: `malformed` or `oversized` when `ref` is out of bounds.
        OSError: the directory cannot be written.
    """

    def __init__(self, directory: Path, ref: BlobRef, source: str, *, max_bytes: int = MAX_BLOB_BYTES) -> None:
        self.ref = checked(ref, max_bytes)
        self.source = source
        self.final_path = directory / ref.sha256.hex()
        self._part_path = directory / f"{ref.sha256.hex()}.part"
        self._count = chunk_count(ref.size)
        self._holdings = Holdings(self._count)
        length = ref.size + self._count * _ENTRY.size
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._part_path, flags, 0o600)
        try:
            if os.fstat(self._fd).st_size == length:
                self._take_up()
            else:
                os.ftruncate(self._fd, 0)
                os.ftruncate(self._fd, length)
        except OSError:
            self.close()
            raise

    def accept(self, index: int, data: bytes) -> bool:
        """Take one chunk; True when it is new. A chunk that is here already stays as it is.

        Raises:
            RefusedError: `malformed` when there is no such chunk or it has another length.
            OSError: the disk is full or broken.
        """
        expected = chunk_length(self.ref.size, index)
        if len(data) != expected:
            raise RefusedError(
                Reason.MALFORMED, f"chunk {index} from {self.source} has {len(data)} bytes, not {expected}"
            )
        if index in self._holdings:
            return False
        self._write(data, index * CHUNK_BYTES)
        self._write(_ENTRY.pack(_HERE, zlib.crc32(data)), self._entry_at(index))
        self._holdings.add(index)
        return True

    @property
    def complete(self) -> bool:
        """Whether `finish` can be called."""
        return self._holdings.complete

    def missing(self) -> tuple[int, ...]:
        """The chunks still needed, ascending."""
        return self._holdings.missing()

    def missing_bitmap(self) -> bytes:
        """The chunks still needed, one bit each."""
        return self._holdings.missing_bitmap()

    def finish(self) -> Path:
        """Check the SHA-256, make the file durable and give it its name. Reads the whole file: run it beside the loop.

        Raises:
            RefusedError: `missing-blob` while chunks are missing; `malformed`, naming the source, when the bytes are
                not the announced ones: the file is then thrown away.
        """
        if not self.complete:
            raise RefusedError(Reason.MISSING_BLOB, f"{len(self.missing())} chunks of {self.ref.sha256.hex()} missing")
        digest = hashlib.sha256()
        for index in range(self._count):
            digest.update(self._read(index))
        if digest.digest() != self.ref.sha256:
            self.discard()
            raise RefusedError(
                Reason.MALFORMED, f"{self.source} sent {digest.hexdigest()} under the name {self.ref.sha256.hex()}"
            )
        os.ftruncate(self._fd, self.ref.size)
        os.fsync(self._fd)
        self.close()
        self._part_path.rename(self.final_path)
        _sync_directory(self.final_path.parent)
        return self.final_path

    def discard(self) -> None:
        """Throw the unfinished file away."""
        self.close()
        self._part_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop for now; what is here stays on disk."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _take_up(self) -> None:
        for index in range(self._count):
            here, crc = _ENTRY.unpack(os.pread(self._fd, _ENTRY.size, self._entry_at(index)))
            if here == _HERE and zlib.crc32(self._read(index)) == crc:
                self._holdings.add(index)

    def _entry_at(self, index: int) -> int:
        return self.ref.size + index * _ENTRY.size

    def _read(self, index: int) -> bytes:
        return os.pread(self._fd, chunk_length(self.ref.size, index), index * CHUNK_BYTES)

    def _write(self, data: bytes, at: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, at)
            view, at = view[written:], at + written


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
