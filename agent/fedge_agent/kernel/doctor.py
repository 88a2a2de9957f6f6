"""The kernel part of `fedge-agent doctor`, as data: what is there, what is not, and the cure."""

import ctypes
import dataclasses
import enum
import os
from collections.abc import Callable
from pathlib import Path

from fedge_agent.kernel import libbpf, tracepoints
from fedge_agent.kernel.cgroup import cgroup2_mount, filesystem_of
from fedge_agent.kernel.errors import KernelLayerError
from fedge_agent.kernel.pressure import Resource, read_pressure
from fedge_agent.kernel.programs import PROGRAMS, Feature
from fedge_agent.kernel.reader import MapReader
from fedge_agent.kernel.records import Counter
from fedge_agent.kernel.selftest import run_selftest

_TIMEX_BYTES = 256  # struct timex is 208 on 64-bit
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


class Grade(enum.Enum):
    """How a check went: `warn` is a degraded but honest agent, `fail` one that does not do what it promises."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    grade: Grade
    detail: str
    cure: str = ""


def _graded(name: str, passed: bool, detail: str, cure: str, otherwise: Grade) -> Check:  # noqa: FBT001 - a condition
    return Check(name, Grade.OK, detail) if passed else Check(name, otherwise, detail, cure)


def check_libbpf() -> Check:
    """libbpf.so.1 loads."""
    try:
        libbpf.library()
    except KernelLayerError as error:
        return Check("libbpf", Grade.FAIL, str(error), "apt install libbpf1")
    return Check("libbpf", Grade.OK, f"{libbpf.SONAME} loaded")


def check_btf(root: Path) -> Check:
    """Kernel BTF; our objects do without, other tools do not."""
    present = (root / "sys/kernel/btf/vmlinux").exists()
    return Check("kernel BTF", Grade.OK, "present" if present else "absent; Fedge's programs do not need it")


def check_bpffs(pin_dir: Path) -> Check:
    """The pin directory lies on a BPF file system."""
    kind = filesystem_of(pin_dir)
    return _graded("bpffs", kind == "bpf", f"{pin_dir} is on {kind}", "mount -t bpf bpf /sys/fs/bpf", Grade.FAIL)


def check_cgroup2(root: Path) -> Check:
    """Control groups v2 are mounted somewhere."""
    try:
        return Check("cgroup v2", Grade.OK, f"mounted at {cgroup2_mount(root)}")
    except KernelLayerError as error:
        return Check("cgroup v2", Grade.FAIL, str(error), "mount -t cgroup2 none /sys/fs/cgroup/unified")


def check_programs(pin_dir: Path) -> Check:
    """Every program of the table has a pinned link."""
    name = "BPF programs"
    try:
        pin_dir.stat()
        present = {program.name for program in PROGRAMS if (pin_dir / program.name).exists()}
    except FileNotFoundError:
        return Check(name, Grade.FAIL, f"{pin_dir} does not exist", "run fedge-bpf attach as root")
    except OSError as error:
        cure = "fedge-bpf attach --reader-gid GID, and search permission on the parents of the pin directory"
        return Check(name, Grade.WARN, f"{pin_dir}: {error.strerror}", cure)
    absent = [p for p in PROGRAMS if p.name not in present]
    if not absent:
        return Check(name, Grade.OK, f"{len(PROGRAMS)} of {len(PROGRAMS)} attached")
    serious = any(p.feature is Feature.NETWORK_ADMISSION for p in absent)
    listed = ", ".join(f"{p.name} ({p.substitute or 'no substitute'})" for p in absent)
    cure = "fedge-bpf attach -o text says why"
    return Check(name, Grade.FAIL if serious else Grade.WARN, f"not attached: {listed}", cure)


def refusals(reader: MapReader) -> int:
    """The kernel's total of refused peers, for `run_selftest`."""
    totals = reader.network()
    return totals[Counter.DENIED_CONNECT] + totals[Counter.DENIED_SENDMSG] + totals[Counter.DENIED_EGRESS]


def check_selftest(pin_dir: Path) -> Check:
    """A forbidden connect from this process gets EPERM; only meaningful inside the agent's cgroup."""
    with MapReader(pin_dir) as reader:
        readable = reader.unreadable("fedge_count") is None
        result = run_selftest((lambda: refusals(reader)) if readable else None)
    cure = "run in the agent's cgroup; fedge-bpf status --cgroup PATH shows what is guarded"
    return _graded("network admission", result.enforced, result.detail, cure, Grade.FAIL)


def check_pressure(root: Path) -> Check:
    """PSI, without which training admission has no CPU signal."""
    absent = [r.value for r in Resource if read_pressure(root / "proc/pressure" / r.value) is None]
    detail = f"no /proc/pressure/{{{','.join(absent)}}}" if absent else "cpu, memory, io"
    return _graded("pressure (PSI)", not absent, detail, "boot with psi=1 on the kernel command line", Grade.WARN)


def check_tracefs(root: Path) -> Check:
    """The trace file system is mounted, and its layout is what the telemetry programs were compiled for."""
    place = tracepoints.find_tracefs(root)
    if place is None:
        return Check("tracefs", Grade.WARN, "not mounted", "mount -t tracefs tracefs /sys/kernel/tracing")
    if os.geteuid() != 0:
        return Check("tracefs", Grade.OK, f"{place} (its layout is checked by fedge-bpf attach)")
    wrong = [why for p in PROGRAMS if not p.on_cgroup and (why := tracepoints.mismatch(p, place))]
    return _graded("tracefs", not wrong, "; ".join(wrong) or f"{place}", "these programs have substitutes", Grade.WARN)


def clock_synchronised() -> bool:
    """Whether the kernel holds the clock to be synchronised (adjtimex, read only)."""
    libc = ctypes.CDLL(None)
    return int(libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))) not in (-1, _TIME_ERROR)


def check_clock(synchronised: Callable[[], bool] = clock_synchronised) -> Check:
    """Certificates and receipts carry times, so a wrong clock keeps the device out of rounds."""
    passed = synchronised()
    detail = "synchronised" if passed else "the kernel does not hold it for synchronised"
    return _graded("clock", passed, detail, "apt install systemd-timesyncd or chrony, and wait", Grade.WARN)


def run_checks(pin_dir: Path, *, root: Path = Path("/")) -> tuple[Check, ...]:
    """All checks of the kernel layer, in the order to cure them."""
    return (
        check_libbpf(),
        check_btf(root),
        check_bpffs(pin_dir),
        check_cgroup2(root),
        check_tracefs(root),
        check_programs(pin_dir),
        check_selftest(pin_dir),
        check_pressure(root),
        check_clock(),
    )
