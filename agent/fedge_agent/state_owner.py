"""Root's commands in the daemon's directory, done as the daemon's user: what lies there is the daemon's to choose.

SQLite, for one, follows what it finds: beside a database a journal may name any file of the machine as finished with,
and whoever opens the database next deletes that file. A daemon that was taken over must not reach root that way.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def as_owner(folder: Path) -> Iterator[None]:
    """Be the owner of `folder` inside; nothing changes for anybody but root, or where it is root's or missing."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        yield
        return
    if os.geteuid() != 0 or status.st_uid == 0:
        yield
        return
    group, groups = os.getegid(), os.getgroups()
    os.setgroups([status.st_gid])
    os.setegid(status.st_gid)
    os.seteuid(status.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
