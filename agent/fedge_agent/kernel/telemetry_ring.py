"""Windows of features on disk, in a file of fixed size that holds the newest ones.

Layout, little-endian: one header (HEADER, 64 bytes), then `capacity` records (RECORD). Window number n lies in slot
n modulo capacity. Each record carries its own CRC-32, so a power cut costs at most the windows that were not yet
synced, and a half-written one is passed over. A file of another vector version or shape is begun anew.
"""

import dataclasses
import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from fedge_agent.kernel.features import FEATURES, VECTOR_VERSION, FeatureVector

MAGIC = b"FEDGETEL"
HEADER = struct.Struct("<8sHHIQ40x")
"""Magic, vector version, number of features, bytes a record, capacity."""
_HEAD = struct.Struct("<QQfII")
RECORD = struct.Struct(f"<QQfII{len(FEATURES)}fI")
"""Number from 1, end in Unix ms, window in s, present and kernel mask, values (NaN: missing), CRC-32 of all before."""
_WRITE_EVERY = 6
"""Windows a write: each write costs the disk a page of data and four of the file system's journal."""


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """One record.

    Attributes:
        number: counts up from 1 without gaps, over restarts.
        end_ms: Unix time; as right as the clock was.
        values: (19,) in the order of FEATURES; NaN where missing.
    """

    number: int
    end_ms: int
    window_s: float
    present_mask: int
    kernel_mask: int
    values: tuple[float, ...]


class TelemetryRing:
    """The file, open for one writer.

    Args:
        max_bytes: the file never exceeds this.
        write_every: so many windows are written, and synced, together: what a power cut, or SIGKILL, may cost.

    Raises:
        OSError: the file cannot be made.
        ValueError: not even one window fits.
    """

    def __init__(self, path: Path, max_bytes: int, *, write_every: int = _WRITE_EVERY) -> None:
        self.capacity = (max_bytes - HEADER.size) // RECORD.size
        if self.capacity < 1:
            raise ValueError(f"a telemetry ring of {max_bytes} bytes holds no window; {HEADER.size + RECORD.size} do")
        self._write_every = write_every
        self._held: list[tuple[int, bytes]] = []
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            self._next = self._continue()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Writes what is held, and closes."""
        try:
            self.flush()
        finally:
            os.close(self._file)

    def append(self, vector: FeatureVector, end_ms: int) -> None:
        """Holds one window until there are enough for a write over the oldest.

        Raises:
            OSError: the disk is full or broken; the ring stays readable.
        """
        head = _HEAD.pack(self._next, end_ms, vector.window_s, vector.present_mask, vector.kernel_mask)
        body = head + struct.pack(f"<{len(FEATURES)}f", *vector.values)
        self._held.append((self._next, body + struct.pack("<I", zlib.crc32(body))))
        self._next += 1
        if len(self._held) >= self._write_every:
            self.flush()

    def flush(self) -> None:
        """Writes and syncs what is held. What cannot be written is given up, so that a full disk fills no memory.

        Raises:
            OSError: as `append`.
        """
        held, self._held = self._held, []
        while held:
            first = held[0][0] % self.capacity
            run = held[: self.capacity - first]
            os.pwrite(self._file, b"".join(record for _, record in run), HEADER.size + first * RECORD.size)
            held = held[len(run) :]
        os.fdatasync(self._file)

    def _continue(self) -> int:
        header = HEADER.pack(MAGIC, VECTOR_VERSION, len(FEATURES), RECORD.size, self.capacity)
        if os.pread(self._file, HEADER.size, 0) == header:
            most = HEADER.size + self.capacity * RECORD.size
            if os.fstat(self._file).st_size > most:
                os.ftruncate(self._file, most)
            newest = max((window.number for window in _windows(self._file, self.capacity)), default=0)
            return newest + 1
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, header, 0)
        os.fdatasync(self._file)
        return 1


def read_ring(path: Path) -> tuple[Window, ...]:
    """All windows of a ring, oldest first; none from a file of another version.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = os.pread(descriptor, HEADER.size, 0)
        if len(header) < HEADER.size:
            return ()
        magic, version, features, record, capacity = HEADER.unpack(header)
        if (magic, version, features, record) != (MAGIC, VECTOR_VERSION, len(FEATURES), RECORD.size):
            return ()
        return tuple(sorted(_windows(descriptor, capacity), key=lambda window: window.number))
    finally:
        os.close(descriptor)


def _windows(descriptor: int, capacity: int) -> Iterator[Window]:
    length = min(os.fstat(descriptor).st_size, HEADER.size + capacity * RECORD.size)
    content = os.pread(descriptor, max(length - HEADER.size, 0), HEADER.size)
    for slot in range(len(content) // RECORD.size):
        record = content[slot * RECORD.size : (slot + 1) * RECORD.size]
        number, end_ms, window_s, present, kernel, *rest = RECORD.unpack(record)
        if rest[-1] == zlib.crc32(record[:-4]) and number % capacity == slot and number and math.isfinite(window_s):
            yield Window(number, end_ms, window_s, present, kernel, tuple(rest[:-1]))
