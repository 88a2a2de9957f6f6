"""Loads, attaches and pins what the table of programs says; run again, it changes only what differs.

Attached programs are replaced without an unguarded moment: cgroup links are updated in place, tracepoint links are
added before the old ones go, and allow entries are added before others are taken away. A pinned link whose cgroup has
been recreated guards nothing; it is found by its cgroup id and attached anew.
"""

import contextlib
import dataclasses
import enum
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from fedge_agent.kernel import libbpf, tracepoints
from fedge_agent.kernel.allowlist import Allowed
from fedge_agent.kernel.cgroup import cgroup2_mount, cgroup_id, filesystem_of
from fedge_agent.kernel.errors import BpfCallError, BpffsMissingError, CgroupError, KernelLayerError
from fedge_agent.kernel.programs import MAPS, PROGRAMS, ObjectName, PinnedMap, Program, maps_of, programs_of
from fedge_agent.kernel.records import PEER

DEFAULT_PIN_DIR = Path("/sys/fs/bpf/fedge")
INSTALLED_OBJECTS = Path("/usr/lib/fedge/bpf")
REPOSITORY_OBJECTS = Path(__file__).parents[3] / "bpf" / "build"
_NEW = "_new"


class State(enum.Enum):
    """What became of a program."""

    ATTACHED = "attached"
    STALE = "stale"
    ABSENT = "absent"


@dataclasses.dataclass(frozen=True, slots=True)
class ProgramStatus:
    """One line of the health report; `detail` says why when it is not attached, `change` what attach did."""

    program: Program
    state: State
    detail: str = ""
    change: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What to attach where.

    Attributes:
        reader_gid: group that may read the telemetry maps and the denial ring; None leaves them to root.
    """

    pin_dir: Path
    cgroup: Path
    allow: tuple[Allowed, ...]
    object_dir: Path
    reader_gid: int | None = None


def find_objects() -> Path:
    """The directory of the .bpf.o files: the installed one, or the repository's build."""
    return INSTALLED_OBJECTS if INSTALLED_OBJECTS.is_dir() else REPOSITORY_OBJECTS


def require_bpffs(pin_dir: Path) -> None:
    """Refuses a pin directory that is not on a BPF file system.

    Raises:
        BpffsMissingError: says how to mount one; this program mounts nothing.
    """
    kind = filesystem_of(pin_dir)
    if kind != "bpf":
        cure = "mount -t bpf bpf /sys/fs/bpf (systemd does it at boot)"
        raise BpffsMissingError(f"{pin_dir} lies on {kind}, not on a BPF file system; {cure}")


def closed_parent(pin_dir: Path) -> Path | None:
    """The first directory above the pins that others may not search (systemd mounts /sys/fs/bpf with mode 0700)."""
    return next((parent for parent in reversed(pin_dir.parents) if not parent.stat().st_mode & 0o001), None)


