"""What goes wrong on purpose: a device that joins late, one that is killed in mid-round, one that its owner pauses.

All of it follows from the seed, so that a run can be repeated; for that the operator pauses the job while a device
starts, or it would depend on the machine's speed in which round the device takes part.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fedge_coordinator.api.views import Event
from fedge_coordinator.demo import fleet
from fedge_coordinator.demo.fleet import Device
from fedge_coordinator.demo.observing import Api
from fedge_coordinator.demo.processes import Children
from fedge_coordinator.demo.stage import JOB

_LATE_AFTER_ROUND = 2
_KILL_IN_ROUND = 4
_PAUSE_IN_ROUND = 6
_PAUSE_S = 1.5
_TRAINS_WITHIN_S = 5.0
_LOOK_S = 0.02
_ONLINE_TIMEOUT_S = 60.0
_POLL_S = 0.1


@dataclass
class RoundResult:
    """One finished round, as the coordinator reported it."""

    round: int
    participants: int
    dropouts: int
    bytes_up: int
    accuracy: float | None
    loss: float | None
    by_person: dict[str, float]


@dataclass
class Tally:
    """What has happened so far."""

    rounds: list[RoundResult] = field(default_factory=list)
    phase: str = "starting"
    open_round: int = 0
    finished: bool = False
    failed: str = ""
    aborted: int = 0


class Scenario:
    """Reacts to events. `say` tells people."""

    def __init__(
        self, devices: list[Device], children: Children, api: Api, seed: int, rounds: int, say: Callable[[str], None]
    ) -> None:
        order = random.Random(seed).sample(range(len(devices)), len(devices))  # noqa: S311 - a repeatable choice
        self.tally = Tally()
        self.late = devices[order[0]]
        self.victim = devices[order[1]]
        self.paused = devices[order[2 % len(order)]]
        self._kill_in_round = min(_KILL_IN_ROUND, rounds)
        self._pause_in_round = min(_PAUSE_IN_ROUND, rounds)
        self._starts = {min(_LATE_AFTER_ROUND, rounds - 1): self.late, self._kill_in_round: self.victim}
        self._last = rounds
        self._devices, self._children, self._api, self._say = devices, children, api, say
        self._killed = False

    def start_devices(self) -> None:
        """Start all devices but the late one."""
        for device in self._devices:
            if device is not self.late:
                fleet.start(device, self._children)

    def take(self, event: Event) -> None:
        """An event of the coordinator."""
        fields, tally = event.fields, self.tally
        match event.name:
            case "round-opened":
                tally.open_round, tally.phase = int(fields["round"] or 0), "training"
                if tally.open_round in self._starts and tally.open_round < self._last:
                    self._api.post(f"/v1/jobs/{JOB}/pause")  # the open round goes on to its end
                if tally.open_round == self._pause_in_round:
                    threading.Thread(target=self._pause_in_training, daemon=True).start()
            case "input":
                tally.phase = str(fields.get("phase"))
                self._maybe_kill(event)
            case "round-finished":
                self._finished(event)
            case "round-aborted":
                tally.aborted += 1
                self._say(f"round {fields['round']} was aborted: {fields['reason']}; it is tried again")
            case "job-failed":
                tally.failed = str(fields["reason"])
            case "job-finished":
                tally.finished = True
            case _:
                pass

    def _maybe_kill(self, event: Event) -> None:
        """Kill the victim right after it has shared its keys and before its update is in: the worst moment."""
        fields = event.fields
        if self._killed or fields.get("round") != self._kill_in_round or fields.get("kind") != "shares":
            return
        if fields.get("device") == self.victim.name and self.victim.child is not None:
            self._killed = True
            self.victim.child.kill()
            self._say(f"device {self.victim.number} killed in round {self._kill_in_round}, after sharing its keys")

    def _finished(self, event: Event) -> None:
        fields, tally = event.fields, self.tally
        result = RoundResult(
            round=int(fields["round"] or 0),
            participants=int(fields["participants"] or 0),
            dropouts=int(fields["dropouts"] or 0),
            bytes_up=int(fields["bytes_up"] or 0),
            accuracy=_number(fields.get("accuracy")),
            loss=_number(fields.get("loss")),
            by_person={
                name.removeprefix("accuracy/"): float(value)
                for name, value in fields.items()
                if name.startswith("accuracy/") and isinstance(value, int | float)
            },
        )
        tally.rounds.append(result)
        device = self._starts.get(result.round)
        if device is not None and result.round < self._last:
            threading.Thread(target=self._start_between_rounds, args=(device,), name="start", daemon=True).start()

    def _start_between_rounds(self, device: Device) -> None:
        fleet.start(device, self._children)
        self._say(f"device {device.number} {'joins late' if device is self.late else 'starts again'}")
        deadline = time.monotonic() + _ONLINE_TIMEOUT_S
        while not self._online(device) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        self._api.post(f"/v1/jobs/{JOB}/resume")

    def _online(self, device: Device) -> bool:
        known = {entry["device"]: entry for entry in self._api.get("/v1/devices")}.get(device.name)
        return known is not None and known["online"] and known["prekeysFresh"] > 0

    def _pause_in_training(self) -> None:
        until_s = time.monotonic() + _TRAINS_WITHIN_S
        while time.monotonic() < until_s:
            status = self.paused.ask("status") or {}
            if status.get("admission", {}).get("state") == "running":
                break
            time.sleep(_LOOK_S)
        if self.paused.ask("pause") is not None:
            self._say(f"the owner of device {self.paused.number} pauses training")
            threading.Timer(_PAUSE_S, self._resume).start()

    def _resume(self) -> None:
        self.paused.refresh()
        self.paused.ask("resume")
        self._say(f"the owner of device {self.paused.number} lets it go on")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
