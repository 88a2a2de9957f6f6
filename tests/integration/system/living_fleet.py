"""A fleet of real processes: Mosquitto, one coordinator, four agents. Each can be killed and started again."""

import json
import shutil
import sqlite3
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.integration.system.eavesdropper import Eavesdropper
from tests.integration.system.feed import Feed, Predicate
from tests.integration.system.ground import CLASSES, FEATURES, FLEET, SOURCE, Ground

from fedge_agent import control
from fedge_agent.identity import keys
from fedge_coordinator.api.views import Event
from fedge_coordinator.demo.observing import Api
from fedge_coordinator.demo.processes import Child, Children, DemoError, free_port, run
from fedge_coordinator.demo.programs import program

DEVICES = 4
_TIMEOUT_S = 90.0
_POLL_S = 0.1
_AGENT = """
state_dir = "{state}"
runtime_dir = "{folder}/run"

[consent]
allow_small_cohort = true

[sources.{source}]
kind = "directory"
path = "{data}"

[kernel]
network = "off"

# What other load there is on this machine must not decide the outcome.
[admission]
run_queue_p95_us = [2e8, 3e8]
cpu_some = [2, 3]
memory_some = [2, 3]
io_some = [2, 3]
temperature_c = [200, 201]
enter_after_s = 0
consider_every_s = 0.05
"""


@dataclass
class Device:
    """One device."""

    number: int
    name: str
    folder: Path
    child: Child | None = None
    forgotten: set[tuple[str, bytes]] = field(default_factory=set)

    @property
    def home(self) -> Path:
        """Its state directory."""
        return self.folder / "state"

    @property
    def config(self) -> Path:
        return self.folder / "agent.toml"

    @property
    def alive(self) -> bool:
        return self.child is not None and self.child.running

    def status(self) -> dict[str, Any]:
        """What the running daemon says of itself."""
        return control.ask(self.folder / "run" / "control.sock", "status")

    def database(self) -> "closing[sqlite3.Connection]":
        """The device's own memory, for looking at, or, when the daemon does not run, for breaking."""
        return closing(sqlite3.connect(self.home / "state.db", timeout=20, isolation_level=None))

    def signed(self) -> set[tuple[str, bytes]]:
        """Kinds and messages that it ever stored as signed, also in a memory that was lost since."""
        with self.database() as found:
            rows = found.execute("SELECT kind, message FROM signed").fetchall()
        return self.forgotten | {(kind, bytes(message)) for kind, message in rows}

    def lose_prekeys(self) -> None:
        """All that it knew of its prekeys is gone; the daemon must not run."""
        self.forgotten = self.signed()
        with self.database() as found:
            found.execute("DELETE FROM prekeys")
            found.execute("DELETE FROM signed WHERE kind='prekeys'")

    def lose_memory(self) -> None:
        """All but keys and certificates is gone; the daemon must not run."""
        self.forgotten = self.signed()
        for path in self.home.glob("state.db*"):
            path.unlink()

    def outcomes(self, job: str) -> dict[int, str]:
        """How this device's rounds of a job ended."""
        with self.database() as found:
            return dict(found.execute("SELECT round, outcome FROM rounds WHERE job=? ORDER BY attempt", (job,)))


class Killed:
    """A device that a trap has killed, once it has."""

    def __init__(self) -> None:
        self._device: Device | None = None
        self._happened = threading.Event()

    def set(self, device: Device) -> None:
        self._device = device
        self._happened.set()

    def wait_for(self) -> Device:
        assert self._happened.wait(_TIMEOUT_S)
        assert self._device is not None
        return self._device


