"""BPF links: made from a program's descriptor, whichever compiler made it, pinned, and told apart by cgroup id."""

import ctypes
import errno
import os

from fedge_agent.kernel import libbpf
from fedge_agent.kernel.errors import BpfCallError
from fedge_agent.kernel.programs import Program
from fedge_agent.kernel.text_files import StrPath, read_text

# perf_event_open(2): its number on each machine, and struct perf_event_attr up to version 1.
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "armv7l": 364, "armv6l": 364, "i686": 336}
_TYPE_TRACEPOINT = 2
_CLOSE_ON_EXEC = 1 << 3


class _PerfAttributes(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_events", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("config1", ctypes.c_uint64),
        ("config2", ctypes.c_uint64),
    )


def attach_to_cgroup(program: Program, program_fd: int, cgroup_fd: int, pin: StrPath) -> None:
    """Attaches a cgroup program, and pins its link."""
    _create(program, program_fd, cgroup_fd, pin)


def attach_to_tracepoint(program: Program, program_fd: int, event_fd: int, pin: StrPath) -> None:
    """Attaches a tracepoint program on every CPU, and pins its link (kernel 5.15 and later)."""
    _create(program, program_fd, event_fd, pin)


def open_tracepoint(program: Program, tracefs: StrPath) -> int:
    """The event that a program attaches to; the caller closes it.

    Debian's kernels ask for CAP_SYS_ADMIN here (kernel.perf_event_paranoid = 3), which nothing else of the loader
    needs: it opens the events before it gives that up.

    Raises:
        BpfCallError: the kernel has no such event, or refuses.
    """
    category, event = program.tracepoint
    place = os.path.join(tracefs, "events", category, event, "id")
    try:
        number = int(read_text(place))
    except (OSError, ValueError) as error:
        raise BpfCallError(f"cannot read {place}", getattr(error, "errno", None) or errno.EINVAL) from error
    return _open_event(number, program.name)


def _create(program: Program, program_fd: int, target_fd: int, pin: StrPath) -> None:
    created = libbpf.library().bpf_link_create(program_fd, target_fd, program.attach_type, None)
    link_fd = libbpf.checked(created, f"cannot attach {program.name}")
    try:
        pin_object(link_fd, pin)
    finally:
        os.close(link_fd)  # a pinned link lives on


def pin_object(descriptor: int, pin: StrPath) -> None:
    """Gives a link or map a name in a BPF file system, which keeps it alive."""
    libbpf.checked(libbpf.library().bpf_obj_pin(descriptor, os.fsencode(pin)), f"cannot pin {pin}")


def _open_event(number: int, name: str) -> int:
    machine = os.uname().machine
    if machine not in _PERF_EVENT_OPEN:
        raise BpfCallError(
            f"cannot attach {name}: the number of perf_event_open on {machine} is not known", errno.ENOSYS
        )
    attributes = _PerfAttributes(type=_TYPE_TRACEPOINT, size=ctypes.sizeof(_PerfAttributes), config=number)
    attributes.sample_period = attributes.wakeup_events = 1
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    everybody, any_cpu, no_group = ctypes.c_long(-1), ctypes.c_long(0), ctypes.c_long(-1)
    made = libc.syscall(
        ctypes.c_long(_PERF_EVENT_OPEN[machine]),
        ctypes.byref(attributes),
        everybody,
        any_cpu,
        no_group,
        ctypes.c_ulong(_CLOSE_ON_EXEC),
    )
    cure = "CAP_SYS_ADMIN is needed while kernel.perf_event_paranoid is 3, else CAP_PERFMON"
    return libbpf.checked(made, f"cannot open the tracepoint of {name}", cure)


def replace_program(program: Program, program_fd: int, pin: StrPath) -> None:
    """Puts another program behind a pinned cgroup link; there is no moment without one."""
    link_fd = libbpf.open_pin(pin)
    try:
        result = libbpf.library().bpf_link_update(link_fd, program_fd, None)
        libbpf.checked(result, f"cannot update {program.name}")
    finally:
        os.close(link_fd)


def link_cgroup_id(pin: StrPath) -> int | None:
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
