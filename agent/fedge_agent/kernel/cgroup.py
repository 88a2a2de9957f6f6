"""Finds cgroup v2, also on hybrid machines, and tells one cgroup from its recreated namesake."""

from pathlib import Path

from fedge_agent.kernel.errors import CgroupError


def _mounts(root: Path) -> list[tuple[Path, str]]:
    """(mount point, file system type) of every mount of this process, later mounts last."""
    result = []
    for line in (root / "proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")  # \040 and friends
        result.append((Path(point), after.split()[0]))
    return result


def cgroup2_mount(root: Path = Path("/")) -> Path:
    """Where cgroup v2 is mounted: /sys/fs/cgroup, or /sys/fs/cgroup/unified on a hybrid machine.

    Raises:
        CgroupError: nowhere.
    """
    for point, kind in _mounts(root):
        if kind == "cgroup2":
            return point
    raise CgroupError("cgroup v2 is not mounted; mount -t cgroup2 none /sys/fs/cgroup/unified")


def filesystem_of(path: Path) -> str:
    """The type of the file system that holds `path` (or its nearest existing ancestor), e.g. `bpf`."""
    place = path.resolve()
    while not place.exists():
        place = place.parent
    found = "?"
    longest = -1
    for point, kind in _mounts(Path("/")):
        if place.is_relative_to(point) and len(point.parts) >= longest:
            found, longest = kind, len(point.parts)
    return found


def own_cgroup() -> Path:
    """The cgroup v2 directory of this process.

    Raises:
        CgroupError: no cgroup v2.
    """
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        if line.startswith("0::"):
            return cgroup2_mount() / line.removeprefix("0::").lstrip("/")
    raise CgroupError("this process is in no cgroup v2; boot with systemd.unified_cgroup_hierarchy=1")


def unit_cgroup() -> Path:
    """The cgroup to guard: this process's own, or its parent when systemd put a `+` command into `.control`.

    Raises:
        CgroupError: this is the root cgroup, which must not be guarded: it is the whole machine.
    """
    own = own_cgroup()
    if own.name == ".control":
        own = own.parent
    if own == cgroup2_mount():
        raise CgroupError("this process runs in the root cgroup; name the agent's cgroup with --cgroup")
    return own


def cgroup_id(path: Path) -> int:
    """The kernel's id of a cgroup directory: its inode number. A recreated cgroup has another.

    Raises:
        CgroupError: not a cgroup v2 directory.
    """
    if not (path / "cgroup.procs").is_file() or filesystem_of(path) != "cgroup2":
        raise CgroupError(f"{path} is not a cgroup v2 directory; make it with mkdir under {cgroup2_mount()}")
    return path.stat().st_ino
