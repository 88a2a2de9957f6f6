"""A real CA in its own process, enrolled devices, and a real Mosquitto with what the CA rendered for it."""

import itertools
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedge_agent.identity.enroll import enroll
from fedge_agent.identity.record import Enrolment
from fedge_coordinator.enrolment.broker import render
from fedge_coordinator.enrolment.operator import SocketDesk
from fedge_coordinator.enrolment.registrar import DeviceState

_FEDGE_CA = [sys.executable, "-m", "fedge_coordinator.enrolment.cli"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode} before it listened")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"nobody listens on {port}")


@dataclass
class Ca:
    """A `fedge-ca` and its directory; `start` and `stop` as often as a test likes."""

    folder: Path
    coordinator: Path
    port: int
    broker_port: int
    process: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> str:
        done = subprocess.run(
            [*_FEDGE_CA, *arguments, "--dir", str(self.folder)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        with (self.folder / "ca.log").open("ab") as log:
            self.process = subprocess.Popen([*_FEDGE_CA, "run", "--dir", str(self.folder)], stdout=log, stderr=log)
        wait_for_port(self.port, self.process)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process = None
        return code

    def desk(self) -> SocketDesk:
        return SocketDesk(self.folder / "ca.sock")

    @staticmethod
    def clock() -> float:
        return time.time()

    def device(self, device_id: str) -> DeviceState:
        with self.desk() as desk:
            return next(device for device in desk.devices() if device.device_id == device_id)

    def issued(self, device_id: str) -> int:
        """How many certificates a device was ever given."""
        with closing(sqlite3.connect(self.folder / "ca.db")) as database:
            query = "SELECT count(*) FROM certificates WHERE name = ?"
            return int(database.execute(query, (device_id,)).fetchone()[0])

    def token(self, uses: int = 1, ttl_s: int = 3600) -> str:
        """A token from the running CA, by its socket."""
        with self.desk() as desk:
            return desk.create_token(uses=uses, ttl_s=ttl_s, label="").token


def _establish(folder: Path, fleet: str) -> Ca:
    ca = Ca(folder / f"ca-{fleet}", folder / f"coordinator-{fleet}", free_port(), free_port())
    ca.command(
        "init", "--fleet", fleet, "--listen", f"127.0.0.1:{ca.port}", "--name", "localhost",
        "--broker-url", f"mqtts://localhost:{ca.broker_port}",
    )  # fmt: skip
    ca.command("issue", "--kind", "coordinator", "--out", str(ca.coordinator))
    return ca


def _end(ca: Ca) -> None:
    if ca.process is not None:
        ca.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ca]:
    """A running CA that the tests of a file share; a test that ends it starts it again."""
    shared = _establish(tmp_path_factory.mktemp("shared"), "lab")
    shared.start()
    yield shared
    _end(shared)


@pytest.fixture
def make_ca(tmp_path: Path) -> Iterator[Callable[[str], Ca]]:
    """CAs of the test's own, running."""
    made: list[Ca] = []

    def make(fleet: str = "lab") -> Ca:
        own = _establish(tmp_path, fleet)
        made.append(own)
        own.start()
        return own

    yield make
    for own in made:
        _end(own)


@pytest.fixture
def device(ca: Ca, tmp_path: Path) -> Enrolment:
    return enroll(ca.token(), tmp_path / "device")


@dataclass
class Broker:
    """A Mosquitto of one CA's fleet."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    websocket_port: int | None = None

    def until_logged(self, *texts: str) -> bool:
        """Whether one of these appears in the log, now or within ten seconds."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            log = (self.folder / "log").read_text()
            if any(text in log for text in texts):
                return True
            time.sleep(0.05)
        return False


def render_websockets(ca: Ca, folder: Path, port: int) -> None:
    """As `fedge-ca broker --websocket-port` does, but whatever Mosquitto this is."""
    ca_file, cert, key, crl = (folder / f"{name}.pem" for name in ("ca", "cert", "key", "crl"))
    user = "root" if os.geteuid() == 0 else ""
    files = render(
        folder,
        port=ca.broker_port,
        ca=ca_file,
        cert=cert,
        key=key,
        crl=crl,
        fleet="lab",
        user=user,
        websocket_port=port,
    )
    assert "protocol websockets" in files.conf.read_text()


@pytest.fixture(scope="module")
def make_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Broker]]:
    """Brokers as the CA renders them; `fresh=False` starts the last one's directory again."""
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if mosquitto is None:
        pytest.skip("no mosquitto; apt-get install mosquitto")
    running: list[Broker] = []
    numbers = itertools.count()

    def make(ca: Ca, *, fresh: bool = True, websocket_port: int | None = None) -> Broker:
        folder = tmp_path_factory.mktemp("broker") / str(next(numbers)) if fresh else running[-1].folder
        if fresh:
            user = ["--user", "root"] if os.geteuid() == 0 else []
            port = ["--port", str(ca.broker_port)]
            ca.command("broker", "--out", str(folder), *port, "--name", "localhost", *user)
            if websocket_port is not None:
                render_websockets(ca, folder, websocket_port)
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen([mosquitto, "-c", str(folder / "mosquitto.conf")], stdout=log, stderr=log)
        broker = Broker(folder, ca.broker_port, process, websocket_port)
        running.append(broker)
        wait_for_port(broker.port, process)
        return broker

    yield make
    for broker in running:
        broker.process.kill()
        broker.process.wait(10)


@pytest.fixture(scope="module")
def link_broker() -> Callable[[Ca, Broker], None]:
    """Tells a stopped CA which broker on this machine it keeps informed, as an operator does in ca.toml."""

    def link(ca: Ca, broker: Broker) -> None:
        text = (ca.folder / "ca.toml").read_text().partition("[broker]")[0]
        text += f'[broker]\ndir = "{broker.folder}"\npid_file = "{broker.folder / "mosquitto.pid"}"\n'
        (ca.folder / "ca.toml").write_text(text)

    return link
