"""Masked vectors on their way in: chunks are collected only for what a seated device announced by a signed manifest."""

from collections.abc import Callable
from dataclasses import dataclass

from fedge_coordinator.federation.intake import Chunk, Message
from fedge_protocol.chunks import Assembly
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import Masked


@dataclass
class _Upload:
    manifest: Message
    context: bytes
    parts: Assembly


@dataclass(frozen=True)
class Complete:
    """A whole vector whose SHA-256 is the announced one."""

    manifest: Message
    vector: bytes


class Uploads:
    """At most one upload a device; the latest manifest counts. Held in memory: the sender resends until the ACK."""

    def __init__(self) -> None:
        self._uploads: dict[str, _Upload] = {}

    def announce(self, manifest: Message, body: Masked) -> None:
        """Expect the chunks of `body.vector` from the manifest's sender. Repeated, it changes nothing.

        Raises:
            RefusedError: `malformed` or `oversized`.
        """
        device = manifest.sender.device
        known = self._uploads.get(device)
        if known is None or known.manifest.encoded != manifest.encoded:
            self._uploads[device] = _Upload(manifest, body.context, Assembly(body.vector, device))

    def add(self, chunk: Chunk) -> Complete | None:
        """Take a chunk; the whole vector when it was the last one.

        Raises:
            RefusedError: `missing-blob` when nothing of that name is expected from the device; `malformed`.
        """
        upload = self._uploads.get(chunk.device)
        if upload is None or upload.parts.ref.sha256 != chunk.sha256:
            raise RefusedError(Reason.MISSING_BLOB, f"a chunk of {chunk.sha256.hex()}, which was not announced")
        upload.parts.accept(chunk.index, chunk.data)
        if not upload.parts.complete:
            return None
        vector = upload.parts.blob()
        del self._uploads[chunk.device]
        return Complete(upload.manifest, vector)

    def keep(self, is_open: Callable[[bytes], bool]) -> None:
        """Forget what is unfinished and belongs to a bucket, by its context, that is over."""
        for device in [device for device, upload in self._uploads.items() if not is_open(upload.context)]:
            del self._uploads[device]
