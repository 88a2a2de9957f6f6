"""A control group for each container, in every hierarchy that an init manages.

Without one the containers of a host that has no systemd share `/payload`: units of the same name would be one group,
and whoever stops a unit would kill the processes of another machine.
"""

import os
import time
from pathlib import Path

_ENDED_S = 20.0
_POLL_S = 0.1
_TYPES = ("cgroup2", "cgroup")


def make(name: str) -> list[Path]:
    """A new group of this name below our own, one in each hierarchy."""
    made = []
    for mount, own in _hierarchies():
        path = mount / own.lstrip("/") / name
        path.mkdir(exist_ok=True)
        made.append(path)
    return made


def remove(groups: list[Path]) -> None:
    """Remove groups whose processes end, and all below them.

    Raises:
        OSError: a process has not ended.
    """
    deadline_s = time.monotonic() + _ENDED_S
    for group in groups:
        while group.exists():
            try:
                for folder, _, _ in os.walk(group, topdown=False):
                    Path(folder).rmdir()
            except OSError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(_POLL_S)


def _hierarchies() -> list[tuple[Path, str]]:
    """(mount point, our own group) of the unified hierarchy and of systemd's own."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, kind, options = line.split()[:4]
        controllers = "" if kind == "cgroup2" else "name=systemd"
        if kind in _TYPES and controllers in own and (kind == "cgroup2" or controllers in options.split(",")):
            found.append((Path(mount), own[controllers]))
    return found
