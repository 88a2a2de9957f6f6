"""One agent started as its unit starts it, and what it costs while nothing is to be done."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedge_coordinator.demo.fleet import Device
from fedge_coordinator.demo.processes import Child, Children, wait_until
from installed import Installed
from processes import Memory, family, largest_mappings, memory, scheduled_seconds, written_bytes
from quiet_stage import QuietStage
from volume import Volume

DAY_S: Final = 86_400
SETTLE_S: Final = 45.0
"""From the connection to the first reading: prekeys are delivered, and the start's memory is given back."""
RECONNECT_S: Final = 20.0
RECONNECTS_A_DAY: Final = 24
_WATCHDOG_USEC: Final = "30000000"
"""As in the unit: the daemon tells systemd every 15 s that it lives."""


@dataclass(frozen=True)
class Reading:
    """Totals at one moment. `disk` is of the volume's block device, or, without one, what /proc/PID/io tells."""

    at_s: float
    cpu_s: float
    wire_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Costs:
    """What a window cost. Days are reckoned from the quiet part of the window, and 24 reconnections."""

    seconds: float
    cpu_share: float
    wire_bytes_a_day: float
    disk_bytes_a_day: float
    quiet_wire_bytes_a_day: float
    reconnect_wire_bytes: int
    reconnect_cpu_s: float
    window_wire_bytes: int
    window_disk_bytes: int
    window_cpu_s: float


class RunningAgent:
    """The daemon, with somebody at its notify socket, until `stop`."""

    def __init__(self, device: Device, agent: Installed, children: Children, folder: Path) -> None:
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        place = folder / "notify"
        place.unlink(missing_ok=True)
        self._notices.bind(str(place))
        threading.Thread(target=self._listen, name="notify", daemon=True).start()
        self.ready = threading.Event()
        begin_s = time.perf_counter()
        self.ready_s = float("inf")
        cgroup = device.confinement.cgroup if device.confinement is not None else None
        self.child: Child = children.start(
            "agent",
            [*agent.command, "--config", str(device.config), "run"],
            cgroup=cgroup,
            env={"NOTIFY_SOCKET": str(place), "WATCHDOG_USEC": _WATCHDOG_USEC},
        )
        wait_until(self.ready.is_set, "READY", timeout_s=60, child=self.child)
        self.ready_s = self._ready_at_s - begin_s
        device.child = self.child

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return self.child.process.pid

    def stop(self) -> None:
        """End it, as systemd would."""
        self.child.terminate()
        self._notices.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                if b"READY=1" in self._notices.recv(4096):
                    self._ready_at_s = time.perf_counter()
                    self.ready.set()


def connected(device: Device) -> bool:
    """Whether the daemon says so."""
    found = device.ask("status")
    return bool(found and found["connected"])


def totals_of(stage: QuietStage, pid: int, volume: Volume | None) -> Reading:
    """A reading of the agent's processes."""
    pids = family(pid)
    wire = stage.wire_bytes(pids)
    disk = volume.written_bytes() if volume is not None else sum(written_bytes(each) for each in pids)
    return Reading(time.monotonic(), scheduled_seconds(pids), wire, disk)


def watch(stage: QuietStage, device: Device, pid: int, seconds: float, volume: Volume | None) -> Costs:
    """What `seconds` cost, with one reconnection in the middle.

    Without the kernel's counters the bytes are those of the agent's present connection, which begins anew then.
    """
    if volume is not None:
        volume.settle()
    first = totals_of(stage, pid, volume)
    time.sleep(max(seconds - RECONNECT_S, 0) / 2)
    before = totals_of(stage, pid, volume)
    stage.restart_broker()
    wait_until(lambda: connected(device), "the agent's new connection", timeout_s=180)
    time.sleep(max(RECONNECT_S - (time.monotonic() - before.at_s), 0))
    after = totals_of(stage, pid, volume)
    time.sleep(max(first.at_s + seconds - time.monotonic(), 0))
    last = totals_of(stage, pid, volume)
    return costs_of(first, before, after, last, begun_anew=device.confinement is None)


