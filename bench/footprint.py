"""What an idle device costs: memory, CPU, bytes on the wire and on the disk, start to READY; and its package's size.

Mosquitto, the CA, a coordinator and one enrolled `fedge-agent` run for real, here, over TLS 1.3, with no job. The agent
runs as its package does (Debian's interpreter, today's modules), its eBPF programs are attached, its telemetry ring is
on, and its state lies on a file system of its own. In the middle of the window Mosquitto is restarted. A day is the
quiet part of the window stretched, and 24 such reconnections. The kernel's own cost is not in these figures.

Then four devices train a model of 100,000 parameters in two secure rounds, without eBPF; the first of them is watched,
and looked at again when it is idle.

The peer, Flower's SuperNode connected to its SuperLink on loopback without TLS, runs at the same time when there is an
interpreter that has flwr (scripts/bench --peers). As root only: the agent's processes are not dumpable.

Usage: bench/footprint.py [--json] [--quick | --seconds N] [--starts N] [--deb FILE] [--flower-python PATH]
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from fedge_coordinator.demo.kernel import PRIVATE_MOUNTS
from fedge_coordinator.demo.processes import DemoError, free_port
from fedge_coordinator.demo.programs import find
from figures import bar, machine, table
from idle_device import DAY_S, Idle, measure_idle, starts, volume_for, without_ring
from installed import Installed, installed, newest_package
from peers.flower_idle import PEER, FlowerIdle
from processes import Memory, family, memory, scheduled_seconds
from quiet_stage import QuietStage, traffic_of
from training_device import Training, measure_training

HOUR_S: Final = 3600.0
QUICK_S: Final = 180.0
PEER_SETTLE_S: Final = 10.0
RING_OFF_S: Final = 600.0
LEAST_FOR_DISK_S: Final = 900.0
"""The ring is written in batches: a shorter window says nothing about a day."""
MB: Final = 1_000_000


@dataclass(frozen=True)
class PeerCosts:
    """Of Flower's SuperNode, with its child processes, over the same window."""

    memory: Memory
    cpu_share: float
    wire_bytes_a_day: float
    version: str


@contextlib.contextmanager
def peer_beside(python: Path | None, stage: QuietStage, found: list[PeerCosts]) -> Iterator[None]:
    """Run the peer meanwhile; its costs are appended to `found` at the end."""
    if python is None:
        yield
        return
    port = free_port()
    with FlowerIdle(python, stage.stage.folder / "flower", port) as flower:
        time.sleep(PEER_SETTLE_S)
        pids = family(flower.node)
        begin_s, cpu_s, wire = time.monotonic(), scheduled_seconds(pids), traffic_of(pids, port).wire
        yield
        pids = family(flower.node)
        lasted_s = time.monotonic() - begin_s
        found.append(
            PeerCosts(
                memory=memory(pids),
                cpu_share=(scheduled_seconds(pids) - cpu_s) / lasted_s,
                wire_bytes_a_day=(traffic_of(pids, port).wire - wire) / lasted_s * DAY_S,
                version=flower.version,
            )
        )


def main() -> int:
    """Run and show."""
    parser = argparse.ArgumentParser(description="What an idle device costs")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, nothing else")
    parser.add_argument("--seconds", type=float, default=HOUR_S, help="length of the window [%(default)s]")
    parser.add_argument("--quick", action="store_const", dest="seconds", const=QUICK_S, help="three minutes, for CI")
    parser.add_argument("--starts", type=int, default=7, help="how often the start is timed [%(default)s]")
    parser.add_argument("--deb", type=Path, help="fedge-agent's package [the newest in dist/, .cache/system/debs/]")
    parser.add_argument(
        "--flower-python",
        type=Path,
        default=os.environ.get("FEDGE_FLOWER_PYTHON"),
        help="interpreter that has flwr [$FEDGE_FLOWER_PYTHON; without one the peer is not run]",
    )
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("bench/footprint.py: only root may look at the agent's memory; run it as root", file=sys.stderr)
        return 2
    _mount_apart()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended, what was mounted unmounted
    with tempfile.TemporaryDirectory(prefix="fedge-footprint-") as name:
        folder = Path(name)
        agent = installed(options.deb or newest_package(), folder / "package")
        result = run(agent, folder, options)
    print(json.dumps(result) if options.json else table(result["bars"]))
    measured = not isinstance(result["details"]["training"], str)
    return 0 if measured and all(line["ok"] for line in result["bars"]) else 1