@contextlib.contextmanager
def _locked(pin_dir: Path) -> Iterator[None]:
    descriptor = os.open(pin_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def attach(request: Request) -> tuple[ProgramStatus, ...]:
    """Guards the cgroup and starts telemetry.

    Returns:
        The state of every program. Telemetry that this kernel cannot give is reported, not raised.

    Raises:
        KernelLayerError: network admission cannot be enforced completely.
    """
    require_bpffs(request.pin_dir)
    unit_id = cgroup_id(request.cgroup)
    if request.cgroup.resolve() == cgroup2_mount():
        raise CgroupError(f"{request.cgroup} is the root cgroup, the whole machine; name the agent's own cgroup")
    request.pin_dir.mkdir(mode=0o700, exist_ok=True)
    with _locked(request.pin_dir):
        cgroup_fd = os.open(request.cgroup, os.O_RDONLY | os.O_DIRECTORY)
        try:
            admission = _attach_object(request, ObjectName.ADMISSION, {}, cgroup_fd, unit_id)
        finally:
            os.close(cgroup_fd)
        telemetry = _attach_telemetry(request)
        if request.reader_gid is not None:
            os.chown(request.pin_dir, -1, request.reader_gid)
            request.pin_dir.chmod(0o750)
    return (*admission, *telemetry)


def _attach_telemetry(request: Request) -> tuple[ProgramStatus, ...]:
    name = ObjectName.TELEMETRY
    place = tracepoints.find_tracefs()
    reasons = {p.name: why for p in programs_of(name) if (why := tracepoints.mismatch(p, place)) is not None}
    try:
        return _attach_object(request, name, reasons, None, 0)
    except KernelLayerError as error:
        detail = str(error).splitlines()[-1]
        return tuple(ProgramStatus(p, State.ABSENT, reasons.get(p.name, detail)) for p in programs_of(name))


def _load(request: Request, name: ObjectName, left_out: frozenset[str], *, fresh: bool) -> libbpf.LoadedObject:
    loaded = libbpf.LoadedObject(request.object_dir / name.file_name)
    try:
        for program in left_out:
            loaded.leave_out(program)
        if fresh:
            for item in maps_of(name):
                (request.pin_dir / item.name).unlink(missing_ok=True)
        loaded.pin_maps(request.pin_dir)
        loaded.load()
    except BaseException:
        loaded.__exit__()
        raise
    return loaded


def _attach_object(
    request: Request, name: ObjectName, reasons: dict[str, str], cgroup_fd: int | None, unit_id: int
) -> tuple[ProgramStatus, ...]:
    left_out = frozenset(reasons)
    try:
        loaded = _load(request, name, left_out, fresh=False)
    except BpfCallError as error:
        if error.errno != errno.EINVAL:
            raise
        # An older version pinned maps of another shape. Its programs keep them until they are replaced below.
        loaded = _load(request, name, left_out, fresh=True)
    with loaded:
        for item in maps_of(name):
            _set_access(request, item)
        if name is ObjectName.ADMISSION:
            set_policy(loaded.map_fd("fedge_allow"), request.allow)
        return tuple(_attach_program(request, loaded, p, reasons, cgroup_fd, unit_id) for p in programs_of(name))


def _set_access(request: Request, item: PinnedMap) -> None:
    path = request.pin_dir / item.name
    if request.reader_gid is not None:
        os.chown(path, -1, request.reader_gid)
    path.chmod(item.access.value if request.reader_gid is not None else 0o600)


def set_policy(map_fd: int, allow: tuple[Allowed, ...]) -> None:
    """Makes the trie hold exactly `allow`; what stays allowed is allowed throughout."""
    wanted = {entry.key(): number for number, entry in enumerate(allow, start=1)}
    lib = libbpf.library()
    for key, number in wanted.items():
        libbpf.checked(lib.bpf_map_update_elem(map_fd, key, struct.pack("=I", number), 0), "cannot add an allow entry")
    for key in set(libbpf.keys(map_fd, PEER.size)) - set(wanted):
        libbpf.checked(lib.bpf_map_delete_elem(map_fd, key), "cannot take an allow entry away")


def _attach_program(
    request: Request,
    loaded: libbpf.LoadedObject,
    program: Program,
    reasons: dict[str, str],
    cgroup_fd: int | None,
    unit_id: int,
) -> ProgramStatus:
    pin = request.pin_dir / program.name
    if program.name in reasons:
        pin.unlink(missing_ok=True)
        return ProgramStatus(program, State.ABSENT, reasons[program.name])
    if program.on_cgroup and link_cgroup_id(pin) == unit_id:
        link_fd = libbpf.open_pin(pin)
        try:
            result = libbpf.library().bpf_link_update(link_fd, loaded.program_fd(program.name), None)
            libbpf.checked(result, f"cannot update {program.name}")
        finally:
            os.close(link_fd)
        return ProgramStatus(program, State.ATTACHED, change="updated")
    change = "reattached" if pin.exists() else "attached"
    fresh = request.pin_dir / f"{program.name}{_NEW}"
    fresh.unlink(missing_ok=True)
    loaded.attach_and_pin(program.name, fresh, cgroup_fd)
    pin.unlink(missing_ok=True)
    fresh.rename(pin)
    return ProgramStatus(program, State.ATTACHED, change=change)


def link_cgroup_id(pin: Path) -> int | None:
    """The id of the cgroup a pinned link guards; 0 when that cgroup is gone, None when there is no such pin."""
    try:
        descriptor = libbpf.open_pin(pin)
    except BpfCallError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    try:
        return int(libbpf.link_info(descriptor, str(pin)).cgroup_id)
    finally:
        os.close(descriptor)


def status(pin_dir: Path, cgroup: Path | None) -> tuple[ProgramStatus, ...]:
    """The state of every program, without changing anything. With `cgroup`, a link to another cgroup is stale."""
    unit_id = None if cgroup is None else cgroup_id(cgroup)
    return tuple(_program_status(pin_dir, program, unit_id) for program in PROGRAMS)


def _program_status(pin_dir: Path, program: Program, unit_id: int | None) -> ProgramStatus:
    linked = link_cgroup_id(pin_dir / program.name)
    if linked is None:
        return ProgramStatus(program, State.ABSENT, "no pinned link; run fedge-bpf attach")
    if program.on_cgroup and linked == 0:
        return ProgramStatus(program, State.STALE, "its cgroup is gone; run fedge-bpf attach")
    if program.on_cgroup and unit_id is not None and linked != unit_id:
        return ProgramStatus(program, State.STALE, f"guards cgroup {linked}, not {unit_id}; run fedge-bpf attach")
    return ProgramStatus(program, State.ATTACHED)


def detach(pin_dir: Path) -> int:
    """Removes every pin of ours, which detaches the programs. Returns how many pins there were."""
    if not pin_dir.is_dir():
        return 0
    removed = 0
    with _locked(pin_dir):
        names = [name for p in PROGRAMS for name in (p.name, f"{p.name}{_NEW}")] + [item.name for item in MAPS]
        for name in names:
            try:
                (pin_dir / name).unlink()
            except FileNotFoundError:
                continue
            removed += 1
        with contextlib.suppress(OSError):  # somebody else's pins are in it
            pin_dir.rmdir()
    return removed
