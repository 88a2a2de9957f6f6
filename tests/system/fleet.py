"""A small fleet: how it is founded, joined and asked, by the commands of README."""

import hashlib
import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml
from tests.system.archive import KEYRING, Archive
from tests.system.machine import Done, Machine, MachineError
from tests.system.readme import commands

OWNER = """# Small machines on a busy host: the load beside them must not decide, and three are a fleet.
[consent]
allow_small_cohort = true
max_epochs = 1000

[sources.readings]
kind = "directory"
path = "/srv/readings"

[admission]
run_queue_p95_us = [2e8, 3e8]
cpu_some = [2, 3]
memory_some = [2, 3]
io_some = [2, 3]
temperature_c = [200, 201]
enter_after_s = 0
"""
NAME = "lab"
STATE_DB = "/var/lib/fedge/state.db"
ACCEPTED = """import json, sqlite3, sys
db = sqlite3.connect("/var/lib/fedge-coordinator/coordinator.db")
query = "SELECT job, round, attempt, kind, hex(body) FROM journal WHERE device = ?"
print(json.dumps(db.execute(query, sys.argv[1:]).fetchall()))
"""
_STILL_S = 3.0


def job(name: str, *, target: int = 2, ready_s: int = 120, phase_s: int = 60, epochs: int = 2) -> dict[str, Any]:
    """A job that takes a second of training, and more with more epochs."""
    layers = [{"dense": 8, "activation": "relu"}, {"dense": 3}]
    training = {"epochs": epochs, "batchSize": 8, "learningRate": 0.05, "clipNorm": 1.0, "maxSamples": 64}
    cohort = {
        "minimum": 2,
        "target": target,
        "allowSmallCohort": True,
        "readySeconds": ready_s,
        "phaseSeconds": phase_s,
    }
    return {
        "apiVersion": "fedge.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"input": 4, "layers": layers, "loss": "softmax-cross-entropy", "seed": 1},
            "data": {"source": "readings", "kind": "directory"},
            "training": {**training, "weightUnit": 32, "weightMax": 2},
            "cohort": cohort,
            "aggregation": {"mode": "secure", "strategy": "fedavg", "suite": "chacha20"},
            "privacy": {"floor": 2},
            "admission": {},
            "rewards": {"perRound": "0", "rule": "participation-v1"},
            "rollout": {"rounds": 5000},
        },
    }


def trust(machine: Machine, archive: Archive) -> None:
    """README: the archive and its key. Nobody is there to answer apt's questions."""
    key = hashlib.sha256((archive.folder / KEYRING).read_bytes()).hexdigest()
    machine.write(
        "/etc/apt/apt.conf.d/90-nobody-there", 'APT::Get::Assume-Yes "true";\nAPT::Install-Recommends "true";\n'
    )
    # all else that is needed is in the base system already; no mirror is asked
    machine.do(": >/etc/apt/sources.list")
    fetch = " && ".join(commands("apt-helper"))
    machine.do(f"archive={archive.url} key=SHA256:{key}; {fetch}")


def install(machine: Machine, package: str, version: str | None = None) -> None:
    """README: the packages of a device or of the operator, or one version of a package as README says how to have."""
    if version is None:
        (command,) = [line for line in commands(f"apt install {package}") if line.startswith("apt install")]
        machine.do(command)
    else:
        machine.do(f"apt install --allow-downgrades {package}={version}")


def own(machine: Machine, seed: int, more: str = "") -> None:
    """The owner's part: readings, and what the owner agrees to."""
    rows = [f"{(i * 7 + seed) % 5},{i % 3},{(i * i) % 4},{seed},{i % 3}" for i in range(64)]
    machine.write("/srv/readings/readings.csv", "a,b,c,d,y\n" + "\n".join(rows) + "\n")
    machine.write("/etc/fedge/agent.d/50-test.toml", OWNER + more)
    machine.do("fedge-agent config check && systemctl restart fedge-agent")


def connected(machine: Machine, timeout_s: float = 120.0) -> None:
    """Return when the daemon is in touch with its coordinator; asks systemd, which costs nothing."""

    def good(done: Done) -> bool:
        return done.text.startswith(("waiting", "job "))

    try:
        machine.wait("systemctl show -P StatusText fedge-agent", good, timeout_s)
    except MachineError as error:
        raise MachineError(f"{error}\n{machine.journal('fedge-agent')[-3000:]}") from None