def costs_of(first: Reading, before: Reading, after: Reading, last: Reading, *, begun_anew: bool) -> Costs:
    """What lies between the first and the last of four readings, of which the middle two enclose a reconnection.

    With `begun_anew` the bytes on the wire are counted from nought again by the reconnection.
    """
    reconnect_s = after.at_s - before.at_s
    quiet_s = last.at_s - first.at_s - reconnect_s
    reconnect_wire = after.wire_bytes - (0 if begun_anew else before.wire_bytes)
    quiet_wire = before.wire_bytes - first.wire_bytes + last.wire_bytes - after.wire_bytes
    reconnect_cpu_s = after.cpu_s - before.cpu_s
    quiet_cpu_s = last.cpu_s - first.cpu_s - reconnect_cpu_s
    quiet_disk = last.disk_bytes - first.disk_bytes - (after.disk_bytes - before.disk_bytes)
    # what would have been written in that time anyway is in the quiet part's rate already
    reconnect_disk = max(after.disk_bytes - before.disk_bytes - quiet_disk / quiet_s * reconnect_s, 0)
    return Costs(
        seconds=last.at_s - first.at_s,
        cpu_share=quiet_cpu_s / quiet_s + reconnect_cpu_s * RECONNECTS_A_DAY / DAY_S,
        wire_bytes_a_day=quiet_wire / quiet_s * DAY_S + RECONNECTS_A_DAY * reconnect_wire,
        disk_bytes_a_day=quiet_disk / quiet_s * DAY_S + RECONNECTS_A_DAY * reconnect_disk,
        quiet_wire_bytes_a_day=quiet_wire / quiet_s * DAY_S,
        reconnect_wire_bytes=reconnect_wire,
        reconnect_cpu_s=reconnect_cpu_s,
        window_wire_bytes=quiet_wire + reconnect_wire,
        window_disk_bytes=last.disk_bytes - first.disk_bytes,
        window_cpu_s=last.cpu_s - first.cpu_s,
    )


@dataclass(frozen=True)
class Idle:
    """An idle device: memory before and after the window, and what the window cost."""

    settled: Memory
    ended: Memory
    costs: Costs
    processes: int
    largest: dict[str, int]
    how_bytes: str
    how_disk: str


def measure_idle(
    stage: QuietStage, agent: Installed, seconds: float, volume: Volume | None, say: Callable[[str], None]
) -> Idle:
    """Run the agent for `seconds` after it has settled."""
    device = stage.stage.devices[0]
    running = RunningAgent(device, agent, stage.children, stage.stage.folder)
    try:
        wait_until(lambda: connected(device), "the agent's connection", timeout_s=60, child=running.child)
        time.sleep(SETTLE_S)
        settled = memory(family(running.pid))
        say(f"idle for {seconds:.0f} s")
        costs = watch(stage, device, running.pid, seconds, volume)
        pids = family(running.pid)
        return Idle(
            settled=settled,
            ended=memory(pids),
            costs=costs,
            processes=len(pids),
            largest=largest_mappings(running.pid),
            how_bytes="fedge_count, the kernel's counters of the agent's cgroup, IP headers included"
            if device.confinement is not None
            else f"tcp_info by ss, 52 bytes of headers a segment ({stage.without_kernel})",
            how_disk="sectors written to an ext4 file system of its own, journal and inodes included"
            if volume is not None
            else "write_bytes of /proc/PID/io, without the file system's journal",
        )
    finally:
        running.stop()


def starts(stage: QuietStage, agent: Installed, count: int) -> list[tuple[float, float]]:
    """(seconds to READY, CPU seconds until then) of each of `count` starts, files in the page cache."""
    found = []
    for _ in range(count):
        running = RunningAgent(stage.stage.devices[0], agent, stage.children, stage.stage.folder)
        found.append((running.ready_s, scheduled_seconds([running.pid])))
        running.stop()
    return found


@contextlib.contextmanager
def volume_for(folder: Path) -> Iterator[tuple[Volume | None, str]]:
    """A volume at `folder`, or None and why there is none."""
    if os.geteuid() != 0:
        yield None, "only root may mount one"
        return
    try:
        volume = Volume(folder.parent / "volume.img", folder)
    except OSError as error:
        yield None, str(error)
        return
    try:
        yield volume, ""
    finally:
        volume.close()


def without_ring(config: Path) -> None:
    """Turn the telemetry ring off in a configuration."""
    text = config.read_text()
    config.write_text(text.replace("[kernel]\n", "[kernel]\ntelemetry_mib = 0\n", 1))
