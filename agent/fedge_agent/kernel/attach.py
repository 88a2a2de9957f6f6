"""Loads, attaches and pins what the table of programs says; run again, it changes only what differs.

Attached programs are replaced without an unguarded moment: cgroup links are updated in place, tracepoint links are
added before the old ones go, and allow entries are added before others are taken away. A pinned link whose cgroup has
been recreated guards nothing; it is found by its cgroup id and attached anew.
"""

import contextlib
import dataclasses
import enum
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedge_agent.kernel import budget, links, network_policy, tracepoints
from fedge_agent.kernel.builds import Loaded, Sources, load_admission, load_telemetry
from fedge_agent.kernel.cgroup import cgroup2_mount, cgroup_id, filesystem_of
from fedge_agent.kernel.errors import BpffsMissingError, CgroupError, KernelLayerError
from fedge_agent.kernel.network_policy import NetworkPolicy
from fedge_agent.kernel.programs import PROGRAMS, ObjectName, PinnedMap, Program, maps_of, programs_of
from fedge_agent.kernel.records import Budget

DEFAULT_PIN_DIR = Path("/sys/fs/bpf/fedge")
INSTALLED_OBJECTS = Path("/usr/lib/fedge/bpf")
REPOSITORY_OBJECTS = Path(__file__).parents[3] / "bpf" / "build"
_NEW = "new_"  # as prefix: fedge_wake_new is a program


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
    compiler: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What to attach where.

    Attributes:
        policy: of network admission; None: that is off, telemetry alone is attached.
        prior: the day's budget until now, where the pinned maps do not know it.
        day: for the budget, as `budget.today`.
        events: tracepoints that were opened beforehand, by program name; the others are opened when they are needed.
        reader_gid: group that may read the telemetry maps and the denial ring; None leaves them to root.
    """

    sources: Sources
    cgroup: Path
    policy: NetworkPolicy | None
    prior: Budget | None = None
    day: int = dataclasses.field(default_factory=budget.today)
    events: Mapping[str, int] = dataclasses.field(default_factory=dict)
    reader_gid: int | None = None

    @property
    def pin_dir(self) -> Path:
        """Where the pins go."""
        return self.sources.pin_dir


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


@contextlib.contextmanager
def open_events() -> Iterator[dict[str, int]]:
    """The tracepoints that can be opened now, for `Request.events`; closed at the end."""
    tracefs = tracepoints.find_tracefs()
    opened: dict[str, int] = {}
    try:
        for program in programs_of(ObjectName.TELEMETRY):
            if tracefs is not None:
                with contextlib.suppress(KernelLayerError):  # told when the program is attached
                    opened[program.name] = links.open_tracepoint(program, tracefs)
        yield opened
    finally:
        for descriptor in opened.values():
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
        if request.policy is None:
            _unpin(request.pin_dir, ObjectName.ADMISSION)
            off = 'kernel.network = "off"'
            admission = [ProgramStatus(p, State.ABSENT, off) for p in programs_of(ObjectName.ADMISSION)]
        else:
            admission = _attach_admission(request, request.policy, unit_id)
        telemetry = attach_telemetry(request)
        if request.reader_gid is not None:
            os.chown(request.pin_dir, -1, request.reader_gid)
            request.pin_dir.chmod(0o750)
    return (*admission, *telemetry)


def _attach_admission(request: Request, policy: NetworkPolicy, unit_id: int) -> list[ProgramStatus]:
    known = budget.read_kernel(request.pin_dir) if (request.pin_dir / "fedge_rule").exists() else None
    loaded = load_admission(request.sources)
    cgroup_fd = os.open(request.cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        prior = known[1] if known is not None and known[1].limit_bytes else request.prior
        network_policy.put(policy, loaded.build.map_fd, prior, request.day)
        _pin_maps(request, ObjectName.ADMISSION, loaded)
        found = [
            _attach_to_cgroup(request, loaded, program, cgroup_fd, unit_id)
            for program in programs_of(ObjectName.ADMISSION)
        ]
        _settle_maps(request, ObjectName.ADMISSION)
    finally:
        os.close(cgroup_fd)
        loaded.build.close()
    return found


def attach_telemetry(request: Request) -> tuple[ProgramStatus, ...]:
    """Starts telemetry alone, as far as this kernel has it; never raises."""
    name = ObjectName.TELEMETRY
    tracefs = tracepoints.find_tracefs()
    try:
        loaded = load_telemetry(request.sources, tracefs)
    except (KernelLayerError, OSError) as error:
        reasons = {p.name: tracepoints.mismatch(p, tracefs) or str(error).splitlines()[-1] for p in programs_of(name)}
        return tuple(ProgramStatus(p, State.ABSENT, reasons[p.name]) for p in programs_of(name))
    try:
        _pin_maps(request, name, loaded)
        found = tuple(_attach_to_tracepoint(request, loaded, program, tracefs) for program in programs_of(name))
        _settle_maps(request, name)
    finally:
        loaded.build.close()
    return found


def _pin_maps(request: Request, name: ObjectName, loaded: Loaded) -> None:
    """Pins a build's own maps beside the present ones, which their programs keep until they are replaced."""
    for item in maps_of(name):
        fresh = request.pin_dir / f"{_NEW}{item.name}"
        fresh.unlink(missing_ok=True)
        if loaded.own_maps:
            links.pin_object(loaded.build.map_fd(item.name), fresh)
            _set_access(request, item, fresh)
        else:
            _set_access(request, item, request.pin_dir / item.name)


