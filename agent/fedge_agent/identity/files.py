"""Files of the state directory: whole or absent after a power loss, private, the daemon's also when root enrols."""

import os
import stat
from pathlib import Path

from fedge_agent.identity import credentials
from fedge_agent.identity.errors import KeyFileError

PRIVATE = 0o600
MAX_FILE_BYTES = 64 * 1024


def write_durably(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, mode 0600, on the disk when the call returns.

    Written by root, the file goes to the owner of its directory: enrolment may run by sudo, the daemon does not.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if os.geteuid() == 0:
                folder = path.parent.stat()
                os.fchown(file.fileno(), folder.st_uid, folder.st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put renames and removals in a directory on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_private(path: Path) -> bytes:
    """Read a file that nobody but its owner (this user, or anybody when this is root) may read, or a credential.

    Raises:
        KeyFileError: missing, exposed, no regular file, or longer than any file of ours.
    """
    try:
        # The directory is the daemon's and root reads in it too: a pipe must not hold root up, nor a link lead it away.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise KeyFileError(f"{path} is no regular file; remove it and enrol again")
            granted = credentials.holds(path)  # by an access list, perhaps, whose mask looks like a group's right
            if not granted and stat.S_IMODE(status.st_mode) & 0o077:
                raise KeyFileError(
                    f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: others could read it. "
                    f"If nobody did: chmod 600 {path}; otherwise have the device revoked and enrol with new keys"
                )
            if not granted and status.st_uid != os.geteuid() and os.geteuid() != 0:
                raise KeyFileError(f"{path} belongs to user {status.st_uid}: chown {os.geteuid()} {path}")
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise KeyFileError(f"{path} is missing; restore it, or enrol again: fedge-agent enroll TOKEN") from None
    except PermissionError:
        raise KeyFileError(f"{path} cannot be read by user {os.geteuid()}: chown {os.geteuid()} {path}") from None
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read ({error.strerror}); only a regular file is, no link") from None
    if len(content) > MAX_FILE_BYTES:
        raise KeyFileError(f"{path} has more than {MAX_FILE_BYTES} bytes; it is no file of this agent")
    return content
