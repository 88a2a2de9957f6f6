"""A full secure round over the broker: how long, what it costs a device, how much it sends, how much memory it takes.

Mosquitto, the CA, a coordinator that settles on its ledger, and 20 `fedge-agent` daemons with their workers run for
real, here, over TLS, without eBPF and without a chain. The model has 100,000 parameters, the data are synthetic. The
window of a round goes from the last READY that the coordinator took to its `round-finished` event, which comes right
after the commit of the checkpoint. All devices share this machine's cores and its one disk, which a fleet does not:
read the CPU seconds of the window beside its wall time.

As root, memory too: the agent's processes are not dumpable, so only root may look at their maps.

Usage: bench/round.py [--json] [--rounds N] [--devices N] [--keep]
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import yaml

from fedge_agent.training.pipe import Source, Train
from fedge_agent.training.supervisor import Worker
from fedge_coordinator.api.views import Event
from fedge_coordinator.demo import fleet
from fedge_coordinator.demo.dataset import Prepared
from fedge_coordinator.demo.fleet import Device
from fedge_coordinator.demo.observing import Api, EventFeed
from fedge_coordinator.demo.processes import DemoError, run, wait_until
from fedge_coordinator.demo.programs import program
from fedge_coordinator.demo.stage import JOB, Builder, Options, Stage
from fedge_coordinator.modelkit.bundle import build_bundle
from fedge_coordinator.modelkit.spec import parse_model_spec
from figures import bar, machine, table
from processes import alone_bytes, children, cpu_seconds, machine_seconds, pss_bytes

INPUT, HIDDEN, CLASSES, ROWS = 292, 330, 10, 256
DIM: Final = (INPUT + 1) * HIDDEN + (HIDDEN + 1) * CLASSES
EPOCHS, BATCH, RATE = 2, 16, 0.01
MODEL: Final = {
    "input": INPUT,
    "layers": [{"dense": HIDDEN, "activation": "relu"}, {"dense": CLASSES}],
    "loss": "softmax-cross-entropy",
}
WARM_UP: Final = 2
"""Rounds that are not counted: files get cached, certificates get known, and memory is watched in them."""
MIB: Final = 1024 * 1024
FLOAT32_BYTES: Final = 4
ROUND_BAR_S, DEVICE_BAR_S, AFTER_IMPORTS_BAR_S, UPLOAD_BAR, TRAINING_BAR_MIB = 0.5, 0.35, 0.1, 0.52, 130
STORED_PEER: Final = (
    "skipped: this benchmark starts no Flower. Stored in the design, of Flower 1.41 on another day: a round without "
    "secure aggregation 14 s with 10 devices, 6.4 s with 4; CPU of a device per round 1.65 s; upload with secure "
    "aggregation 2.02x; memory 191 MB idle, 285 MB training"
)


class BenchStage(Builder):
    """The demo's fixed parts, with synthetic data, without a chain and without eBPF."""

    def build(self) -> Stage:
        """Everything but the agents' start.

        Raises:
            DemoError: a part does not come up.
        """
        run([program("fedge-coordinator"), "keys", str(self.stage.folder / "keys")])
        self._write_data()
        self._authority()
        self._broker()
        self._coordinator()
        self._enrol_devices()
        self._write_bench_job()
        return self.stage

    def _write_data(self) -> None:
        folder = self.stage.folder / "data"
        folder.mkdir()
        random = np.random.default_rng(1)
        paths = []
        for number in range(self.stage.options.devices):
            paths.append(folder / f"device-{number}.npz")
            x = random.standard_normal((ROWS, INPUT)).astype(np.float32)
            np.savez(paths[-1], x=x, y=random.integers(0, CLASSES, ROWS))
        self.stage.data = Prepared(tuple(paths), ())

    def _enrol_devices(self) -> None:
        stage = self.stage
        paths = stage.data.devices if stage.data is not None else ()
        for number, data in enumerate(paths, start=1):
            device = fleet.make_device(number, stage.folder / "devices", data, None, None)
            stage.devices.append(device)
            self._enroll(device)

    def _write_bench_job(self) -> None:
        options = self.stage.options
        document: dict[str, Any] = {
            "apiVersion": "fedge.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": JOB},
            "spec": {
                "model": MODEL,
                "data": {"source": "watch", "kind": "directory"},
                "training": {
                    "epochs": EPOCHS,
                    "batchSize": BATCH,
                    "learningRate": RATE,
                    "clipNorm": 1.0,
                    "maxSamples": ROWS,
                },
                "cohort": {
                    "minimum": options.devices,
                    "target": options.devices,
                    "allowSmallCohort": options.devices < 16,
                    "readySeconds": 120,
                    "phaseSeconds": 20,
                },
                "rewards": {"perRound": "1000000"},
                "rollout": {"rounds": options.rounds},
            },
        }
        self.stage.job_document = document
        (self.stage.folder / "job.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


@dataclass
class Reading:
    """CPU seconds used so far: of the coordinator, of the broker, of each device with its worker, of the machine."""

    coordinator: float
    broker: float
    devices: list[float]
    machine: float

    def since(self, before: "Reading") -> dict[str, float]:
        """The difference, by role."""
        found = {
            "coordinator": self.coordinator - before.coordinator,
            "broker": self.broker - before.broker,
            "devices": sum(self.devices) - sum(before.devices),
        }
        return found | {"everything_else": self.machine - before.machine - sum(found.values())}


@dataclass
class Window:
    """One round from its last READY on. Times are the coordinator's, in Unix milliseconds."""

    ready_ms: int
    before: Reading
    phases_ms: dict[str, int] = field(default_factory=dict)
    finished_ms: int = 0
    after: Reading | None = None
    participants: int = 0
    vector_bytes: int = 0

    @property
    def seconds(self) -> float:
        """The length of the window."""
        return (self.finished_ms - self.ready_ms) / 1000


class Observer:
    """Takes readings when the coordinator tells of a round's last READY and of its end."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self.windows: list[Window] = []
        self.failed = ""
        self.ended = threading.Event()
        self._read = read
        self._open: Window | None = None

    def take(self, event: Event) -> None:
        """An event, in the thread of the feed."""
        fields = event.fields
        match event.name:
            case "input" if fields["kind"] == "ready" and fields["phase"] == "shares":
                self._open = Window(event.at_ms, self._read())
            case "input" if self._open is not None:
                self._open.phases_ms.setdefault(str(fields["phase"]), event.at_ms - self._open.ready_ms)
            case "round-finished" if self._open is not None:
                self._open.finished_ms, self._open.after = event.at_ms, self._read()
                self._open.participants = int(fields["participants"] or 0)
                self._open.vector_bytes = int(fields["bytes_up"] or 0)
                self.windows.append(self._open)
                self._open = None
            case "round-aborted" | "job-failed":
                self.failed = f"{event.name}: {fields.get('reason')}"
                self.ended.set()
            case "job-finished":
                self.ended.set()
            case _:
                pass


class MemoryWatch(threading.Thread):
    """The most memory of one device while it trains and answers, sampled every 20 ms until `stop`."""

    def __init__(self, daemon_pid: int) -> None:
        super().__init__(name="memory", daemon=True)
        self.most_bytes = 0
        self.most_pss_bytes: dict[str, int] = {}
        self._daemon_pid = daemon_pid
        self._stop_it = threading.Event()

    def run(self) -> None:
        """Sample."""
        while not self._stop_it.wait(0.02):
            workers = children(self._daemon_pid)
            try:
                self.most_bytes = max(self.most_bytes, alone_bytes([self._daemon_pid, *workers]))
                for role, pids in (("daemon", [self._daemon_pid]), ("worker", workers)):
                    size = sum(pss_bytes(pid) for pid in pids)
                    self.most_pss_bytes[role] = max(self.most_pss_bytes.get(role, 0), size)
            except (OSError, ProcessLookupError):
                continue  # the worker ended between two looks

    def stop(self) -> None:
        """Sample no more."""
        self._stop_it.set()
        self.join()


def measure(devices: int, rounds: int, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The whole result in the format of all benchmarks.

    Raises:
        DemoError: a part did not come up, or a round was aborted.
    """
    builder = BenchStage(folder, Options(rounds=WARM_UP + rounds, devices=devices, seed=1), say)
    try:
        stage = builder.build()
        return _result(stage, *_run(stage, say))
    finally:
        builder.stage.close()


def _run(stage: Stage, say: Callable[[str], None]) -> tuple[list[Window], dict[str, int], float]:
    api, observer = Api(stage.socket), Observer(lambda: _read(stage))
    feed = EventFeed(stage.socket, observer.take)
    memory: dict[str, int] = {}
    try:
        for device in stage.devices:
            fleet.start(device, stage.children)
        wait_until(lambda: _online(api) == len(stage.devices), "the agents", timeout_s=120)
        first = _pid(stage.devices[0])
        if os.geteuid() == 0:
            memory["idle"], memory["idle_pss"] = alone_bytes([first]), pss_bytes(first)
        feed.start()
        watch = MemoryWatch(first)
        if os.geteuid() == 0:
            watch.start()
        say("running rounds")
        run([program("fedgectl"), "apply", "--socket", str(stage.socket), "-f", str(stage.folder / "job.yaml")])
        wait_until(lambda: len(observer.windows) >= 1 or observer.ended.is_set(), "round 1", timeout_s=180)
        if os.geteuid() == 0:
            watch.stop()
            memory["training"] = watch.most_bytes
            memory |= {f"{role}_pss": size for role, size in watch.most_pss_bytes.items()}
        # Now that all workers start for the next round: CPU time depends on how much others use the caches.
        imports = median(_import_seconds() for _ in range(5))
        observer.ended.wait(60.0 * stage.options.rounds)
        if observer.failed or not observer.ended.is_set():
            raise DemoError(observer.failed or "the rounds did not end in time")
        for device in stage.devices:
            device.refresh()
        return observer.windows, memory, imports
    finally:
        feed.close()
        api.close()


def _result(stage: Stage, windows: list[Window], memory: dict[str, int], imports: float) -> dict[str, Any]:
    counted = windows[WARM_UP:]
    spans = [window.after.since(window.before) for window in counted if window.after is not None]
    cpu = {role: median(span[role] for span in spans) for role in spans[0]}
    device_s = _device_seconds(windows)
    alone = asyncio.run(_worker_alone(stage.folder))
    beside_s = device_s - alone["steps"]
    uploads = [entry["bytes_up"] for device in stage.devices for entry in device.last["rounds"][:-WARM_UP]]
    count = len(stage.devices)
    bars = [
        bar(f"{count} devices, last READY to the checkpoint", "s", median(w.seconds for w in counted), ROUND_BAR_S),
        bar("CPU of a device per round besides the training steps", "s CPU", beside_s, DEVICE_BAR_S),
        bar("the same, after the worker's imports", "s CPU", beside_s - imports, AFTER_IMPORTS_BAR_S),
        bar("upload, 100k parameters", "x of float32", median(uploads) / (FLOAT32_BYTES * DIM), UPLOAD_BAR),
    ]
    if memory:
        bars.append(bar("training device, all processes, at most", "MB", memory["training"] / MIB, TRAINING_BAR_MIB))
    return {
        "bench": "round",
        "machine": machine(),
        "bars": bars,
        "details": {
            "peer": STORED_PEER,
            "devices": count,
            "parameters": DIM,
            "participants": [window.participants for window in counted],
            "window_s": [window.seconds for window in counted],
            "window_phase_begins_ms": {
                phase: median(w.phases_ms[phase] for w in counted if phase in w.phases_ms)
                for phase in counted[0].phases_ms
            },
            "window_cpu_s": {role: round(spent, 3) for role, spent in cpu.items()},
            "window_cpu_s_of_fedge": round(sum(cpu.values()) - cpu["everything_else"], 3),
            "device_cpu_s_a_round": round(device_s, 4),
            "worker_imports_cpu_s": round(imports, 4),
            "worker_alone_cpu_s": {name: round(spent, 4) for name, spent in alone.items()},
            "masked_vectors_x_of_float32": round(counted[0].vector_bytes / count / (FLOAT32_BYTES * DIM), 4),
            "memory_mb": {name: round(size / MIB, 1) for name, size in memory.items()}
            or "skipped: only root may look at the agents' maps",
            "load_1min": round(os.getloadavg()[0], 2),
        },
    }


def _read(stage: Stage) -> Reading:
    return Reading(
        cpu_seconds(stage.coordinator.process.pid) if stage.coordinator is not None else 0.0,
        cpu_seconds(int((stage.folder / "mosquitto" / "mosquitto.pid").read_text())),
        [cpu_seconds(_pid(device)) for device in stage.devices],
        machine_seconds(),
    )


def _pid(device: Device) -> int:
    if device.child is None:
        raise DemoError(f"device {device.number} is not started")
    return device.child.process.pid


def _online(api: Api) -> int:
    return sum(device["online"] and device["prekeysFresh"] > 0 for device in api.get("/v1/devices"))


def _device_seconds(windows: list[Window]) -> float:
    """CPU seconds of a device and its worker from the end of one round to the end of the next, median over both."""
    ends = [window.after for window in windows if window.after is not None][WARM_UP - 1 :]
    return median(
        (after - before)
        for earlier, later in pairwise(ends)
        for before, after in zip(earlier.devices, later.devices, strict=True)
    )


async def _worker_alone(folder: Path) -> dict[str, float]:
    """CPU seconds of a worker outside of the fleet: its training steps, and everything until it has trained."""
    bundle = build_bundle(parse_model_spec({**MODEL, "batchSize": BATCH, "seed": 0}, "model"))
    directory = folder / "alone"
    directory.mkdir()
    (directory / "graph").write_bytes(bundle.graph)
    (directory / "weights").write_bytes(bundle.weights)
    request = Train(
        graph_path=str(directory / "graph"),
        weights_path=str(directory / "weights"),
        source=Source(kind="directory", name="bench", path=str(folder / "data" / "device-0.npz")),
        epochs=EPOCHS,
        learning_rate=RATE,
        momentum=0.0,
        proximal_mu=0.0,
        shuffle_seed=1,
        clip_norm=1.0,
        max_samples=ROWS,
    )
    trained = []
    for _ in range(5):
        async with Worker(directory, idle=False, nice=0) as worker:
            trained.append(await worker.train(request))
    return {
        "steps": median(each.step_cpu_seconds for each in trained),
        "until_trained": median(each.cpu_seconds for each in trained),
    }


def _import_seconds() -> float:
    """CPU seconds of an interpreter that imports what the worker imports, and ends."""
    modules = "worker, local_update, masked_update, sources, interpreter"
    statement = f"from fedge_agent.training import {modules}\nimport resource\nu = resource.getrusage(0)\n"
    statement += "print(u.ru_utime + u.ru_stime)"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", statement]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def main() -> int:
    """Measure and print; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description="A full secure round over the broker")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that are counted (default 7, at least 5)")
    parser.add_argument("--devices", type=int, default=20, help="agents (default 20, which the bars are for)")
    parser.add_argument("--keep", action="store_true", help="keep the working folder")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fedge-bench-"))
    started = time.monotonic()
    try:
        result = measure(options.devices, max(options.rounds, 5), folder, lambda text: print(text, file=sys.stderr))
    except DemoError as error:
        print(f"bench/round.py: {error}", file=sys.stderr)
        return 1
    finally:
        if options.keep:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    result["details"]["took_s"] = round(time.monotonic() - started, 1)
    if options.json:
        print(json.dumps(result))
    else:
        print(table(result["bars"]))
        print(json.dumps(result["details"], indent=2))
    return 0 if all(line["ok"] for line in result["bars"]) else 1


if __name__ == "__main__":
    sys.exit(main())
