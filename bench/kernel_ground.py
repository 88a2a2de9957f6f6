"""A place for the kernel's benchmarks: pins, a cgroup and attached programs, and nothing of them left afterwards."""

import contextlib
import ctypes
import os
import struct
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from fedge_agent.kernel import libbpf
from fedge_agent.kernel.attach import detach
from fedge_agent.kernel.cgroup import cgroup2_mount
from fedge_agent.kernel.places import REPOSITORY_OBJECTS

AGENT = Path(__file__).parents[1] / "agent"
SYSTEM_PYTHON = "/usr/bin/python3"  # python3-bpfcc is the distribution's
_CGROUP_SKB = 8  # enum bpf_prog_type
_PRIVATE_TRACEFS = 'mount -t tracefs tracefs /sys/kernel/tracing && exec "$@"'
# The loader as its package runs it, and what it cost: the peak of /proc is this program's alone, unlike ru_maxrss,
# which is right for the child that reads options and configuration: it is forked, not executed.
_LOADER = """
import sys, time, resource
begin = time.monotonic()
from fedge_agent.kernel import loader
status = loader.main(sys.argv[1:])
child = resource.getrusage(resource.RUSAGE_CHILDREN)
cpu = time.process_time() + child.ru_utime + child.ru_stime
spent = child.ru_maxrss, (time.monotonic() - begin) * 1000, cpu * 1000
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak, *spent, file=sys.stderr)
sys.exit(status)
"""


class ProgramInfo(ctypes.Structure):
    """struct bpf_prog_info as far as the run statistics."""

    _fields_ = (
        ("head", ctypes.c_uint8 * 64),
        ("name", ctypes.c_char * 16),
        ("middle", ctypes.c_uint8 * 112),
        ("run_time_ns", ctypes.c_uint64),
        ("run_cnt", ctypes.c_uint64),
    )


class _TestRun(ctypes.Structure):
    """struct bpf_test_run_opts (bpf/bpf.h)."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class Ground:
    """A mounted BPF file system and a cgroup; use it as a context manager, as root."""

    def __init__(self) -> None:
        self._mount = Path(tempfile.mkdtemp(prefix="fedge-bench-"))
        self.pin_dir = self._mount / "fedge"
        self.cgroup = cgroup2_mount() / f"fedge-bench-{uuid.uuid4().hex[:8]}"

    def __enter__(self) -> Self:
        subprocess.run(["make", "-s", "-C", str(REPOSITORY_OBJECTS.parent)], check=True)
        subprocess.run(["mount", "-t", "bpf", "bpf", str(self._mount)], check=True)
        self.cgroup.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        detach(self.pin_dir)
        with contextlib.suppress(OSError):
            for child in self.cgroup.iterdir():
                if child.is_dir():
                    child.rmdir()
        self.cgroup.rmdir()
        subprocess.run(["umount", str(self._mount)], check=True)
        self._mount.rmdir()

    def attach(self, compiler: str, *options: str) -> dict[str, float]:
        """What the real loader costs, run as its unit runs it: `programs` attached, times, peaks of its two parts."""
        python = SYSTEM_PYTHON
        command = ["unshare", "-m", "sh", "-c", _PRIVATE_TRACEFS, "sh", python, "-IS" if compiler == "object" else "-E"]
        command += ["-c", f"import sys; sys.path.insert(0, {str(AGENT)!r})\n{_LOADER}", "attach"]
        command += ["--cgroup", str(self.cgroup), "--pin-dir", str(self.pin_dir), "--compiler", compiler]
        command += ["--object-dir", str(REPOSITORY_OBJECTS), "--budget-file", str(self._mount) + ".budget", *options]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        *programs, last = done.stdout.splitlines()
        names = ("peak_kib", "reader_peak_kib", "wall_ms", "cpu_ms")
        return {
            "programs": sum(line.startswith("attached ") for line in programs),
            "load_ms": float(last.split()[-2]),
            **dict(zip(names, map(float, done.stderr.split()[-4:]), strict=True)),
        }

    def detach(self) -> None:
        """Removes the programs, so that the next attach loads from nothing."""
        detach(self.pin_dir)

    def inside(self, *command: str) -> list[str]:
        """A command that runs in the guarded cgroup."""
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.cgroup), *command]

    def statistics(self, program: str) -> tuple[int, int]:
        """(ns, runs) while statistics were on."""
        info = ProgramInfo()
        length = ctypes.c_uint32(ctypes.sizeof(info))
        with self.program(program) as descriptor:
            result = libbpf.library().bpf_obj_get_info_by_fd(descriptor, ctypes.byref(info), ctypes.byref(length))
            libbpf.checked(result, "no program information")
        return int(info.run_time_ns), int(info.run_cnt)

    @contextlib.contextmanager
    def program(self, name: str) -> Iterator[int]:
        """A descriptor of an attached program."""
        link = libbpf.open_pin(self.pin_dir / name)
        try:
            number = libbpf.link_info(link, name).prog_id
        finally:
            os.close(link)
        descriptor = libbpf.checked(libbpf.library().bpf_prog_get_fd_by_id(number), name)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def test_run_ns(program: int, frame: bytes, repeat: int) -> int:
    """Ns a run of a cgroup_skb program on an Ethernet frame (BPF_PROG_TEST_RUN)."""
    buffer = ctypes.create_string_buffer(frame, len(frame))
    run = _TestRun(sz=ctypes.sizeof(_TestRun), data_in=ctypes.addressof(buffer), data_size_in=len(frame), repeat=repeat)
    libbpf.checked(libbpf.library().bpf_prog_test_run_opts(program, ctypes.byref(run)), "BPF_PROG_TEST_RUN")
    return int(run.duration)


@contextlib.contextmanager
def empty_program() -> Iterator[int]:
    """A cgroup_skb program that lets everything pass: `r0 = 1; exit`."""
    lib = libbpf.library()
    lib.bpf_prog_load.argtypes = (
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_void_p,
    )
    code = struct.pack("=BBhi", 0xB7, 0, 0, 1) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    descriptor = libbpf.checked(
        lib.bpf_prog_load(_CGROUP_SKB, b"fedge_nothing", b"GPL", code, 2, None), "an empty program"
    )
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def run_statistics() -> Iterator[None]:
    """Lets the kernel time every BPF program, for everybody, until the end."""
    lib = libbpf.library()
    lib.bpf_enable_stats.argtypes, lib.bpf_enable_stats.restype = (ctypes.c_int,), ctypes.c_int
    descriptor = libbpf.checked(lib.bpf_enable_stats(0), "cannot enable statistics")
    try:
        yield
    finally:
        os.close(descriptor)


def python(script: str, *arguments: object) -> list[str]:
    """A Python command of this environment."""
    return [sys.executable, "-c", script, *(str(argument) for argument in arguments)]