def waits_ready(machine: Machine, timeout_s: float = 120.0) -> str:
    """Return when the machine has said READY in a round that now waits for somebody else: the unit's status line."""
    seen = ""

    def good(done: Done) -> bool:
        nonlocal seen
        if ": ready" not in done.text:
            return False
        seen, before = done.text, seen
        if seen != before:
            time.sleep(_STILL_S)  # a round that goes on is over by then
        return seen == before

    return machine.wait("systemctl show -P StatusText fedge-agent", good, timeout_s).text


def restarts_soon(machine: Machine) -> None:
    """The unit's 30 s between two starts prove nothing that one second does not; an emulated start takes a minute."""
    settings = "[Service]\nRestartSec=1s\nTimeoutStartSec=600s\n"
    machine.write("/etc/systemd/system/fedge-agent.service.d/soon.conf", settings)
    machine.do("systemctl daemon-reload")


def signed(database: Path) -> dict[tuple[str, int, int, str], bytes]:
    """What a device has signed, by (job, round, attempt, kind); `database` is its state.db or a copy."""
    with closing(sqlite3.connect(database)) as db:
        rows = db.execute("SELECT job, round, attempt, kind, body FROM signed").fetchall()
    return {tuple(row[:4]): row[4] for row in rows}


class Fleet:
    """A fleet on its operator's machine, which has fedge-coordinator installed."""

    def __init__(self, operator: Machine) -> None:
        self.operator = operator
        founding = " && ".join(commands("fedgectl init")[1:])
        self._token = operator.do(founding.replace("fedge.example.org", operator.address)).split()[-1]
        operator.wait("systemctl is-active fedge-ca fedge-broker fedge-coordinator", lambda done: done.status == 0)

    def enrol(self, machine: Machine, timeout_s: float = 120.0) -> str:
        """README: a token, and `fedge-agent enroll`; returns the device's id once it is connected."""
        token, self._token = self._token or self.operator.do("fedgectl token create").split()[-1], ""
        machine.do(commands("fedge-agent enroll")[-1].replace("TOKEN", token))
        connected(machine, timeout_s)
        return str(json.loads(machine.run("fedge-agent status -o json").text)["device"])

    def apply(self, document: dict[str, Any]) -> None:
        """`fedgectl apply`."""
        self.operator.write("/root/job.yaml", yaml.safe_dump(document))
        self.operator.do("fedgectl apply -f /root/job.yaml")

    def rounds(self, name: str) -> list[dict[str, Any]]:
        """`fedgectl get rounds`, the oldest first."""
        return list(json.loads(self.operator.do(f"fedgectl get rounds --job {name} -o json")))

    def finished(self, name: str) -> list[dict[str, Any]]:
        """Those that made a model."""
        return [row for row in self.rounds(name) if row["status"] == "finished"]

    def rests(self, name: str, timeout_s: float = 150.0) -> None:
        """Pause a job; return when no round of it is open. A device that is busy misses the offer of another job."""
        self.operator.do(f"fedgectl pause job {name}")
        asked = f"fedgectl get rounds --job {name} -o json"
        self.operator.wait(asked, lambda done: '"status": "open"' not in done.text, timeout_s)

    def completes(self, name: str, participants: int = 2, timeout_s: float = 150.0) -> dict[str, Any]:
        """Return the next round, not yet finished now, that so many devices complete."""
        before = {row["round"] for row in self.finished(name)}

        def found(done: Done) -> list[dict[str, Any]]:
            rows = [row for row in json.loads(done.text) if row["status"] == "finished" and row["round"] not in before]
            return [row for row in rows if row["participants"] == participants]

        done = self.operator.wait(f"fedgectl get rounds --job {name} -o json", lambda d: bool(found(d)), timeout_s)
        return found(done)[0]

    def accepted(self, device: str) -> list[tuple[tuple[str, int, int], str, bytes]]:
        """What the coordinator accepted from a device: ((job, round, attempt), kind, body), from its journal."""
        self.operator.write("/root/accepted.py", ACCEPTED)
        rows = json.loads(self.operator.do(f"/usr/bin/python3 -IS /root/accepted.py {device}"))
        return [((row[0], row[1], row[2]), row[3], bytes.fromhex(row[4])) for row in rows]
