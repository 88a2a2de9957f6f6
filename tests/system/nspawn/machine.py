"""Machines booted by systemd-nspawn: each its own root file system, init and network address.

The host needs no systemd. Everything is undone by `close`: processes by id, mounts, files.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.machine import COMMAND_TIMEOUT_S, Done, Machine, MachineError
from tests.system.nspawn import control_groups

_BOOT_TIMEOUT_S = 180.0
_POLL_S = 0.1
_NAMESPACES = Path("/run/netns")
_END_TIMEOUT_S = 30.0


@dataclass
class Container(Machine):
    """One booted machine over a base tree that it never changes."""

    name: str
    address: str
    namespace: str
    folder: Path
    base: Path
    kernel: bool = False
    """With a BPF file system of its own and what it takes to load programs into the host's kernel."""
    _process: subprocess.Popen[bytes] | None = None
    _leader: int = 0
    _groups: list[Path] = field(default_factory=list)
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
        self._groups = control_groups.make(f"fedge-machine-{os.getpid()}-{self.name}")
        enter = " && ".join(f"echo $$ >{group}/cgroup.procs" for group in self._groups)
        with (self.folder / "console.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "sh", "-c", f'{enter} && exec "$@"', "enter",
                    "systemd-nspawn", "--quiet", "--directory", str(self.root), "--boot",
                    f"--machine={self.name}-{os.getpid()}",
                    "--register=no", "--keep-unit", "--console=pipe", "--kill-signal=SIGRTMIN+3", "--resolv-conf=off",
                    f"--network-namespace-path={_NAMESPACES / self.namespace}", *options,
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
        deadline_s = time.monotonic() + _BOOT_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if self._process is None or self._process.poll() is not None:
                raise MachineError(f"{self.name} did not start:\n{self.console()}")
            for child in _children(self._process.pid):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                        return child
            time.sleep(_POLL_S)
        raise MachineError(f"{self.name} has no init after {_BOOT_TIMEOUT_S} s:\n{self.console()}")

    def run(self, command: str, *, timeout_s: float = COMMAND_TIMEOUT_S) -> Done:
        """Run a shell command in it as root."""
        done = subprocess.run(
            ["nsenter", "--target", str(self._leader), "--mount", "--uts", "--ipc", "--net", "--pid",
             "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8",
             "DEBIAN_FRONTEND=noninteractive", "/bin/bash", "-e", "-o", "pipefail", "-c", command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            timeout=timeout_s, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout)

    def console(self) -> str:
        """The end of what came to the console."""
        return (self.folder / "console.log").read_text(errors="replace")[-4000:]

    def close(self) -> None:
        """Pull the plug, and take its groups, mounts and disk away."""
        if self._process is not None:
            # with its init every process in it ends, and systemd-nspawn puts its own things away
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader or self._process.pid, signal.SIGKILL)
            try:
                self._process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        control_groups.remove(self._groups)
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