class LivingFleet:
    """Starts everything; `close` ends what it started."""

    def __init__(self, ground: Ground, folder: Path) -> None:
        self.ground = ground
        self.folder = folder
        self.socket = folder / "api.sock"
        self.state = folder / "coordinator"
        self.published = self.state / "published"
        self.metrics_port = free_port()
        self.state.mkdir(mode=0o700)
        (folder / "logs").mkdir()
        self.children = Children(folder / "logs")
        ground.forget_sessions()
        self.broker = ground.start_broker()
        self.eavesdropper = Eavesdropper(ground)
        self.devices = [self._device(number) for number in range(DEVICES)]
        self._configure()
        self._expected_death = threading.Event()
        self.coordinator = self._start_coordinator()
        self.feed = Feed(self.socket, self.check)
        try:
            for device in self.devices:
                self.start_device(device)
            self.wait_until(self.everybody_is_there, "all devices online with prekeys")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.feed.close()
        self.eavesdropper.close()
        self.children.stop_all()
        self.broker.terminate()

    def check(self) -> None:
        """Raises: DemoError: the coordinator ended, and no test has killed it."""
        if not self._expected_death.is_set():
            self.coordinator.check()

    @property
    def healthy(self) -> bool:
        """Fit for another test."""
        with suppress(httpx.HTTPError, DemoError):
            running = all(child.running for child in (self.broker, self.coordinator)) and all(
                device.alive for device in self.devices
            )
            return running and self.everybody_is_there() and self._no_job_runs()
        return False

    # --- the coordinator

    def kill_coordinator_when(self, predicate: Predicate) -> threading.Event:
        """SIGKILL at the first event that `predicate` wants; the returned event says that it happened."""
        killed = threading.Event()

        def spring(_event: Event) -> None:
            self._expected_death.set()
            self.coordinator.kill()
            killed.set()

        self.feed.set_trap(predicate, spring)
        return killed

    def kill_coordinator(self) -> None:
        self._expected_death.set()
        self.coordinator.kill()

    def restart_coordinator(self, *instead: str) -> None:
        """Start it again; `instead` is another program that runs the coordinator."""
        assert not self.coordinator.running
        self.coordinator = self._start_coordinator(*instead)
        if not instead:
            self._expected_death.clear()
            self.wait_until(lambda: bool(self.api("/v1/devices")), "the coordinator answers")

    def wait_for_death(self) -> None:
        """Until a coordinator that kills itself has done so."""
        self._expected_death.set()
        self.wait_until(lambda: not self.coordinator.running, "the coordinator killed itself")

    def api(self, path: str) -> Any:
        api = Api(self.socket)
        try:
            return api.get(path)
        finally:
            api.close()

    def database(self) -> "closing[sqlite3.Connection]":
        """The coordinator's memory, to be broken while it does not run."""
        return closing(sqlite3.connect(self.state / "coordinator.db", timeout=20, isolation_level=None))

    def metrics(self) -> dict[str, float]:
        """Samples of /metrics by name with labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    def refused(self, kind: str, reason: str) -> float:
        """How many messages of a kind the coordinator refused for a reason."""
        sample = f'fedge_coordinator_messages_refused_total{{kind="{kind}",reason="{reason}"}}'
        return self.metrics().get(sample, 0.0)

    # --- the broker

    def kill_broker_when(self, predicate: Predicate) -> threading.Event:
        """SIGKILL the broker at the first event that `predicate` wants."""
        killed = threading.Event()

        def spring(_event: Event) -> None:
            self.broker.kill()
            killed.set()

        self.feed.set_trap(predicate, spring)
        return killed

    def restart_broker(self) -> None:
        self.broker = self.ground.start_broker()

    # --- devices

    def start_device(self, device: Device) -> None:
        command = [program("fedge-agent"), "--config", str(device.config), "run"]
        device.child = self.children.start(f"device-{device.number}", command, env={"OPENBLAS_NUM_THREADS": "1"})

    def kill_sender_when(self, predicate: Predicate) -> "Killed":
        """SIGKILL the device whose message the first wanted event reports."""
        killed = Killed()

        def spring(event: Event) -> None:
            device = next(each for each in self.devices if each.name == event.fields["device"])
            assert device.child is not None
            device.child.kill()
            killed.set(device)

        self.feed.set_trap(predicate, spring)
        return killed

    def everybody_is_there(self) -> bool:
        seen = {device["device"] for device in self.api("/v1/devices") if device["online"] and device["prekeysFresh"]}
        return all(device.name in seen and device.status()["connected"] for device in self.devices)

    # --- jobs

    def apply(
        self, job: str, *, rounds: int, phase_seconds: int = 30, target: int = DEVICES, pause_seconds: int = 0
    ) -> None:
        """Apply a job; its name must be new to the fleet."""
        document = {
            "apiVersion": "fedge.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": job},
            "spec": {
                "model": {"input": FEATURES, "layers": [{"dense": CLASSES}], "loss": "softmax-cross-entropy"},
                "data": {"source": SOURCE, "kind": "directory"},
                "training": {"epochs": 1, "batchSize": 8, "learningRate": 0.1, "clipNorm": 1.0, "maxSamples": 500,
                             "weightUnit": 40, "weightMax": 8},
                "cohort": {"minimum": 3, "target": target, "allowSmallCohort": True, "readySeconds": 120,
                           "phaseSeconds": phase_seconds},
                "aggregation": {"mode": "secure", "strategy": "fedavg", "suite": "chacha20"},
                "privacy": {"floor": 3},
                "admission": {},
                "rewards": {"perRound": "1000", "rule": "participation-v1"},
                "rollout": {"rounds": rounds, "pauseSeconds": pause_seconds},
            },
        }  # fmt: skip
        path = self.folder / f"{job}.yaml"
        path.write_text(yaml.safe_dump(document))
        run([program("fedgectl"), "apply", "--socket", str(self.socket), "-f", str(path)])

    def wait_finished(self, job: str, round_: int) -> dict[str, Any]:
        """Until a round has its checkpoint; returns what the coordinator said of it."""
        wanted = event_of(job, "round-finished", round=round_)
        return dict(self.feed.wait_for(wanted, f"round {round_} of {job} finished").fields)

    def wait_ended(self, job: str, round_: int) -> None:
        """Until a round is over, though the coordinator may have died before it could say so."""
        over = event_of(job, "round-finished", round=round_), event_of(job, "round-opened", round=round_ + 1)
        last = event_of(job, "job-finished", rounds=round_)
        self.feed.wait_for(
            lambda event: any(wanted(event) for wanted in (*over, last)), f"round {round_} of {job} ended"
        )

    def wait_published(self, job: str, round_: int) -> None:
        """Until an auditor finds the record of a round."""
        record = self.published / job / "records" / f"{round_:06}.json"
        self.wait_until(record.exists, f"the record of round {round_} of {job}")

    def wait_job(self, job: str) -> None:
        self.feed.wait_for(event_of(job, "job-finished"), f"{job} finished")

    def attempts(self, job: str) -> list[tuple[int, int, str]]:
        """Every attempt at every round: round, attempt, status."""
        return [(each["round"], each["attempt"], each["status"]) for each in self.api(f"/v1/rounds?job={job}")]

    def audit(self, job: str) -> dict[str, Any]:
        """`fedgectl audit` as an auditor calls it; raises when a check fails."""
        command = [program("fedgectl"), "audit", job, "--published", str(self.published), "-o", "json"]
        command += ["-f", str(self.folder / f"{job}.yaml"), "--socket", str(self.socket)]
        found: dict[str, Any] = json.loads(run(command))
        return found

    def wait_until(self, ready: Callable[[], bool], what: str, timeout_s: float = _TIMEOUT_S) -> None:
        """For what has no event: ask until it is so."""
        deadline_s = time.monotonic() + timeout_s
        while not self._asked(ready):
            self.check()
            assert time.monotonic() < deadline_s, f"{what}: not within {timeout_s:.0f} s"
            time.sleep(_POLL_S)

    @staticmethod
    def _asked(ready: Callable[[], bool]) -> bool:
        with suppress(httpx.TransportError, OSError, control.DaemonUnreachableError):
            return ready()
        return False

    def _no_job_runs(self) -> bool:
        return all(job["status"] in {"finished", "cancelled"} for job in self.api("/v1/jobs"))

    def _start_coordinator(self, *instead: str) -> Child:
        command = [
            *(instead or (program("fedge-coordinator"),)),
            "run",
            "--config",
            str(self.folder / "coordinator.toml"),
        ]
        return self.children.start("coordinator", command)

    def _device(self, number: int) -> Device:
        folder = self.folder / f"device-{number}"
        folder.mkdir(mode=0o700)
        device = Device(number, keys.load(self.ground.homes[number]).device_id, folder)
        shutil.copytree(self.ground.homes[number], device.home)
        data = self.ground.data[number]
        device.config.write_text(_AGENT.format(state=device.home, folder=folder, source=SOURCE, data=data))
        return device

    def _configure(self) -> None:
        ground, identity = self.ground, self.ground.identity
        (self.folder / "coordinator.toml").write_text(
            f'fleet = "{FLEET}"\nstate_dir = "{self.state}"\nsocket = "{self.socket}"\n'
            f'committee_keys = ["{ground.committee_key}"]\n\n'
            f'[identity]\nca = "{identity / "ca.pem"}"\ncert = "{identity / "cert.pem"}"\n'
            f'key = "{identity / "key.pem"}"\n\n[ca]\nurl = "https://127.0.0.1:{ground.ca_port}"\n\n'
            f'[broker]\nhost = "127.0.0.1"\nport = {ground.broker_port}\n\n[metrics]\nport = {self.metrics_port}\n'
        )


def event_of(job: str, name: str, **fields: object) -> Predicate:
    """Wants the events of a job with this name and these fields."""
    return lambda event: (
        event.name == name
        and event.fields.get("job") == job
        and all(event.fields.get(field) == value for field, value in fields.items())
    )