def _mount_apart() -> None:
    """Begin again in a mount namespace of our own: what is mounted here is gone with us, whatever ends us."""
    unshare = find("unshare")
    if os.environ.get(PRIVATE_MOUNTS) or unshare is None:
        return
    apart = [unshare, "--mount", "--propagation", "private"]
    if subprocess.run([*apart, "true"], check=False, capture_output=True).returncode == 0:
        os.execve(  # noqa: S606 - ourselves
            unshare, [*apart, "--", sys.executable, *sys.argv], {**os.environ, PRIVATE_MOUNTS: "1"}
        )


def run(agent: Installed, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The whole result in the format of all benchmarks."""

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    peer: list[PeerCosts] = []
    with volume_for(folder / "stage" / "devices" / "device-1" / "state") as (volume, no_volume):
        stage = QuietStage(folder / "stage", say)
        try:
            stage.build()
            say(f"starting {agent.described}")
            ready = starts(stage, agent, options.starts)
            with peer_beside(options.flower_python, stage, peer):
                idle = measure_idle(stage, agent, options.seconds, volume, say)
            off = None
            if options.seconds >= RING_OFF_S:
                without_ring(stage.stage.devices[0].config)
                off = measure_idle(stage, agent, RING_OFF_S, volume, say)
        finally:
            stage.stage.close()
    training: Training | str
    try:
        training = measure_training(folder / "training", agent, say)
    except DemoError as error:
        training = f"not measured: {error}"
    found = _result(agent, idle, off, ready, training, peer[0] if peer else None)
    if no_volume:
        found["details"]["no_volume"] = no_volume
    return found


def _result(
    agent: Installed,
    idle: Idle,
    off: Idle | None,
    ready: list[tuple[float, float]],
    training: Training | str,
    peer: PeerCosts | None,
) -> dict[str, Any]:
    def beside(of: Callable[[PeerCosts], float]) -> dict[str, Any]:
        if peer is None:
            return {"peer": f"{PEER} (without TLS)"}
        return {"peer": f"{PEER} {peer.version}", "peer_value": of(peer)}

    costs = idle.costs
    bars: list[dict[str, Any]] = [
        bar("idle memory (PSS)", "MB", idle.ended.pss / MB, 40, **beside(lambda other: other.memory.pss / MB)),
        bar(
            "the same, nothing shared", "MB", idle.ended.alone / MB, 40, **beside(lambda other: other.memory.alone / MB)
        ),
        bar("idle CPU", "% of a core", 100 * costs.cpu_share, 0.1, **beside(lambda other: 100 * other.cpu_share)),
        bar(
            "idle traffic",
            "MB a day",
            costs.wire_bytes_a_day / MB,
            1,
            **beside(lambda other: other.wire_bytes_a_day / MB),
        ),
        bar("start to READY", "s", median(wall_s for wall_s, _ in ready), 1),
    ]
    if isinstance(training, Training):
        bars.append(bar("idle memory after rounds, nothing shared", "MB", training.after.alone / MB, 40))
        bars.append(bar("training, all processes, at most", "MB", training.most_alone / MB, 130))
    if costs.seconds >= LEAST_FOR_DISK_S:
        bars.append(bar("written to flash", "MB a day", costs.disk_bytes_a_day / MB, 20))
    if agent.package is not None and agent.unpacked is not None:
        bars.append(bar("package", "MB", agent.package / MB, 15))
        bars.append(bar("installed", "MB", agent.unpacked / MB, 55))
    details = {
        "agent": agent.described,
        "window_s": round(costs.seconds),
        "bytes_counted_by": idle.how_bytes,
        "disk_counted_by": idle.how_disk,
        "processes": idle.processes,
        "memory_settled": dataclasses.asdict(idle.settled),
        "memory_at_the_end": dataclasses.asdict(idle.ended),
        "largest_mappings": idle.largest,
        "training": training if isinstance(training, str) else dataclasses.asdict(training),
        "costs": dataclasses.asdict(costs),
        "flash_a_day_mb": _flash(idle),
        "flash_a_day_without_ring_mb": _flash(off),
        "start_cpu_s": round(median(cpu_s for _, cpu_s in ready), 3),
        "starts_s": [round(wall_s, 3) for wall_s, _ in ready],
        "peer": dataclasses.asdict(peer) if peer is not None else "skipped: no interpreter with flwr (--peers)",
        "load_1min": round(os.getloadavg()[0], 2),
    }
    return {"bench": "footprint", "machine": machine(), "bars": bars, "details": details}


def _flash(idle: Idle | None) -> float | str:
    if idle is None:
        return "not measured in the short form"
    if idle.costs.seconds < RING_OFF_S:
        return f"{idle.costs.window_disk_bytes} bytes in {idle.costs.seconds:.0f} s: too short to tell of a day"
    return round(idle.costs.disk_bytes_a_day / MB, 3)


if __name__ == "__main__":
    sys.exit(main())
