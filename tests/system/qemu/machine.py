"""A virtual machine with Debian's own kernel, emulated: no KVM is needed. Its power can be cut.

It reaches the other machines through QEMU's user-mode network, from a network namespace of their bridge; nobody reaches
it. Commands go over its second serial line, see `channel.py`.
"""

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.system.machine import COMMAND_TIMEOUT_S, Done, Machine, MachineError

_BOOT_TIMEOUT_S = 400.0
_POLL_S = 0.2
KERNEL_OPTIONS = (
    "console=ttyS0 root=/dev/vda rw quiet mitigations=off nokaslr audit=0 tsc=reliable no_timer_check"
    " random.trust_cpu=on systemd.show_status=false net.ifnames=0 panic=-1"
)


class VirtualMachine(Machine):
    """A machine whose disk is a copy of the image of `built`.

    Args:
        built: folder that `build` has filled.
        folder: a new folder of its own, which `close` removes.
        namespace: network namespace that it is to be reached through, and
        address: the address it has there.
    """

    def __init__(self, name: str, built: Path, folder: Path, namespace: str, address: str) -> None:
        self.name = name
        self.address = address
        self.boots = 0
        self.boot_s: list[float] = []
        self._built = built
        self._folder = folder
        self._namespace = namespace
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._pending = b""
        folder.mkdir(parents=True)
        subprocess.run(["cp", "--sparse=always", str(built / "disk.ext4"), str(self._disk)], check=True)

    def boot(self) -> None:
        """Switch it on and wait until systemd has started everything."""
        started = time.monotonic()
        self.boots += 1
        channel = self._folder / f"channel-{self.boots}"
        command = [
            "ip", "netns", "exec", self._namespace,
            "qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off",
            "-smp", "2", "-m", "1024", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", str(self._built / "kernel"), "-initrd", str(self._built / "initrd.gz"),
            "-append", KERNEL_OPTIONS,
            # what QEMU has taken from the guest survives QEMU without a flush; what the guest kept back does not
            "-drive", f"id=disk,if=none,file={self._disk},format=raw,cache=unsafe",
            "-device", "virtio-blk-pci,drive=disk",
            "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
            "-serial", f"file:{self._console}",
            "-serial", f"unix:{channel},server=on,wait=off",
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        deadline_s = started + _BOOT_TIMEOUT_S
        self._line = self._connect(channel, deadline_s)
        self._pending = b""
        self._answer(deadline_s - time.monotonic())
        self.wait("systemctl is-system-running", lambda done: done.text.strip() in {"running", "degraded"})
        state = self.run("systemctl is-system-running").text.strip()
        if state != "running":
            raise MachineError(f"{self.name} is {state}:\n{self.run('systemctl --failed').text}")
        self.boot_s.append(time.monotonic() - started)

    @property
    def _console(self) -> Path:
        return self._folder / f"console-{self.boots}.log"

    @property
    def _disk(self) -> Path:
        return self._folder / "disk.ext4"

    def _connect(self, channel: Path, deadline_s: float) -> socket.socket:
        line = socket.socket(socket.AF_UNIX)
        while True:
            self._check_alive()
            try:
                line.connect(str(channel))
            except OSError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(_POLL_S)
            else:
                return line

    def _check_alive(self) -> None:
        if self._process is None or self._process.poll() is not None:
            raise MachineError(f"{self.name} is off:\n{self.console()}")

    def run(self, command: str, *, timeout_s: float = COMMAND_TIMEOUT_S) -> Done:
        """Run a shell command; 124 when it took too long."""
        self._check_alive()
        if self._line is None:
            raise MachineError(f"{self.name} was never booted")
        self._line.sendall(json.dumps({"command": command, "timeout_s": timeout_s}).encode() + b"\n")
        answer = self._answer(timeout_s + COMMAND_TIMEOUT_S)
        return Done(answer["status"], answer["text"])

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        if self._line is None:
            raise MachineError(f"{self.name} was never booted")
        self._line.settimeout(timeout_s)
        while b"\n" not in self._pending:
            try:
                more = self._line.recv(1 << 16)
            except TimeoutError:
                raise MachineError(f"{self.name} says nothing for {timeout_s:.0f} s:\n{self.console()}") from None
            if not more:
                raise MachineError(f"{self.name} went off:\n{self.console()}")
            self._pending += more
        line, self._pending = self._pending.split(b"\n", 1)
        return dict(json.loads(line))

    def console(self) -> str:
        """The end of what came to the console."""
        return self._console.read_text(errors="replace")[-4000:] if self._console.exists() else ""

    def cut_power(self) -> None:
        """Off, at once: what was not synced is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None
        if self._line is not None:
            self._line.close()
            self._line = None

    def close(self) -> None:
        """Off, and the disk thrown away."""
        self.cut_power()
        shutil.rmtree(self._folder)
