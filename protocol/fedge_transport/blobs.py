"""Blobs over the broker: published as retained chunks, fetched into a file that survives every interruption."""

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from fedge_protocol import topics
from fedge_protocol.chunks import CHUNK_BYTES, checked, chunk_count, chunk_length, split
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import MAX_BLOB_BYTES, BlobRef
from fedge_transport.connection import Connection
from fedge_transport.errors import DisconnectedError, MissingBlobError
from fedge_transport.inbox import Inbox
from fedge_transport.partial import PartialBlob

_WINDOW: Final = 4
_BROKER: Final = "broker"

ReadChunk = Callable[[int], bytes]
"""Gives chunk number `i` of a blob."""

Progress = Callable[[int, int], None]
"""Is told how many chunks of how many are here."""


def file_reader(path: Path, ref: BlobRef) -> ReadChunk:
    """Chunks of a file, read when they are needed, so that no blob has to stay in memory."""

    def read(index: int) -> bytes:
        with path.open("rb") as file:
            return os.pread(file.fileno(), chunk_length(ref.size, index), index * CHUNK_BYTES)

    return read


class BlobPublisher:
    """Keeps blobs retained at the broker for as long as they are needed.

    Args:
        connection: by which they are published.
        fleet: whose blobs they are.
        want_interval_s: a blob that many devices ask for at once is sent again at most this often.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        connection: Connection,
        fleet: str,
        *,
        want_interval_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._fleet = fleet
        self._want_interval_s = want_interval_s
        self._clock = clock
        self._published: dict[bytes, tuple[BlobRef, ReadChunk]] = {}
        self._sent_s: dict[bytes, float] = {}

    @property
    def published(self) -> tuple[BlobRef, ...]:
        """What the broker should hold."""
        return tuple(ref for ref, _ in self._published.values())

    async def publish(self, blob: bytes) -> BlobRef:
        """Publish bytes, which are kept in memory until `clear`; returns their name. As `publish_chunks` otherwise."""
        ref, slices = split(blob)
        await self.publish_chunks(ref, lambda index: bytes(slices[index]))
        return ref

    async def publish_chunks(self, ref: BlobRef, read: ReadChunk) -> None:
        """Publish every chunk retained and remember the blob. Waits out broken connections: bound it with a timeout.

        Raises:
            RefusedError: the blob's size is out of bounds.
            NotAuthorisedError: this identity may not publish blobs.
        """
        self.remember(ref, read)
        await self._send(ref, read)

    def remember(self, ref: BlobRef, read: ReadChunk) -> None:
        """Count a blob that was published by an earlier process among ours, so that it is sent again or cleared."""
        self._published[ref.sha256] = (checked(ref), read)

    async def republish(self) -> None:
        """Publish everything again: the broker lost its state (`Connected(session_present=False)`)."""
        for ref, read in list(self._published.values()):
            await self._send(ref, read)

    async def want(self, sha256: bytes) -> bool:
        """A device misses a blob: publish it again, unless that was just done. False when it is none of ours."""
        known = self._published.get(sha256)
        if known is None:
            return False
        now_s = self._clock()
        if now_s - self._sent_s.get(sha256, -self._want_interval_s) >= self._want_interval_s:
            await self._send(*known)
        return True

    async def clear(self, sha256: bytes) -> None:
        """Take a blob away from the broker and forget it; one that is not known is no error."""
        known = self._published.pop(sha256, None)
        self._sent_s.pop(sha256, None)
        if known is not None:
            ref, _ = known
            await self._retain(ref, lambda _index: b"")

    async def _send(self, ref: BlobRef, read: ReadChunk) -> None:
        self._sent_s[ref.sha256] = self._clock()
        await self._retain(ref, read)

    async def _retain(self, ref: BlobRef, read: ReadChunk) -> None:
        indices = iter(range(chunk_count(ref.size)))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_WINDOW, chunk_count(ref.size))):
                    group.create_task(self._retain_some(ref, read, indices))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _retain_some(self, ref: BlobRef, read: ReadChunk, indices: Iterable[int]) -> None:
        for index in indices:
            topic = topics.blob(self._fleet, ref.sha256.hex(), index)
            while True:
                try:
                    await self._connection.publish(topic, read(index), retain=True)
                    break
                except DisconnectedError:
                    await self._connection.wait_connected()


class BlobFetcher:
    """Fetches blobs into files named by their SHA-256; a fetch that was cut off goes on with the missing chunks.

    Args:
        connection: by which chunks come.
        fleet: whose blobs they are.
        directory: where blobs and unfinished blobs live; exists, and is not writable by others.
        idle_timeout_s: without a new chunk for so long, while connected, the broker does not hold the rest.
        max_bytes: the largest blob that is fetched.
    """

    def __init__(
        self,
        connection: Connection,
        fleet: str,
        directory: Path,
        *,
        idle_timeout_s: float = 10.0,
        max_bytes: int = MAX_BLOB_BYTES,
    ) -> None:
        self._connection = connection
        self._fleet = fleet
        self._directory = directory
        self._idle_timeout_s = idle_timeout_s
        self._max_bytes = max_bytes
        self._turn = asyncio.Lock()

    async def fetch(self, ref: BlobRef, progress: Progress | None = None) -> Path:
        """The path of the whole, verified blob; at once when it is here. One fetch at a time, others wait their turn.

        Raises:
            MissingBlobError: the broker does not hold all of it; what came stays on disk. Send WANT and fetch again.
            RefusedError: `oversized`; or `malformed`, when what came is not the blob (it is thrown away).
            OSError: the disk is full or broken.
        """
        async with self._turn:
            path = self._directory / checked(ref, self._max_bytes).sha256.hex()
            if await asyncio.to_thread(_holds, path, ref):
                return path
            partial = await asyncio.to_thread(self._open, ref)
            try:
                if not partial.complete:
                    await self._collect(partial, progress)
                return await asyncio.to_thread(partial.finish)
            finally:
                partial.close()

    def _open(self, ref: BlobRef) -> PartialBlob:
        return PartialBlob(self._directory, ref, _BROKER, max_bytes=self._max_bytes)

    async def _collect(self, partial: PartialBlob, progress: Progress | None) -> None:
        name = partial.ref.sha256.hex()
        missing = partial.missing()
        if len(missing) == chunk_count(partial.ref.size):
            filters = [topics.blob_filter(self._fleet, name)]
        else:
            filters = [topics.blob(self._fleet, name, index) for index in missing]
        prefix = f"{topics.PREFIX}/{self._fleet}/blob/{name}/"
        inbox = self._connection.route(prefix)
        try:
            await self._connection.subscribe(*filters)
            while not partial.complete:
                await self._take_one(partial, inbox)
                if progress is not None:
                    progress(chunk_count(partial.ref.size) - len(partial.missing()), chunk_count(partial.ref.size))
        finally:
            self._connection.unroute(prefix)
            await self._connection.unsubscribe(*filters)

    async def _take_one(self, partial: PartialBlob, inbox: Inbox) -> None:
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                while True:
                    message = await anext(inbox)
                    try:
                        if message.payload and self._accept(partial, message.topic, message.payload):
                            return
                    finally:
                        message.ack()
        except StopAsyncIteration:
            raise DisconnectedError("the connection was closed during a fetch") from None
        except TimeoutError:
            if self._connection.connected:
                raise MissingBlobError(partial.ref.sha256.hex(), partial.missing()) from None

    def _accept(self, partial: PartialBlob, topic: str, payload: bytes) -> bool:
        found = topics.parse(topic)
        if not isinstance(found, topics.BlobTopic):
            raise RefusedError(Reason.WRONG_TOPIC, f"{topic} is no chunk")
        return partial.accept(found.chunk, payload)


def _holds(path: Path, ref: BlobRef) -> bool:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != ref.size:
                return False
            return hashlib.file_digest(file, "sha256").digest() == ref.sha256
    except FileNotFoundError:
        return False
