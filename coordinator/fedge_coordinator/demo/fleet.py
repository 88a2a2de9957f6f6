"""The devices of the demo: enrolled, configured, confined each to its own cgroup, started, killed, asked."""

import contextlib
import json
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedge_coordinator.demo.kernel import Confinement
from fedge_coordinator.demo.processes import Child, Children, run
from fedge_coordinator.demo.programs import program

_ADMISSION = """
[admission]
# Many devices share the CPUs of this one machine, so each sees the others' training as pressure: wide marks.
run_queue_p95_us = [200000, 400000]
cpu_some = [0.97, 0.995]
memory_some = [0.5, 0.9]
io_some = [0.8, 0.95]
temperature_c = [95, 105]
enter_after_s = 0
consider_every_s = 0.1
"""


@dataclass
class Device:
    """One device of the demo."""

    number: int
    folder: Path
    config: Path
    data: Path
    runtime: Path
    name: str = ""
    chain_address: str = ""
    child: Child | None = None
    confinement: Confinement | None = None
    pauses: int = 0
    last: dict[str, Any] = field(default_factory=dict)

    def ask(self, command: str) -> dict[str, Any] | None:
        """Ask the daemon's control socket; None when it does not answer."""
        with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(1.0)
            peer.connect(str(self.runtime / "control.sock"))
            peer.sendall(json.dumps({"command": command}).encode() + b"\n")
            with peer.makefile("rb") as answer:
                found = json.loads(answer.readline(1024 * 1024))
                return found if isinstance(found, dict) else None
        return None

    def refresh(self) -> None:
        """Look at the device; counts pauses as they are seen."""
        before = self.last.get("admission", {}).get("state")
        self.last = self.ask("status") or {}
        if self.last.get("admission", {}).get("state") == "paused" and before != "paused":
            self.pauses += 1

    @property
    def state(self) -> str:
        """One word or two for the display."""
        if self.child is None:
            return "not started"
        if not self.child.running:
            return "killed"
        admission = self.last.get("admission", {})
        if admission.get("state") == "paused":
            return "paused"
        current = self.last.get("round")
        if current is None:
            return "online" if self.last.get("connected") else "starting"
        return str(current["outcome"] or current["state"])


def make_device(number: int, root: Path, data: Path, pin_dir: Path | None, cgroup: Path | None) -> Device:
    """Write a device's configuration."""
    folder = root / f"device-{number}"
    state, runtime = folder / "state", folder / "run"
    for path in (folder, state, runtime):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    kernel = (
        f'[kernel]\nnetwork = "require"\npin_dir = "{pin_dir}"\ncgroup = "{cgroup}"\n'
        if pin_dir is not None and cgroup is not None
        else '[kernel]\nnetwork = "off"\n'
    )
    config = folder / "agent.toml"
    config.write_text(
        f'state_dir = "{state}"\nruntime_dir = "{runtime}"\n\n'
        "[consent]\nallow_small_cohort = true # eight devices are below the secure floor of 16\n\n"
        f'[sources.watch]\nkind = "directory"\npath = "{data}"\n\n{kernel}{_ADMISSION}'
    )
    return Device(number=number, folder=folder, config=config, data=data, runtime=runtime)


def enroll(device: Device, token: str) -> None:
    """Join the fleet with a token, given on standard input."""
    answer = json.loads(
        run([program("fedge-agent"), "--config", str(device.config), "enroll", "-o", "json"], stdin=token + "\n")
    )
    device.name, device.chain_address = answer["device"], answer["chain_address"]


def start(device: Device, children: Children) -> None:
    """Start the daemon, in its cgroup when it has one."""
    cgroup = device.confinement.cgroup if device.confinement is not None else None
    device.child = children.start(
        f"device-{device.number}",
        [program("fedge-agent"), "--config", str(device.config), "run"],
        cgroup=cgroup,
        env={"OPENBLAS_NUM_THREADS": "1"} | ({} if "PYTHONDEVMODE" not in os.environ else {"PYTHONDEVMODE": ""}),
    )
