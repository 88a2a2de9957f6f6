"""Takes the masked vector over from the worker, which a hostile model or sample may have taken over before.

The worker may write in its own folder, so what lies there under the agreed name can be a link to a file of the daemon,
a pipe, or bytes that change while they are read. What leaves the device is a copy, of the right size and hash.
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import BlobRef

_PART_BYTES: Final = 128 * 1024


def take_over(written: Path, ref: BlobRef, outgoing: Path) -> Path:
    """Copy the worker's file into `outgoing` under its SHA-256 and delete it; durable when this returns.

    Blocking: reads and writes `ref.size` bytes.

    Args:
        written: where the worker was told to write.
        ref: the hash the worker gave, and the size that follows from the offer.
        outgoing: a folder of the daemon's.

    Raises:
        RefusedError: `bad-update`: not a regular file of its own with exactly these bytes.
        OSError: it cannot be read, or the copy cannot be written.
    """
    final = outgoing / ref.sha256.hex()
    temporary = outgoing / f".{ref.sha256.hex()}"
    try:
        with _opened(written, ref) as source:
            _copy(source, temporary, ref)
        temporary.rename(final)
    finally:
        temporary.unlink(missing_ok=True)
    written.unlink()
    descriptor = os.open(outgoing, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return final


def empty(folder: Path) -> None:
    """Delete whatever is in a folder, following no link."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            import shutil  # noqa: PLC0415 - brings bz2 and lzma, and an idle device has nothing to delete

            shutil.rmtree(path, ignore_errors=True)  # a folder that the worker locked stays
        else:
            path.unlink(missing_ok=True)


def _opened(path: Path, ref: BlobRef) -> BinaryIO:
    # Without O_NONBLOCK opening a named pipe would wait for its writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        source = os.fdopen(os.open(path, flags), "rb")
    except OSError as error:
        raise RefusedError(Reason.BAD_UPDATE, f"the worker's file: {error.strerror}") from None
    found = os.fstat(source.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_size != ref.size:
        source.close()
        raise RefusedError(
            Reason.BAD_UPDATE,
            f"the worker wrote {stat.filemode(found.st_mode)} of {found.st_size} bytes with {found.st_nlink} links,"
            f" not one file of {ref.size} bytes",
        )
    return source


def _copy(source: BinaryIO, target: Path, ref: BlobRef) -> None:
    digest, left = hashlib.sha256(), ref.size
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(target, flags, 0o600), "wb") as copy:
        while part := source.read(min(left, _PART_BYTES)):
            digest.update(part)
            copy.write(part)
            left -= len(part)
        copy.flush()
        os.fsync(copy.fileno())
    if left or digest.digest() != ref.sha256:
        raise RefusedError(Reason.BAD_UPDATE, f"the worker wrote {digest.hexdigest()}, and said {ref.sha256.hex()}")
