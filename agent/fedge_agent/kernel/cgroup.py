"""Finds cgroup v2, also on hybrid machines, and tells one cgroup from its recreated namesake."""

import os

from fedge_agent.kernel.errors import CgroupError
from fedge_agent.kernel.frozen import TYPE_CHECKING
from fedge_agent.kernel.text_files import StrPath, read_text

if TYPE_CHECKING:
    from pathlib import Path


def _mounts(root: StrPath) -> list[tuple[str, str]]:
    """(mount point, file system type) of every mount of this process, later mounts last."""
    result = []
    for line in read_text(os.path.join(root, "proc/self/mountinfo")).splitlines():
        before, _, after = line.partition(" - ")
        result.append((_unescaped(before.split()[4]), after.split()[0]))
    return result


def _unescaped(point: str) -> str:
    """Blanks and backslashes stand as three octal digits: proc(5)."""
    first, *rest = point.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def cgroup2_place(root: StrPath = "/") -> str:
    """Where cgroup v2 is mounted: /sys/fs/cgroup, or /sys/fs/cgroup/unified on a hybrid machine.

    Raises:
        CgroupError: nowhere.
    """
    for point, kind in _mounts(root):
        if kind == "cgroup2":
            return point
    raise CgroupError("cgroup v2 is not mounted; mount -t cgroup2 none /sys/fs/cgroup/unified")


def cgroup2_mount(root: StrPath = "/") -> "Path":
    """As `cgroup2_place`."""
    from pathlib import Path  # noqa: PLC0415 - a megabyte, which the loader does without

    return Path(cgroup2_place(root))


def filesystem_of(path: StrPath) -> str:
    """The type of the file system that holds `path` (or its nearest existing ancestor), e.g. `bpf`."""
    place = os.path.realpath(path)
    while not os.path.exists(place):
        place = os.path.dirname(place)
    found, longest = "?", -1
    for point, kind in _mounts("/"):
        if os.path.commonpath((place, point)) == point and len(point) >= longest:
            found, longest = kind, len(point)
    return found


def own_cgroup() -> str:
    """The cgroup v2 directory of this process.

    Raises:
        CgroupError: no cgroup v2.
    """
    for line in read_text("/proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            return os.path.join(cgroup2_place(), line.removeprefix("0::").lstrip("/")).rstrip("/")
    raise CgroupError("this process is in no cgroup v2; boot with systemd.unified_cgroup_hierarchy=1")


def unit_cgroup() -> "Path":
    """The cgroup to guard: this process's own, or its parent when systemd put a `+` command into `.control`.

    Raises:
        CgroupError: this is the root cgroup, which must not be guarded: it is the whole machine.
    """
    from pathlib import Path  # noqa: PLC0415 - as above

    own = own_cgroup()
    if os.path.basename(own) == ".control":
        own = os.path.dirname(own)
    if own == cgroup2_place():
        raise CgroupError("this process runs in the root cgroup; name the agent's cgroup with --cgroup")
    return Path(own)


def cgroup_id(path: StrPath) -> int:
    """The kernel's id of a cgroup directory: its inode number. A recreated cgroup has another.

    Raises:
        CgroupError: not a cgroup v2 directory.
    """
    if not os.path.isfile(os.path.join(path, "cgroup.procs")) or filesystem_of(path) != "cgroup2":
        raise CgroupError(f"{path} is not a cgroup v2 directory; make it with mkdir under {cgroup2_place()}")
    return os.stat(path).st_ino
