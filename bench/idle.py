"""An idle device: memory of all its processes, CPU, bytes on the wire, start to READY; and the size of its package.

Mosquitto, the CA, a coordinator and one enrolled `fedge-agent` run for real, here, over TLS, with no job. eBPF is off,
so the kernel's own cost is not in these figures. Bytes are those of the agent's one TCP connection with 52 bytes of
headers a segment, over the window, stretched to a day, with one connection an hour on top. As root only: the agent's
processes are not dumpable.

Usage: bench/idle.py [--json] [--seconds N] [--starts N] [--deb FILE]
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from fedge_coordinator.demo import fleet
from fedge_coordinator.demo.dataset import Prepared
from fedge_coordinator.demo.fleet import Device
from fedge_coordinator.demo.processes import Child, wait_until
from fedge_coordinator.demo.programs import program
from fedge_coordinator.demo.stage import Builder, Options, Stage
from figures import bar, machine, table
from footprint import alone_bytes, children, cpu_seconds, pss_bytes

DAY_S: Final = 86_400
HEADER_BYTES: Final = 52
"""IPv4 and TCP with timestamps."""
SETTLE_S: Final = 10.0
MB: Final = 1_000_000
MIB: Final = 1024 * 1024


class QuietStage(Builder):
    """A coordinator without a chain, and one device."""

    def build(self) -> Stage:
        """Everything but the agent's start."""
        self.stage.data = Prepared((), ())
        self._keys_alone()
        self._authority()
        self._broker()
        self._coordinator()
        data = self.stage.folder / "data"
        data.mkdir()
        device = fleet.make_device(1, self.stage.folder / "devices", data, None, None)
        # the marks of the demo are for a crowd of devices; this one is judged as a device of its own
        device.config.write_text(device.config.read_text().split("[admission]")[0])
        self.stage.devices.append(device)
        self._enroll(device)
        return self.stage

    def _keys_alone(self) -> None:
        subprocess.run([program("fedge-coordinator"), "keys", str(self._keys)], check=True, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class Traffic:
    """Of one TCP connection so far, both ways, TLS included."""

    payload: int
    segments: int

    @property
    def wire(self) -> int:
        """With headers."""
        return self.payload + self.segments * HEADER_BYTES


def traffic_of(pid: int) -> Traffic:
    """What the only TCP connection of a process has carried (ss, from the kernel's tcp_info)."""
    text = subprocess.run(["ss", "-tinpH"], capture_output=True, text=True, check=True).stdout
    for line in re.split(r"\n(?=\S)", text):
        if f"pid={pid}," in line:
            values = {name: int(value) for name, value in re.findall(r"(\w+):(\d+)(?=\s)", line)}
            payload = values.get("bytes_acked", 0) + values.get("bytes_received", 0)
            return Traffic(payload, values.get("segs_out", 0) + values.get("segs_in", 0))
    raise LookupError(f"process {pid} has no TCP connection")


def start_to_ready_s(device: Device) -> float:
    """From exec to READY=1, of a daemon of its own that is stopped again."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        place = f"{folder}/notify"
        notices.bind(place)
        notices.settimeout(60)
        begin_s = time.perf_counter()
        command = [program("fedge-agent"), "--config", str(device.config), "run"]
        with subprocess.Popen(command, env=os.environ | {"NOTIFY_SOCKET": place}, stderr=subprocess.DEVNULL) as daemon:
            try:
                while b"READY=1" not in notices.recv(4096):
                    pass
                return time.perf_counter() - begin_s
            finally:
                daemon.terminate()
                daemon.wait(30)


def connected(device: Device) -> bool:
    """Whether the daemon says so."""
    found = device.ask("status")
    return bool(found and found["connected"])


def measure(stage: Stage, seconds: float, starts: int) -> dict[str, float]:
    """All figures of one run."""
    device = stage.devices[0]
    ready_s = median(start_to_ready_s(device) for _ in range(starts))
    fleet.start(device, stage.children)
    agent: Child = device.child  # type: ignore[assignment]  # started a line above
    wait_until(lambda: connected(device), "the agent's connection", timeout_s=60, child=agent)
    time.sleep(SETTLE_S)
    pid = agent.process.pid
    first, cpu_s, begin_s = traffic_of(pid), cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    last, spent_s, lasted_s = traffic_of(pid), cpu_seconds(pid) - cpu_s, time.monotonic() - begin_s
    processes = [pid, *children(pid)]
    return {
        "memory_mib": alone_bytes(processes) / MIB,
        "pss_mib": sum(map(pss_bytes, processes)) / MIB,
        "processes": len(processes),
        "cpu_percent": 100 * spent_s / lasted_s,
        "day_bytes": (last.wire - first.wire) / lasted_s * DAY_S + 24 * first.wire,
        "window_bytes": last.wire - first.wire,
        "connect_bytes": first.wire,
        "ready_s": ready_s,
    }


def package_sizes(deb: Path | None) -> tuple[float, float] | None:
    """(package, installed) in bytes; None without a package."""
    if deb is None:
        root = Path(__file__).parents[1]
        found = sorted([*root.glob("dist/fedge-agent_*.deb"), *root.glob(".cache/system/debs/fedge-agent_*.deb")])
        honest = [path for path in found if "+1_" not in path.name]
        if not honest:
            return None
        deb = honest[-1]
    shown = subprocess.run(["dpkg-deb", "-f", str(deb), "Installed-Size"], capture_output=True, text=True, check=True)
    return deb.stat().st_size, int(shown.stdout) * 1024


def main() -> int:
    """Run and show."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, nothing else")
    parser.add_argument("--seconds", type=float, default=180, help="length of the window [%(default)s]")
    parser.add_argument("--starts", type=int, default=5, help="how often the start is timed [%(default)s]")
    parser.add_argument("--deb", type=Path, help="fedge-agent's package [dist/, .cache/system/debs/]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedge-idle-") as folder:
        builder = QuietStage(
            Path(folder), Options(rounds=1, devices=1, seed=1), lambda text: print(text, file=sys.stderr)
        )
        try:
            found = measure(builder.build(), options.seconds, options.starts)
        finally:
            builder.stage.close()
    flower = "Flower 1.41 SuperNode"
    bars: list[dict[str, Any]] = [
        bar("memory of all processes", "MiB", found["memory_mib"], 40, peer=flower),
        bar("CPU", "% of a core", found["cpu_percent"], 0.1, peer=flower),
        bar("traffic", "MB a day", found["day_bytes"] / MB, 1, peer=flower),
        bar("start to READY", "s", found["ready_s"], 1),
    ]
    sizes = package_sizes(options.deb)
    if sizes is not None:
        bars += [bar("package", "MB", sizes[0] / MB, 15), bar("installed", "MB", sizes[1] / MB, 55)]
    result = {"bench": "idle", "machine": machine(), "bars": bars, "details": found}
    print(json.dumps(result) if options.json else table(bars))
    return 0 if all(line["ok"] for line in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
