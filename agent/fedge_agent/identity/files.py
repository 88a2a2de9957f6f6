"""Files of the state directory: whole or absent after a power loss, private, the daemon's also when root enrols."""

import os
import secrets
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
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
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
        KeyFileError: missing, exposed, or longer than any file of ours.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
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
    if len(content) > MAX_FILE_BYTES:
        raise KeyFileError(f"{path} has more than {MAX_FILE_BYTES} bytes; it is no file of this agent")
    return content
