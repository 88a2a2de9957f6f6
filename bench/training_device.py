"""A device in real rounds, with a model of 100,000 parameters: its memory at most, and again when it is idle."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedge_coordinator.api.views import Event
from fedge_coordinator.demo import fleet
from fedge_coordinator.demo.observing import Api, EventFeed
from fedge_coordinator.demo.processes import DemoError, run, wait_until
from fedge_coordinator.demo.programs import program
from fedge_coordinator.demo.stage import Options
from idle_device import RunningAgent
from installed import Installed
from processes import Memory, alone_bytes, children, family, memory
from round import BenchStage

DEVICES: Final = 4
ROUNDS: Final = 2
GIVEN_BACK_S: Final = 75.0
"""After a round the daemon gives memory back within a minute."""
_ROUNDS_TIMEOUT_S: Final = 480.0


@dataclass(frozen=True)
class Training:
    """In bytes.

    Attributes:
        most_alone: the most of all processes together, as if nothing were shared with others.
        most: the most of each figure of each process, at whatever moment.
        after: of the device that is idle again.
    """

    most_alone: int
    most: dict[str, Memory]
    after: Memory


class _Watch(threading.Thread):
    """Samples a daemon and its worker every 20 ms until `stop`."""

    def __init__(self, daemon_pid: int) -> None:
        super().__init__(name="memory", daemon=True)
        self.most_alone = 0
        self.most: dict[str, Memory] = {}
        self._daemon_pid = daemon_pid
        self._stop_it = threading.Event()

    def run(self) -> None:
        """Sample."""
        while not self._stop_it.wait(0.02):
            workers = children(self._daemon_pid)
            with contextlib.suppress(OSError, ValueError):  # the worker ended between two looks
                self.most_alone = max(self.most_alone, alone_bytes([self._daemon_pid, *workers]))
                self._take("daemon", memory([self._daemon_pid]))
                if workers:
                    self._take("worker", memory(workers))

    def stop(self) -> None:
        """Sample no more."""
        self._stop_it.set()
        self.join()

    def _take(self, role: str, found: Memory) -> None:
        before = self.most.get(role, found)
        values = {name: max(value, getattr(before, name)) for name, value in dataclasses.asdict(found).items()}
        self.most[role] = Memory(**values)


class _Ending:
    """Waits for the end of the job."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.failed = ""

    def take(self, event: Event) -> None:
        """An event, in the thread of the feed."""
        if event.name in {"round-aborted", "job-failed"}:
            self.failed = f"{event.name}: {event.fields.get('reason')}"
        if event.name in {"job-failed", "job-finished"}:
            self.over.set()


def measure_training(folder: Path, agent: Installed, say: Callable[[str], None]) -> Training:
    """Run rounds of four devices, the first one as its package runs it.

    Raises:
        DemoError: a part did not come up, or no worker trained: on a machine that is always busy none is admitted.
    """
    stage = BenchStage(folder, Options(rounds=ROUNDS, devices=DEVICES, seed=1), say).build()
    api, ending = Api(stage.socket), _Ending()
    feed = EventFeed(stage.socket, ending.take)
    try:
        watched, *others = stage.devices
        running = RunningAgent(watched, agent, stage.children, folder)
        for device in others:
            fleet.start(device, stage.children)
        wait_until(lambda: _ready(api) == DEVICES, "the agents", timeout_s=120)
        feed.start()
        watch = _Watch(running.pid)
        watch.start()
        say("training")
        run([program("fedgectl"), "apply", "--socket", str(stage.socket), "-f", str(folder / "job.yaml")])
        finished = ending.over.wait(_ROUNDS_TIMEOUT_S)
        watch.stop()
        if not finished or not watch.most.get("worker"):
            raise DemoError(f"the rounds did not end in {_ROUNDS_TIMEOUT_S:.0f} s {ending.failed}".rstrip())
        time.sleep(GIVEN_BACK_S)
        return Training(watch.most_alone, watch.most, memory(family(running.pid)))
    finally:
        feed.close()
        api.close()
        stage.close()


def _ready(api: Api) -> int:
    return sum(device["online"] and device["prekeysFresh"] > 0 for device in api.get("/v1/devices"))