def _settle_maps(request: Request, name: ObjectName) -> None:
    for item in maps_of(name):
        fresh = request.pin_dir / f"{_NEW}{item.name}"
        if fresh.exists():
            (request.pin_dir / item.name).unlink(missing_ok=True)
            fresh.rename(request.pin_dir / item.name)


def _set_access(request: Request, item: PinnedMap, path: Path) -> None:
    if request.reader_gid is not None:
        os.chown(path, -1, request.reader_gid)
    path.chmod(item.access.value if request.reader_gid is not None else 0o600)


def _attach_to_cgroup(
    request: Request, loaded: Loaded, program: Program, cgroup_fd: int, unit_id: int
) -> ProgramStatus:
    pin = request.pin_dir / program.name
    program_fd = loaded.build.program_fd(program.name)
    if links.link_cgroup_id(pin) == unit_id:
        links.replace_program(program, program_fd, pin)
        return ProgramStatus(program, State.ATTACHED, change="updated", compiler=loaded.compiler.value)
    change = "reattached" if pin.exists() else "attached"
    fresh = request.pin_dir / f"{_NEW}{program.name}"
    fresh.unlink(missing_ok=True)
    links.attach_to_cgroup(program, program_fd, cgroup_fd, fresh)
    _put_in_place(fresh, pin)
    return ProgramStatus(program, State.ATTACHED, change=change, compiler=loaded.compiler.value)


def _attach_to_tracepoint(request: Request, loaded: Loaded, program: Program, tracefs: Path | None) -> ProgramStatus:
    pin = request.pin_dir / program.name
    if tracefs is None or program.name in loaded.left_out:
        pin.unlink(missing_ok=True)
        return ProgramStatus(program, State.ABSENT, loaded.left_out.get(program.name, "tracefs is not mounted"))
    change = "reattached" if pin.exists() else "attached"
    fresh = request.pin_dir / f"{_NEW}{program.name}"
    fresh.unlink(missing_ok=True)
    try:
        event_fd = request.events.get(program.name)
        event_fd = os.dup(event_fd) if event_fd is not None else links.open_tracepoint(program, tracefs)
        try:
            links.attach_to_tracepoint(program, loaded.build.program_fd(program.name), event_fd, fresh)
        finally:
            os.close(event_fd)
    except KernelLayerError as error:
        pin.unlink(missing_ok=True)
        return ProgramStatus(program, State.ABSENT, str(error).splitlines()[-1])
    _put_in_place(fresh, pin)
    return ProgramStatus(program, State.ATTACHED, change=change, compiler=loaded.compiler.value)


def _put_in_place(fresh: Path, pin: Path) -> None:
    pin.unlink(missing_ok=True)
    fresh.rename(pin)


def status(pin_dir: Path, cgroup: Path | None) -> tuple[ProgramStatus, ...]:
    """The state of every program, without changing anything. With `cgroup`, a link to another cgroup is stale."""
    unit_id = None if cgroup is None else cgroup_id(cgroup)
    return tuple(_program_status(pin_dir, program, unit_id) for program in PROGRAMS)


def _program_status(pin_dir: Path, program: Program, unit_id: int | None) -> ProgramStatus:
    linked = links.link_cgroup_id(pin_dir / program.name)
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
    with _locked(pin_dir):
        removed = sum(_unpin(pin_dir, name) for name in ObjectName)
        with contextlib.suppress(OSError):  # somebody else's pins are in it
            pin_dir.rmdir()
    return removed


def _unpin(pin_dir: Path, name: ObjectName) -> int:
    removed = 0
    for item in (*(p.name for p in programs_of(name)), *(m.name for m in maps_of(name))):
        for pin in (pin_dir / item, pin_dir / f"{_NEW}{item}"):
            try:
                pin.unlink()
            except FileNotFoundError:
                continue
            removed += 1
    return removed
