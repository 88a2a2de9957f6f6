"""A BPF file system, cgroups and loaded programs for tests, and nothing of them left afterwards."""

import contextlib
import ctypes
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedge_agent.kernel import libbpf
from fedge_agent.kernel.allowlist import parse_policy
from fedge_agent.kernel.attach import detach
from fedge_agent.kernel.cgroup import cgroup2_mount
from fedge_agent.kernel.errors import BpfCallError, KernelLayerError
from fedge_agent.kernel.network_policy import NetworkPolicy, put
from fedge_agent.kernel.places import REPOSITORY_OBJECTS
from fedge_agent.kernel.policy_records import Budget, Rule
from fedge_agent.kernel.programs import PROGRAMS

CLIENT = Path(__file__).with_name("client.py")
IN_CGROUP = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
PRIVATE_TRACEFS = 'mount -t tracefs tracefs /sys/kernel/tracing && exec "$@"'


@pytest.fixture(scope="session")
def objects() -> Path:
    built = subprocess.run(
        ["make", "-s", "-C", str(REPOSITORY_OBJECTS.parent)], check=False, capture_output=True, text=True
    )
    if built.returncode != 0:
        pytest.skip(
            f"BPF objects cannot be built; apt install clang llvm libbpf-dev make ({built.stderr.strip()[-200:]})"
        )
    return REPOSITORY_OBJECTS


@pytest.fixture(scope="session")
def root_privilege() -> None:
    if os.geteuid() != 0:
        pytest.skip("loading BPF programs needs root; run with sudo")


