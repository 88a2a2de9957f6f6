"""What keeps a worker from hurting its host: applied by the worker to itself, before it reads any data.

Two steps. `confine_process` at once after start; `confine_files` when the paths of the one request are known. Each
measure reports "on" or the reason why not, because kernels and containers differ; nothing here can be undone by the
process. No numpy: it runs before the imports that cost.
"""

import contextlib
import ctypes
import errno
import os
import resource
import signal
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

ON = "on"

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446  # same on every architecture
_LANDLOCK_CREATE_RULESET_VERSION, _LANDLOCK_RULE_PATH_BENEATH = 1, 1
_O_PATH = 0o10000000

_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS_ABI_1, _REFER, _TRUNCATE, _IOCTL_DEVICE = (1 << 13) - 1, 1 << 13, 1 << 14, 1 << 15
_WRITE = (1 << 1) | (1 << 5) | (1 << 8)  # write a file, remove a file, make a regular file
_BIND_AND_CONNECT_TCP, _SCOPE_SOCKETS_AND_SIGNALS = 3, 3
_NETWORK_ABI, _SCOPE_ABI = 4, 6  # Linux 6.7 and 6.12

_SECCOMP_MODE_FILTER = 2
_SECCOMP_RET_ALLOW, _SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_RET|K
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4  # in struct seccomp_data
_IO_URING_SETUP, _X32 = 425, 0x40000000
# machine: (AUDIT_ARCH_*, number of socket(2))
_SOCKET_CALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}

_libc = ctypes.CDLL(None, use_errno=True)


def confine_process(parent_pid: int, *, nice: int, idle: bool) -> dict[str, str]:
    """Die with the parent, leave no core dump, gain no privilege, run behind everything else, and lose the network.

    Args:
        parent_pid: the process whose end is also this one's.
        nice: steps towards less CPU, 0 to 19.
        idle: run under SCHED_IDLE, i.e. only on CPU time that nobody else wants.

    Raises:
        ProcessLookupError: the parent is gone already.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    measures = {"priority": _yield_cpu(nice, idle=idle), "network": _leave_network()}
    # After that, so that no kernel's treatment of a change of credentials can undo them.
    measures["parent-death"] = _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    measures["not-dumpable"] = _prctl(_PR_SET_DUMPABLE, 0)
    if os.getppid() != parent_pid:
        raise ProcessLookupError(f"the parent, process {parent_pid}, has ended")
    measures["no-new-privileges"] = _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    return measures


def confine_files(*, readable: Iterable[Path], writable_directory: Path | None) -> dict[str, str]:
    """Allow of the file system only to read `readable` and to read and write inside `writable_directory` (Landlock).

    Files already open stay open. Modules must be imported before. Kernels from 6.7 also refuse TCP, from 6.12 signals
    and abstract sockets to the outside. A path that does not exist gets no rule: opening it fails as it would anyway.
    """
    abi = _libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_CREATE_RULESET_VERSION)
    if abi < 1:
        return {"landlock": f"off: the kernel has no Landlock ({_last_error()})"}
    handled = _handled_rights(abi)
    attribute = struct.pack("=Q", handled)
    attribute += struct.pack("=Q", _BIND_AND_CONNECT_TCP) if abi >= _NETWORK_ABI else b""
    attribute += struct.pack("=Q", _SCOPE_SOCKETS_AND_SIGNALS) if abi >= _SCOPE_ABI else b""
    ruleset = _libc.syscall(_LANDLOCK_CREATE_RULESET, attribute, ctypes.c_size_t(len(attribute)), 0)
    if ruleset < 0:
        return {"landlock": f"off: {_last_error()}"}
    try:
        reading = _READ_FILE | _READ_DIR
        rules = [(path, reading) for path in readable]
        if writable_directory is not None:
            rules.append((writable_directory, (reading | _WRITE | _TRUNCATE) & handled))
        for path, rights in rules:
            _allow(ruleset, path, rights)
        if _libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) != 0:
            return {"landlock": f"off: {_last_error()}"}
    finally:
        os.close(ruleset)
    return {"landlock": ON}


def _handled_rights(abi: int) -> int:
    rights = _FILE_RIGHTS_ABI_1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEVICE)):
        rights |= right if abi >= since else 0
    return rights


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, _O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= ~_READ_DIR
        rule = struct.pack("=Qi", rights, descriptor)
        if _libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0) != 0:
            raise OSError(ctypes.get_errno(), f"Landlock refused a rule for {path}: {_last_error()}")
    finally:
        os.close(descriptor)


def _yield_cpu(nice: int, *, idle: bool) -> str:
    if nice:  # even nice(0) is a call that a unit's filter may refuse
        os.nice(nice)
    if not idle:
        return f"nice {nice}"
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError as error:
        return f"nice {nice}, no SCHED_IDLE: {error.strerror}"
    return ON


def take_a_turn() -> None:
    """Run like anybody else from here on, for the few milliseconds of masking: who starves then looks like a drop-out.

    The process may do so as far as its RLIMIT_NICE allows: 1 to leave SCHED_IDLE, 20 to leave nice 19 for 0.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def _leave_network() -> str:
    """Move into a network namespace that has nothing but a loopback that is down, and have new sockets refused.

    Where one of the two cannot be had, the other serves: the namespace for machines whose calls the filter does not
    know, the filter in a unit that may make no namespaces. A namespace alone leaves the sockets of local services:
    they are files, and Landlock lets anybody connect to them.
    """
    moved, filtered = _move_away(), _refuse_sockets()
    if filtered == ON:
        return moved if moved.startswith(ON) else ON
    return f"{moved}; local sockets are not refused: {filtered}"


def _move_away() -> str:
    if _libc.unshare(_CLONE_NEWNET) == 0:
        return ON
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return f"off: no namespace: {_last_error()}"
    dropped = _drop_capabilities()
    return ON if dropped == ON else f"on, but capabilities in the new user namespace remain: {dropped}"


def _refuse_sockets() -> str:
    """Have the kernel refuse every new socket. Pipes and open files stay."""
    known = _SOCKET_CALLS.get(os.uname().machine)
    if known is None:
        return f"off: the number of socket(2) on {os.uname().machine} is not known"
    architecture, socket_number = known
    refuse = 7  # line of the filter that refuses; jumps count from the next line
    program = (
        (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
        (_EQUAL, 0, refuse - 2, architecture),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        (_AT_LEAST, refuse - 4, 0, _X32),
        (_EQUAL, refuse - 5, 0, socket_number),
        (_EQUAL, refuse - 6, 0, _IO_URING_SETUP),
        (_RETURN, 0, 0, _SECCOMP_RET_ALLOW),
        (_RETURN, 0, 0, _SECCOMP_RET_ERRNO | errno.EPERM),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    header = struct.pack("@HP", len(program), ctypes.addressof(code))
    done = _prctl(_PR_SET_NO_NEW_PRIVS, 1)  # without it a filter needs a capability
    if done != ON:
        return done
    unused = ctypes.c_ulong(0)
    result = _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), header, unused, unused)
    return ON if result == 0 else f"off: {_last_error()}"


def _drop_capabilities() -> str:
    """Give up what a new user namespace grants inside itself."""
    header, nothing = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    return ON if _libc.capset(header, nothing) == 0 else _last_error()


def _prctl(option: int, value: int) -> str:
    unused = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(value), unused, unused, unused) == 0:
        return ON
    return f"off: {_last_error()}"


def _last_error() -> str:
    number = ctypes.get_errno()
    return f"{errno.errorcode.get(number, number)}: {os.strerror(number)}"
