"""A control group for each container, in every hierarchy that an init manages.

Without one the containers of a host that has no systemd share `/payload`: units of the same name would be one group,
and whoever stops a unit would kill the processes of another machine.
"""

import contextlib
from pathlib import Path

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
    """Remove empty groups and all below them; what still has a process in it stays."""
    for group in groups:
        below = sorted((path for path in group.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
        for path in (*below, group):
            with contextlib.suppress(OSError):
                path.rmdir()


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