@pytest.fixture
def bpffs(root_privilege) -> Iterator[Path]:
    # Not under tmp_path, whose parents are closed to the unprivileged readers of some tests.
    place = Path(tempfile.mkdtemp(prefix="fedge-bpf-"))
    place.chmod(0o755)
    mounted = subprocess.run(["mount", "-t", "bpf", "bpf", str(place)], check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        place.rmdir()
        pytest.skip(f"a BPF file system cannot be mounted here; needs CAP_SYS_ADMIN ({mounted.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


def linked_programs(pin_dir: Path) -> dict[str, tuple[int, int]]:
    """Name of each pinned link -> (link id, program id)."""
    found = {}
    for program in PROGRAMS:
        with contextlib.suppress(BpfCallError):
            descriptor = libbpf.open_pin(pin_dir / program.name)
            info = libbpf.link_info(descriptor, program.name)
            found[program.name] = (info.id, info.prog_id)
            os.close(descriptor)
    return found


def is_loaded(program_id: int) -> bool:
    descriptor = libbpf.library().bpf_prog_get_fd_by_id(program_id)
    if descriptor >= 0:
        os.close(descriptor)
    return bool(descriptor >= 0)


@pytest.fixture
def pin_dir(bpffs) -> Iterator[Path]:
    place = bpffs / "fedge"
    yield place
    programs = [program_id for _, program_id in linked_programs(place).values()]
    detach(place)
    assert not place.exists(), f"pins are left behind: {list(place.iterdir())}"
    deadline = time.monotonic() + 10
    while left := [program_id for program_id in programs if is_loaded(program_id)]:
        assert time.monotonic() < deadline, f"programs {left} are still loaded"
        time.sleep(0.02)  # the kernel frees a detached tracepoint program after a grace period


@pytest.fixture
def links(pin_dir) -> Callable[[], dict[str, tuple[int, int]]]:
    return lambda: linked_programs(pin_dir)


@pytest.fixture
def make_cgroup(root_privilege) -> Iterator[Callable[..., Path]]:
    try:
        mount = cgroup2_mount()
    except KernelLayerError as error:
        pytest.skip(f"no cgroup v2: {error}")
    made: list[Path] = []

    def make(parent: Path | None = None) -> Path:
        path = (parent or mount) / f"fedge-test-{uuid.uuid4().hex[:8]}"
        path.mkdir()
        made.append(path)
        return path

    yield make
    for path in reversed(made):
        with contextlib.suppress(FileNotFoundError):
            (path / "worker").rmdir()  # what a failed test has left
        with contextlib.suppress(FileNotFoundError):
            path.rmdir()


@pytest.fixture
def cgroup(make_cgroup: Callable[..., Path]) -> Path:
    return make_cgroup()


@pytest.fixture(scope="session")
def bcc_installed() -> None:
    script = "from fedge_agent.kernel.bcc_compiler import _bcc; _bcc()"
    tried = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"bcc is missing; apt install python3-bpfcc ({tried.stderr.strip()[-200:]})")


@pytest.fixture
def compiler(request: pytest.FixtureRequest) -> str:
    """Which compiler `fedge_bpf attach` uses: clang's object, unless a test asks for both (see BOTH)."""
    return str(getattr(request, "param", "object"))


def loader_command(compiler: str, request: pytest.FixtureRequest) -> list[str]:
    if compiler != "object":
        request.getfixturevalue("bcc_installed")
    return [sys.executable, "-m", "fedge_agent.kernel.loader"]


@pytest.fixture
def fedge_bpf(objects, pin_dir, tmp_path, compiler, request) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the real command with a private tracefs; `check=True` unless said otherwise."""

    def run(
        *arguments: str,
        check: bool = True,
        tracefs: bool = True,
        objects: Path = objects,
        compiler: str = compiler,
        wrapper: tuple[str, ...] = (),
    ) -> subprocess.CompletedProcess[str]:
        command = [*wrapper, *loader_command(compiler, request), *arguments, "--pin-dir", str(pin_dir)]
        command += ["--budget-file", str(tmp_path / "budget")]
        if arguments[0] == "attach":
            command += ["--object-dir", str(objects), "--compiler", compiler]
        if tracefs:
            command = ["unshare", "-m", "sh", "-c", PRIVATE_TRACEFS, "sh", *command]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def client() -> Iterator[Callable[..., "Client"]]:
    """Starts tests/integration/kernel/client.py inside a cgroup (None: where pytest runs)."""
    started: list[Client] = []

    def start(cgroup: Path | None) -> Client:
        command = [sys.executable, str(CLIENT)]
        if cgroup is not None:
            command = ["sh", "-c", IN_CGROUP, str(cgroup), *command]
        one = Client(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        started.append(one)
        return one

    yield start
    for one in started:
        one.end()


class Client:
    """A process that opens sockets on request; each request is answered with `ok` or the name of the error."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, *words: object) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
        return self._process.stdout.readline().strip()

    def move_to(self, cgroup: Path) -> None:
        (cgroup / "cgroup.procs").write_text(str(self._process.pid))

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()


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


NO_LIMITS = Rule()


class Attached:
    """The admission programs of one build, as the loader attached them to a cgroup of their own."""

    def __init__(self, pin_dir: Path, compiler: str) -> None:
        self.compiler = compiler
        self._pin_dir = pin_dir
        self._programs: dict[str, int] = {}
        self._maps: dict[str, int] = {}

    def follow(self, *rules: str, rule: Rule = NO_LIMITS, budget: Budget | None = None) -> None:
        """Puts a policy in force; the budget is that which is left."""
        limit = budget.limit_bytes if budget is not None else None
        policy = NetworkPolicy(
            tuple(entry.key() for entry in parse_policy(rules)), rule.rate_bytes_per_s or None, rule.audit, limit
        )
        put(policy, self._map, None, 1)
        if budget is not None:
            libbpf.update(self._map("fedge_budget"), bytes(4), budget.encode(), "the budget")

    def budget_left(self) -> int:
        return Budget.decode(libbpf.lookup(self._map("fedge_budget"), bytes(4), 24, "the budget")).left_bytes

    def verdict(self, program: str, frame: bytes, repeat: int = 1) -> tuple[int, int]:
        """(verdict, ns a run) of a cgroup_skb program on an Ethernet frame."""
        buffer = ctypes.create_string_buffer(frame, len(frame))
        run = _TestRun(
            sz=ctypes.sizeof(_TestRun), data_in=ctypes.addressof(buffer), data_size_in=len(frame), repeat=repeat
        )
        result = libbpf.library().bpf_prog_test_run_opts(self._program(program), ctypes.byref(run))
        libbpf.checked(result, "BPF_PROG_TEST_RUN")
        return run.retval, run.duration

    def close(self) -> None:
        for descriptor in (*self._programs.values(), *self._maps.values()):
            os.close(descriptor)

    def _map(self, name: str) -> int:
        if name not in self._maps:
            self._maps[name] = libbpf.open_pin(self._pin_dir / name)
        return self._maps[name]

    def _program(self, name: str) -> int:
        if name not in self._programs:
            link = libbpf.open_pin(self._pin_dir / name)
            number = libbpf.link_info(link, name).prog_id
            os.close(link)
            self._programs[name] = libbpf.checked(libbpf.library().bpf_prog_get_fd_by_id(number), name)
        return self._programs[name]


@pytest.fixture(scope="module", params=["object", "bcc"])
def admission(request, objects, root_privilege) -> Iterator[Attached]:
    """Both builds of the admission programs, one after the other."""
    compiler = request.param
    place = Path(tempfile.mkdtemp(prefix="fedge-verdicts-"))
    cgroup = cgroup2_mount() / f"fedge-verdicts-{uuid.uuid4().hex[:8]}"
    subprocess.run(["mount", "-t", "bpf", "bpf", str(place)], check=True)
    cgroup.mkdir()
    try:
        command = [*loader_command(compiler, request), "attach", "--compiler", compiler, "--cgroup", str(cgroup)]
        command += ["--object-dir", str(objects), "--pin-dir", str(place / "fedge")]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        attached = Attached(place / "fedge", compiler)
        yield attached
        attached.close()
    finally:
        detach(place / "fedge")
        cgroup.rmdir()
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()
