"""`fedge-agent run` as a process of its own, enrolled by a CA in this process, with nobody at the broker's address."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedge_agent import control
from fedge_agent.identity import keys, record, request
from fedge_coordinator.enrolment import tables
from fedge_coordinator.enrolment.authority import Authority
from fedge_coordinator.enrolment.registrar import Registrar
from fedge_coordinator.enrolment.settings import Settings
from fedge_protocol.certificates import Role
from fedge_protocol.enrolment import EnrolRequest, parse_token

_AGENT = [sys.executable, "-c", "import sys; from fedge_agent.cli import main; sys.exit(main())"]
_DAY_S = 86_400


def enrol(state: Path, ca: Path, *, days_ago: int) -> str:
    """Leave behind what enrolment leaves, as if it had been done a while ago. Returns the device's id."""
    now = time.time() - days_ago * _DAY_S
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    settings = Settings("lab", f"127.0.0.1:{port}", ("localhost",), f"mqtts://127.0.0.1:{port}")
    authority = Authority.create("lab", datetime.fromtimestamp(now, UTC))
    registrar = Registrar(tables.open_database(ca), authority, settings, lambda: now)
    registrar.issue_service(Role.COORDINATOR, [], ec.generate_private_key(ec.SECP256R1()).public_key())
    text, _ = registrar.create_token(secret=bytes(16), uses=1, ttl_s=60, label="")
    token = parse_token(text)
    identity = keys.load_or_generate(state)
    asked = request.make(
        identity, registrar.fleet_info(), payout=identity.chain_address, nonce=bytes(32), purpose=token.secret_sha256()
    )
    answer = registrar.enrol(EnrolRequest(token.secret, asked.csr, request.proof_of(asked)))
    found = record.Record(
        token.url, "lab", token.ca_sha256, identity.device_id, answer, token.secret_sha256(), int(now)
    )
    record.install(state, record.Pending(asked, found))
    return identity.device_id


@dataclass
class Agent:
    """A configured device; `processes` are those that a test started."""

    folder: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "control.sock"

    def command(self, *words: str) -> list[str]:
        return [*_AGENT, "--config", str(self.folder / "agent.toml"), *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), capture_output=True, text=True, check=False, timeout=60)

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(self.command("run"), stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        while not self.answers():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        return process

    def answers(self) -> bool:
        try:
            control.ask(self.socket, "status")
        except control.DaemonUnreachableError:
            return False
        return True

    def stop(self, process: subprocess.Popen[str]) -> int:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        return process.returncode


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    agent.state.mkdir(mode=0o700)
    (tmp_path / "data").mkdir()
    (tmp_path / "agent.toml").write_text(
        f'state_dir = "{agent.state}"\nruntime_dir = "{tmp_path}/run"\n'
        f'[sources.watch]\nkind = "directory"\npath = "{tmp_path}/data"\n[kernel]\nnetwork = "off"\n'
    )
    yield agent
    for process in agent.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_without_a_broker_the_daemon_runs_says_so_and_stops_when_it_is_told_to(agent):
    device = enrol(agent.state, agent.folder / "ca.db", days_ago=0)
    process = agent.start()
    shown = agent.run("status")
    assert shown.returncode == 4
    assert f"{device} of fleet lab: not connected to the broker" in shown.stdout
    assert re.search(r"way out: +mqtts://127\.0\.0\.1:\d+, addresses from the system's resolver", shown.stdout)
    found = json.loads(agent.run("status", "-o", "json").stdout)
    assert found["device"] == device
    assert found["round"] is None
    assert found["admission"]["state"] == "idle"
    assert found["prekeys"] == 0
    assert agent.stop(process) == 0
    assert agent.run("status").returncode == 5


def test_a_pause_outlives_the_daemon(agent):
    enrol(agent.state, agent.folder / "ca.db", days_ago=0)
    process = agent.start()
    assert agent.run("pause").stdout == "paused now, until fedge-agent resume\n"
    assert agent.stop(process) == 0
    process = agent.start()
    assert (agent.state / "paused").exists()
    assert agent.run("resume").stdout.startswith("not paused any more")
    assert agent.stop(process) == 0
    assert not (agent.state / "paused").exists()


def test_an_expired_certificate_does_not_stop_the_daemon_nor_the_daemons_end(agent):
    """It goes on trying to renew, by a thread that the end of the process must not wait for."""
    enrol(agent.state, agent.folder / "ca.db", days_ago=300)
    process = agent.start()
    assert "not connected" in control.ask(agent.socket, "status")["status"]
    doctor = agent.run("doctor", "-o", "json")
    enrolment = next(check for check in json.loads(doctor.stdout)["checks"] if check["name"] == "enrolment")
    assert enrolment["grade"] == "fail"
    assert "enroll --again" in enrolment["cure"]
    assert agent.stop(process) == 0


def test_what_a_worker_left_behind_does_not_stop_the_next_start(agent):
    enrol(agent.state, agent.folder / "ca.db", days_ago=0)
    work = agent.state / "work"
    (work / "folder" / "deep").mkdir(parents=True)
    (work / "folder" / "deep" / "file").touch()
    (work / "link").symlink_to(agent.state / "identity.key")
    process = agent.start()
    assert list(work.iterdir()) == []
    assert (agent.state / "identity.key").exists()
    assert agent.stop(process) == 0


def test_keys_and_state_are_nobody_elses(agent):
    enrol(agent.state, agent.folder / "ca.db", days_ago=0)
    process = agent.start()
    for path in agent.state.rglob("*"):
        assert not path.stat().st_mode & 0o077, path
    if os.geteuid() == 0:
        # Not dumpable: the process belongs to root in /proc whoever it runs as, and cannot be traced by its own user.
        assert Path(f"/proc/{process.pid}/environ").stat().st_uid == 0
    assert agent.stop(process) == 0


def test_a_damaged_state_is_refused_with_its_name(agent):
    enrol(agent.state, agent.folder / "ca.db", days_ago=0)
    (agent.state / "state.db").write_bytes(b"no database" * 100)
    done = agent.run("run")
    assert done.returncode == 1
    assert "state.db" in done.stderr
    assert "Traceback" not in done.stderr
    outbox = agent.run("outbox")
    assert (outbox.returncode, "Traceback" in outbox.stderr) == (1, False)


def test_a_key_that_others_may_read_is_refused(agent):
    enrol(agent.state, agent.folder / "ca.db", days_ago=0)
    (agent.state / "identity.key").chmod(0o644)
    done = agent.run("run")
    assert done.returncode == 78
    assert "identity.key" in done.stderr
