"""Machines booted by systemd-nspawn: each its own root file system, init and network address, joined by a bridge.

The host needs no systemd. Everything is undone by `close`: processes by id, mounts, network namespaces.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

BOOT_TIMEOUT_S = 180.0
COMMAND_TIMEOUT_S = 300.0
_POLL_S = 0.1
_NAMESPACES = Path("/run/netns")


class MachineError(Exception):
    """A machine did not do what it was told; the text holds its words."""


@dataclass(frozen=True)
class Done:
    """What a command in a machine said."""

    status: int
    text: str


class Lan:
    """A bridge in a network namespace of its own; `address` 10.77.0.1 is the host's side of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = "10.77.0.1"
        self._members: list[str] = []
        _run("ip", "netns", "add", name)
        self._inside(name, "link", "set", "lo", "up")
        self._inside(name, "link", "add", "bridge", "type", "bridge")
        self._inside(name, "addr", "add", f"{self.address}/24", "dev", "bridge")
        self._inside(name, "link", "set", "bridge", "up")

    def join(self, number: int) -> tuple[str, str]:
        """A new member's (namespace, address)."""
        member, address = f"{self.name}-{number}", f"10.77.0.{number}"
        _run("ip", "netns", "add", member)
        self._members.append(member)
        self._inside(self.name, "link", "add", f"port{number}", "type", "veth", "peer", "host0", "netns", member)
        self._inside(self.name, "link", "set", f"port{number}", "master", "bridge", "up")
        self._inside(member, "link", "set", "lo", "up")
        self._inside(member, "addr", "add", f"{address}/24", "dev", "host0")
        self._inside(member, "link", "set", "host0", "up")
        return member, address

    def close(self) -> None:
        """Take all of it down."""
        for name in (*self._members, self.name):
            _run("ip", "netns", "del", name, check=False)

    @staticmethod
    def _inside(namespace: str, *words: str) -> None:
        _run("ip", "-n", namespace, *words)


@dataclass
class Machine:
    """One booted machine over a base tree that it never changes."""

    name: str
    address: str
    namespace: str
    folder: Path
    base: Path
    shared: Path
    kernel: bool = False
    """With a BPF file system of its own and what it takes to load programs into the host's kernel."""
    _process: subprocess.Popen[bytes] | None = None
    _leader: int = 0
    boots: list[float] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """Its root file system, from outside."""
        return self.folder / "root"

    def boot(self) -> None:
        """Start it and wait until systemd has started everything."""
        started = time.monotonic()
        for part in ("upper", "work", "root"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        if not os.path.ismount(self.root):
            layers = f"lowerdir={self.base},upperdir={self.folder}/upper,workdir={self.folder}/work"
            _run("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root))
        (self.root / "etc/hostname").write_text(f"{self.name}\n")
        options = self._kernel_options() if self.kernel else []
        log = (self.folder / "console.log").open("ab")
        self._process = subprocess.Popen(
            [
                "systemd-nspawn", "--quiet", "--directory", str(self.root), "--boot", f"--machine={self.name}",
                "--register=no", "--keep-unit", "--console=pipe", "--kill-signal=SIGRTMIN+3", "--resolv-conf=off",
                f"--network-namespace-path={_NAMESPACES / self.namespace}", f"--bind={self.shared}:/shared",
                *options,
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        self._leader = self._find_leader()
        done = self.wait("systemctl is-system-running", lambda d: d.text.strip() in {"running", "degraded"})
        if done.text.strip() != "running":
            raise MachineError(f"{self.name} is {done.text.strip()}:\n{self.run('systemctl --failed').text}")
        self.boots.append(time.monotonic() - started)

    def _kernel_options(self) -> list[str]:
        pins = self.folder / "bpffs"
        pins.mkdir(exist_ok=True)
        if not os.path.ismount(pins):
            _run("mount", "-t", "bpf", "-o", "mode=0700", "bpf", str(pins))
        return [
            f"--bind={pins}:/sys/fs/bpf",
            "--capability=CAP_BPF,CAP_PERFMON,CAP_NET_ADMIN",
            "--system-call-filter=bpf perf_event_open",
        ]

    def _find_leader(self) -> int:
        deadline_s = time.monotonic() + BOOT_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if self._process is None or self._process.poll() is not None:
                raise MachineError(f"{self.name} did not start:\n{self.console()}")
            for child in _children(self._process.pid):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                        return child
            time.sleep(_POLL_S)
        raise MachineError(f"{self.name} has no init after {BOOT_TIMEOUT_S} s:\n{self.console()}")

    def run(self, command: str, *, check: bool = False, timeout_s: float = COMMAND_TIMEOUT_S) -> Done:
        """Run a shell command in it as root.

        Raises:
            MachineError: with `check`, it failed.
        """
        done = subprocess.run(
            ["nsenter", "--target", str(self._leader), "--mount", "--uts", "--ipc", "--net", "--pid",
             "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8",
             "DEBIAN_FRONTEND=noninteractive", "/bin/bash", "-o", "pipefail", "-c", command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            timeout=timeout_s, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise MachineError(f"{self.name}: {command}: status {done.returncode}\n{done.stdout}")
        return Done(done.returncode, done.stdout)

    def do(self, command: str) -> str:
        """Run a command that must succeed; what it said."""
        return self.run(command, check=True).text

    def wait(self, command: str, good, timeout_s: float = BOOT_TIMEOUT_S) -> Done:
        """Repeat a command until `good` of what it said.

        Raises:
            MachineError: not in time; with the last words.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            done = self.run(command)
            if good(done):
                return done
            if time.monotonic() > deadline_s:
                raise MachineError(f"{self.name}: {command}: not as wanted within {timeout_s} s; at last:\n{done.text}")
            time.sleep(0.5)

    def journal(self, unit: str) -> str:
        """What a unit wrote."""
        return self.run(f"journalctl --no-pager --output=cat --unit={unit}").text

    def console(self) -> str:
        """The end of what came to the console."""
        return (self.folder / "console.log").read_text(errors="replace")[-4000:]

    def halt(self) -> None:
        """Shut it down in order; what is on its disk stays."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(30)
        self._process = None

    def close(self) -> None:
        """Shut it down and take its mounts away."""
        self.halt()
        for place in (self.root, self.folder / "bpffs"):
            if os.path.ismount(place):
                _run("umount", "--lazy", str(place), check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _run(*words: str, check: bool = True) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise MachineError(f"{' '.join(words)}: {done.stderr.strip()}")
