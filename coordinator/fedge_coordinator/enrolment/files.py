"""Files of the CA that are whole or absent, and private ones that nobody else can read."""

import os
import secrets
import stat
from pathlib import Path

from fedge_coordinator import credentials
from fedge_coordinator.enrolment.errors import AuthorityFilesError

PRIVATE = 0o600
PUBLIC = 0o644


def write_durably(path: Path, content: bytes, *, mode: int) -> None:
    """Replace `path` by `content`, which is on the disk with this mode when the call returns."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_private(path: Path) -> bytes:
    """Read a file that must belong to this user and be closed to all others, or a credential.

    Raises:
        AuthorityFilesError: missing, or its owner or mode let another user read it.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            exposed = stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid != os.geteuid()
            if exposed and not credentials.holds(path):
                raise AuthorityFilesError(
                    f"{path} has mode {stat.S_IMODE(status.st_mode):04o} and owner {status.st_uid}; "
                    f"others could read it; consider the key exposed: chown {os.geteuid()} {path}; chmod 600 {path}"
                )
            return file.read()
    except FileNotFoundError:
        raise AuthorityFilesError(f"{path} is missing; make a CA with: fedge-ca init --fleet NAME --dir DIR") from None
