"""Loads, attaches and pins what the table of programs says; run again, it changes only what differs.

Attached programs are replaced without an unguarded moment: cgroup links are updated in place, tracepoint links are
added before the old ones go, and allow entries are added before others are taken away. A pinned link whose cgroup has
been recreated guards nothing; it is found by its cgroup id and attached anew.
"""

import contextlib
import enum
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping

from fedge_agent.kernel import budget, links, network_policy, tracepoints
from fedge_agent.kernel.builds import Loaded, Sources, load_admission, load_telemetry
from fedge_agent.kernel.cgroup import cgroup2_place, cgroup_id, filesystem_of
from fedge_agent.kernel.errors import BpffsMissingError, CgroupError, KernelLayerError
from fedge_agent.kernel.frozen import dataclass
from fedge_agent.kernel.network_policy import NetworkPolicy
from fedge_agent.kernel.policy_records import Budget
from fedge_agent.kernel.programs import PROGRAMS, ObjectName, PinnedMap, Program, maps_of, programs_of
from fedge_agent.kernel.text_files import StrPath, remove

_NEW = "new_"  # as prefix: fedge_wake_new is a program


class State(enum.Enum):
    """What became of a program."""

    ATTACHED = "attached"
    STALE = "stale"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class ProgramStatus:
    """One line of the health report; `detail` says why when it is not attached, `change` what attach did."""

    program: Program
    state: State
    detail: str = ""
    change: str = ""
    compiler: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What to attach where.

    Attributes:
        policy: of network admission; None: that is off, telemetry alone is attached.
        prior: the day's budget until now, where the pinned maps do not know it.
        day: for the budget, as `budget_file.today`.
        events: tracepoints that were opened beforehand, by program name; the others are opened when they are needed.
        reader_gid: group that may read the telemetry maps and the denial ring; None leaves them to root.
    """

    sources: Sources
    cgroup: StrPath
    policy: NetworkPolicy | None
    prior: Budget | None
    day: int
    events: Mapping[str, int]
    reader_gid: int | None = None

    @property
    def pin_dir(self) -> StrPath:
        """Where the pins go."""
        return self.sources.pin_dir

    def pin(self, name: str) -> str:
        """The pin of a program or map."""
        return os.path.join(self.sources.pin_dir, name)

    def fresh_pin(self, name: str) -> str:
        """As `pin`, of the one that will take its place."""
        return os.path.join(self.sources.pin_dir, f"{_NEW}{name}")


def require_bpffs(pin_dir: StrPath) -> None:
    """Refuses a pin directory that is not on a BPF file system.

    Raises:
        BpffsMissingError: says how to mount one; this program mounts nothing.
    """
    kind = filesystem_of(pin_dir)
    if kind != "bpf":
        cure = "mount -t bpf bpf /sys/fs/bpf (systemd does it at boot)"
        raise BpffsMissingError(f"{pin_dir} lies on {kind}, not on a BPF file system; {cure}")


def closed_parent(pin_dir: StrPath) -> str | None:
    """The highest directory above the pins that others may not search (systemd mounts /sys/fs/bpf with mode 0700)."""
    closed, place = None, os.path.abspath(pin_dir)
    while place != "/":
        place = os.path.dirname(place)
        if not os.stat(place).st_mode & 0o001:
            closed = place
    return closed


def require_own(pin_dir: StrPath) -> None:
    """Refuses a pin directory that others made or may change: they could take the pins away, and the guard with them.

    A BPF file system that was mounted by hand lets everybody make directories (mode 1777).

    Raises:
        KernelLayerError: names the owner and the cure.
    """
    status = os.lstat(pin_dir)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        raise KernelLayerError(
            f"{pin_dir} belongs to uid {status.st_uid} with mode {mode:04o}: no directory that root alone changes; "
            f"rm -r {pin_dir}, and mount its file system with mode=0700"
        )


@contextlib.contextmanager
def _locked(pin_dir: StrPath) -> Iterator[None]:
    require_own(pin_dir)
    descriptor = os.open(pin_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
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
    if os.path.realpath(request.cgroup) == cgroup2_place():
        raise CgroupError(f"{request.cgroup} is the root cgroup, the whole machine; name the agent's own cgroup")
    with contextlib.suppress(FileExistsError):
        os.mkdir(request.pin_dir, mode=0o700)
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
            # by name, not to list: whoever may open it for reading may lock it, and hold every loader up
            os.chmod(request.pin_dir, 0o710)  # noqa: S103 - the daemon's group, nobody else
    return (*admission, *telemetry)


def _attach_admission(request: Request, policy: NetworkPolicy, unit_id: int) -> list[ProgramStatus]:
    known = budget.read_kernel(request.pin_dir) if os.path.exists(request.pin("fedge_rule")) else None
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
        fresh = request.fresh_pin(item.name)
        remove(fresh)
        if loaded.own_maps:
            links.pin_object(loaded.build.map_fd(item.name), fresh)
            _set_access(request, item, fresh)
        else:
            _set_access(request, item, request.pin(item.name))


def _settle_maps(request: Request, name: ObjectName) -> None:
    for item in maps_of(name):
        fresh = request.fresh_pin(item.name)
        if os.path.exists(fresh):
            _put_in_place(fresh, request.pin(item.name))


def _set_access(request: Request, item: PinnedMap, path: str) -> None:
    if request.reader_gid is not None:
        os.chown(path, -1, request.reader_gid)
    os.chmod(path, item.access.value if request.reader_gid is not None else 0o600)


def _attach_to_cgroup(
    request: Request, loaded: Loaded, program: Program, cgroup_fd: int, unit_id: int
) -> ProgramStatus:
    pin = request.pin(program.name)
    program_fd = loaded.build.program_fd(program.name)
    if links.link_cgroup_id(pin) == unit_id:
        links.replace_program(program, program_fd, pin)
        return ProgramStatus(program, State.ATTACHED, change="updated", compiler=loaded.compiler.value)
    change = "reattached" if os.path.exists(pin) else "attached"
    fresh = request.fresh_pin(program.name)
    remove(fresh)
    links.attach_to_cgroup(program, program_fd, cgroup_fd, fresh)
    _put_in_place(fresh, pin)
    return ProgramStatus(program, State.ATTACHED, change=change, compiler=loaded.compiler.value)


def _attach_to_tracepoint(request: Request, loaded: Loaded, program: Program, tracefs: StrPath | None) -> ProgramStatus:
    pin = request.pin(program.name)
    if tracefs is None or program.name in loaded.left_out:
        remove(pin)
        return ProgramStatus(program, State.ABSENT, loaded.left_out.get(program.name, "tracefs is not mounted"))
    change = "reattached" if os.path.exists(pin) else "attached"
    fresh = request.fresh_pin(program.name)
    remove(fresh)
    try:
        event_fd = request.events.get(program.name)
        event_fd = os.dup(event_fd) if event_fd is not None else links.open_tracepoint(program, tracefs)
        try:
            links.attach_to_tracepoint(program, loaded.build.program_fd(program.name), event_fd, fresh)
        finally:
            os.close(event_fd)
    except KernelLayerError as error:
        remove(pin)
        return ProgramStatus(program, State.ABSENT, str(error).splitlines()[-1])
    _put_in_place(fresh, pin)
    return ProgramStatus(program, State.ATTACHED, change=change, compiler=loaded.compiler.value)


def _put_in_place(fresh: str, pin: str) -> None:
    remove(pin)  # a BPF file system renames onto nothing
    os.rename(fresh, pin)


def status(pin_dir: StrPath, cgroup: StrPath | None) -> tuple[ProgramStatus, ...]:
    """The state of every program, without changing anything. With `cgroup`, a link to another cgroup is stale."""
    unit_id = None if cgroup is None else cgroup_id(cgroup)
    return tuple(_program_status(pin_dir, program, unit_id) for program in PROGRAMS)


def _program_status(pin_dir: StrPath, program: Program, unit_id: int | None) -> ProgramStatus:
    linked = links.link_cgroup_id(os.path.join(pin_dir, program.name))
    if linked is None:
        return ProgramStatus(program, State.ABSENT, "no pinned link; run fedge-bpf attach")
    if program.on_cgroup and linked == 0:
        return ProgramStatus(program, State.STALE, "its cgroup is gone; run fedge-bpf attach")
    if program.on_cgroup and unit_id is not None and linked != unit_id:
        return ProgramStatus(program, State.STALE, f"guards cgroup {linked}, not {unit_id}; run fedge-bpf attach")
    return ProgramStatus(program, State.ATTACHED)


def detach(pin_dir: StrPath) -> int:
    """Removes every pin of ours, which detaches the programs. Returns how many pins there were."""
    if not os.path.isdir(pin_dir):
        return 0
    with _locked(pin_dir):
        removed = sum(_unpin(pin_dir, name) for name in ObjectName)
        with contextlib.suppress(OSError):  # somebody else's pins are in it
            os.rmdir(pin_dir)
    return removed


def _unpin(pin_dir: StrPath, name: ObjectName) -> int:
    names = (*(p.name for p in programs_of(name)), *(m.name for m in maps_of(name)))
    return sum(remove(os.path.join(pin_dir, pin)) for item in names for pin in (item, f"{_NEW}{item}"))
