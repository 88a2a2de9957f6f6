"""What all fleets of a session stand on: one CA process, the broker's files, five enrolled devices, tiny data."""

import os
import shutil
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives import serialization

from fedge_agent.identity import enroll as enrolment
from fedge_agent.identity import keys
from fedge_coordinator.demo.processes import Child, Children, accepts, free_port, run, wait_until
from fedge_coordinator.demo.programs import find, program
from fedge_coordinator.enrolment.authority import Authority, private_pem
from fedge_coordinator.enrolment.operator import SocketDesk

FLEET = "proof"
SOURCE = "watch"
FEATURES, CLASSES = 4, 3
EAVESDROPPER = "eavesdropper"
_SAMPLES = 40
_MQTT_PING = b"\xc0\x00"


@dataclass(frozen=True)
class Credentials:
    """PEM files of a broker client; `name` is the certificate's common name."""

    name: str
    ca: Path
    cert: Path
    key: Path


@dataclass
class Ground:
    """Paths and ports. `homes` are the enrolled devices' state directories, to be copied; the last one is mallory's."""

    folder: Path
    children: Children
    ca_port: int = field(default_factory=free_port)
    broker_port: int = field(default_factory=free_port)
    homes: list[Path] = field(default_factory=list)
    data: list[Path] = field(default_factory=list)
    eavesdropper: Credentials | None = None
    stranger: Credentials | None = None

    @property
    def identity(self) -> Path:
        """Certificate and key of the coordinator."""
        return self.folder / "identity"

    @property
    def committee_key(self) -> Path:
        return self.folder / "keys" / "committee.key"

    @property
    def broker(self) -> Path:
        return self.folder / "mosquitto"

    def start_broker(self) -> Child:
        mosquitto = find("mosquitto")
        assert mosquitto is not None
        child = self.children.start("mosquitto", [mosquitto, "-c", str(self.broker / "mosquitto.conf")])
        wait_until(lambda: accepts(self.broker_port), "Mosquitto", timeout_s=30, child=child)
        return child

    def knock(self, who: Credentials) -> str:
        """Show a certificate to the broker: `admitted` or `refused`. By TLS 1.3 the verdict follows the handshake."""
        context = ssl.create_default_context(cafile=str(who.ca))
        context.load_cert_chain(who.cert, who.key)
        with socket.create_connection(("127.0.0.1", self.broker_port), timeout=30) as plain:
            try:
                with context.wrap_socket(plain, server_hostname="127.0.0.1") as guarded:
                    guarded.settimeout(30)
                    guarded.sendall(_MQTT_PING)
                    return "admitted" if guarded.recv(1) else "closed"
            except ssl.SSLError:
                return "refused"

    def forget_sessions(self) -> None:
        """What the broker saved of sessions, queues and retained messages is gone."""
        shutil.rmtree(self.broker / "data", ignore_errors=True)
        (self.broker / "data").mkdir(mode=0o700)


def lay(folder: Path) -> Ground:
    """Found the fleet and enrol five devices, each from a process or a library call of the real programs."""
    (folder / "logs").mkdir()
    ground = Ground(folder, Children(folder / "logs"))
    ca, other = folder / "ca", folder / "other-ca"
    _found(ca, FLEET, ground)
    _found(other, "elsewhere", ground)
    run([program("fedge-ca"), "issue", "--dir", str(ca), "--kind", "coordinator", "--out", str(ground.identity)])
    broker = ["broker", "--dir", str(ca), "--out", str(ground.broker), "--port", str(ground.broker_port)]
    run([program("fedge-ca"), *broker, "--name", "127.0.0.1", "--user", "root" if os.geteuid() == 0 else ""])
    run([program("fedge-coordinator"), "keys", str(folder / "keys")])
    ground.eavesdropper = _intruder(folder / "eavesdropper", ca, FLEET, EAVESDROPPER, ca)
    with (ground.broker / "acl").open("a") as acl:
        acl.write(f"\nuser {EAVESDROPPER}\ntopic readwrite fedge/v1/{FLEET}/#\n")
    child = ground.children.start("ca", [program("fedge-ca"), "run", "--dir", str(ca)])
    wait_until(lambda: accepts(ground.ca_port), "the CA", timeout_s=60, child=child)
    _enrol(ground, ca / "ca.sock")
    victim = keys.load(ground.homes[0]).device_id
    ground.stranger = _intruder(folder / "stranger", other, "elsewhere", victim, ca)
    return ground


def _found(folder: Path, fleet: str, ground: Ground) -> None:
    command = [program("fedge-ca"), "init", "--dir", str(folder), "--fleet", fleet, "--name", "127.0.0.1"]
    command += ["--listen", f"127.0.0.1:{ground.ca_port}", "--broker-url", f"mqtts://127.0.0.1:{ground.broker_port}"]
    run(command)


def _enrol(ground: Ground, socket: Path) -> None:
    rng = np.random.default_rng(7)
    with SocketDesk(socket) as desk:
        token = desk.create_token(uses=5, ttl_s=3600, label="").token
    for number in range(5):
        home = ground.folder / "homes" / str(number)
        enrolment.enroll(token, home)
        y = rng.integers(0, CLASSES, _SAMPLES * (number + 1))
        x = rng.normal(0, 0.3, (len(y), FEATURES)).astype(np.float32)
        x[np.arange(len(y)), y] += 1
        ground.data.append(ground.folder / f"data-{number}.npz")
        np.savez(ground.data[-1], x=x, y=y)
        ground.homes.append(home)


def _intruder(folder: Path, ca: Path, fleet: str, name: str, trusted: Path) -> Credentials:
    """A client certificate under any name, signed by the root in `ca`; the broker is believed by that in `trusted`."""
    folder.mkdir()
    authority = Authority.load((ca / "ca.key").read_bytes(), (ca / "ca.pem").read_bytes(), fleet)
    certificate, key = authority.issue_eviction(name, now=datetime.now(UTC))
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(private_pem(key))
    with suppress(FileExistsError):
        shutil.copy(trusted / "ca.pem", folder / "ca.pem")
    return Credentials(name, folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
