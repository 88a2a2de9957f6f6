"""The smallest whole fleet: Mosquitto, the CA, a coordinator without a chain or a job, and one device."""

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedge_agent.kernel.reader import MapReader
from fedge_agent.kernel.records import Counter
from fedge_coordinator.demo import fleet, kernel
from fedge_coordinator.demo.dataset import Prepared
from fedge_coordinator.demo.fleet import Device
from fedge_coordinator.demo.kernel import KernelStage
from fedge_coordinator.demo.processes import Child, Children, accepts, wait_until
from fedge_coordinator.demo.programs import program
from fedge_coordinator.demo.stage import Builder, Options, Stage

HEADER_BYTES: Final = 52
"""IPv4 and TCP with timestamps."""


class NamedChildren(Children):
    """Remembers how each child was started."""

    def __init__(self, logs: Path) -> None:
        super().__init__(logs)
        self.by_name: dict[str, tuple[Child, Sequence[str]]] = {}

    def start(
        self, name: str, command: Sequence[str], *, cgroup: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Child:
        """Start a process."""
        child = super().start(name, command, cgroup=cgroup, env=env)
        self.by_name[name] = child, command
        return child


class QuietStage(Builder):
    """A coordinator without a chain, and one device whose state directory is `state`."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        super().__init__(folder, Options(rounds=1, devices=1, seed=1), say)
        self.children = self.stage.children = NamedChildren(folder / "logs")
        self.without_kernel = ""

    def build(self) -> Stage:
        """Everything but the agent's start."""
        self.stage.data = Prepared((), ())
        subprocess.run([program("fedge-coordinator"), "keys", str(self._keys)], check=True, stdout=subprocess.DEVNULL)
        self._authority()
        self._broker()
        self._coordinator()
        data = self.stage.folder / "data"
        data.mkdir()
        self.stage.devices.append(self._device(data))
        self._enroll(self.stage.devices[0])
        return self.stage

    def _device(self, data: Path) -> Device:
        self.without_kernel = kernel.why_not() or ""
        place = None
        if not self.without_kernel:
            stage = self.stage.kernel = KernelStage(self.stage.folder)
            stage.open()
            place = stage.confine(1, [f"127.0.0.1:{port}/tcp" for port in (self._port, self._ca_port)])
        pins, cgroup = (place.pin_dir, place.cgroup) if place is not None else (None, None)
        device = fleet.make_device(1, self.stage.folder / "devices", data, pins, cgroup)
        device.confinement = place
        # the marks of the demo are for a crowd of devices; this one is judged as a device of its own
        device.config.write_text(device.config.read_text().split("[admission]")[0])
        return device

    def wire_bytes(self, pids: Sequence[int]) -> int:
        """The agent's, both ways, IP and TCP headers included: what the kernel counted, else by `traffic_of`."""
        place = self.stage.devices[0].confinement
        if place is None:
            return traffic_of(pids, self._port).wire
        with MapReader(place.pin_dir) as reader:
            counted = reader.network()
        return counted[Counter.EGRESS_BYTES] + counted[Counter.INGRESS_BYTES]

    def restart_broker(self) -> None:
        """End Mosquitto and start it again: everybody reconnects."""
        child, command = self.children.by_name["mosquitto"]
        child.terminate()
        child = self.children.start("mosquitto", command)
        wait_until(lambda: accepts(self._port), "Mosquitto", timeout_s=20, child=child)


@dataclass(frozen=True)
class Traffic:
    """Of a process's TCP connections so far, both ways."""

    payload: int = 0
    segments: int = 0

    @property
    def wire(self) -> int:
        """With headers."""
        return self.payload + self.segments * HEADER_BYTES


def traffic_of(pids: Sequence[int], port: int) -> Traffic:
    """What the connections that these processes now have to a port have carried (ss, from the kernel's tcp_info)."""
    command = ["ss", "-tinpH", "dport", "=", f":{port}"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    payload = segments = 0
    for line in re.split(r"\n(?=\S)", text):
        if any(f"pid={pid}," in line for pid in pids):
            values = {name: int(value) for name, value in re.findall(r"(\w+):(\d+)(?=\s)", line)}
            payload += values.get("bytes_acked", 0) + values.get("bytes_received", 0)
            segments += values.get("segs_out", 0) + values.get("segs_in", 0)
    return Traffic(payload, segments)
