"""One coordinator a store: a lock that the kernel frees when its holder is killed."""

import fcntl
import os
from pathlib import Path

from fedge_coordinator.store.errors import StoreLockedError, StoreUnavailableError


class StoreLock:
    """Held from construction to `release`, or to the end of the process.

    Raises:
        StoreLockedError: another process (or another `StoreLock` of this one) holds it.
        StoreUnavailableError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailableError(f"cannot open {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise StoreLockedError(f"another coordinator holds {path}; stop it first") from None

    def release(self) -> None:
        """Let another coordinator have the store."""
        os.close(self._descriptor)
