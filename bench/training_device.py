"""A device in real rounds, with a model of 100,000 parameters: its memory at most, and again when it is idle."""

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
from processes import Memory, family, memory
from round import BenchStage, MemoryWatch

DEVICES: Final = 4
ROUNDS: Final = 2
GIVEN_BACK_S: Final = 75.0
"""After a round the daemon gives memory back within a minute."""
_ROUNDS_TIMEOUT_S: Final = 300.0


@dataclass(frozen=True)
class Training:
    """In bytes: the most of all processes as if nothing were shared, the most PSS of each, idle after the rounds."""

    most_alone: int
    most_pss: dict[str, int]
    after: Memory


class _Ending:
    """Waits for the end of the job."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.failed = ""

    def take(self, event: Event) -> None:
        """An event, in the thread of the feed."""
        if event.name in {"round-aborted", "job-failed"}:
            self.failed = f"{event.name}: {event.fields.get('reason')}"
            self.over.set()
        elif event.name == "job-finished":
            self.over.set()


def measure_training(folder: Path, agent: Installed, say: Callable[[str], None]) -> Training:
    """Run rounds of four devices, the first one as its package runs it.

    Raises:
        DemoError: a part did not come up, or a round was aborted.
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
        watch = MemoryWatch(running.pid)
        watch.start()
        say("training")
        run([program("fedgectl"), "apply", "--socket", str(stage.socket), "-f", str(folder / "job.yaml")])
        finished = ending.over.wait(_ROUNDS_TIMEOUT_S)
        watch.stop()
        if ending.failed or not finished:
            raise DemoError(ending.failed or "the rounds did not end in time")
        time.sleep(GIVEN_BACK_S)
        return Training(watch.most_bytes, watch.most_pss_bytes, memory(family(running.pid)))
    finally:
        feed.close()
        api.close()
        stage.close()


def _ready(api: Api) -> int:
    return sum(device["online"] and device["prekeysFresh"] > 0 for device in api.get("/v1/devices"))
