"""A listening Unix socket that lies at its path with its mode from the first moment."""

import os
import socket
import stat
from pathlib import Path


def bound(path: Path) -> socket.socket:
    """A stream socket of mode 0660 at `path`, in the place of one that a killed process left; for one thread.

    Raises:
        OSError: it cannot be made.
    """
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o117)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(previous)
    return listener
