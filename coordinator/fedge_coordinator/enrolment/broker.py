"""The fleet's Mosquitto: its configuration, and how it learns of a revocation.

A revocation reaches the broker in three steps. The CRL and the ACL are rewritten, the ACL denying the revoked name
everything; SIGHUP makes Mosquitto read both, from when on the device can neither connect, publish nor be delivered to;
then the session itself is ended by a connection under the same name (`Authority.issue_eviction`), since Mosquitto has
no other way to close one session. That connection asks to publish and stays until it is told "not authorised": the
proof that the new lists are in force and that the device cannot come back.
"""

import os
import re
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, Final

import paho.mqtt.client as mqtt
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from fedge_coordinator.enrolment.authority import private_pem
from fedge_coordinator.enrolment.errors import BrokerError
from fedge_coordinator.enrolment.files import PRIVATE, PUBLIC, write_durably
from fedge_protocol.certificates import coordinator_name

PACKET_BYTES: Final = 192 * 1024
QUEUED_BYTES: Final = 64 * 1024 * 1024
WEBSOCKETS_FROM: Final = (2, 1, 2)
_NOT_AUTHORISED: Final = 135
_RETRY_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class BrokerFiles:
    """What `render` wrote. Start the broker with `mosquitto -c conf`."""

    conf: Path
    acl: Path
    pid_file: Path


@dataclass(frozen=True, slots=True)
class Eviction:
    """What it takes to end a session: the certificate and key under the device's name, and the broker's address."""

    device_id: str
    fleet: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    ca: x509.Certificate
    host: str
    port: int


def render(
    folder: Path,
    *,
    port: int,
    ca: Path,
    cert: Path,
    key: Path,
    crl: Path,
    fleet: str,
    address: str = "127.0.0.1",
    user: str = "",
    revoked: Sequence[str] = (),
    websocket_port: int | None = None,
) -> BrokerFiles:
    """Write `mosquitto.conf` and `acl` into `folder`.

    Args:
        folder: also holds the broker's pid file and, in `data/`, its persistence; must be writable by the broker.
        port: to listen on, at `address`.
        ca: the fleet's root, `cert` and `key` the broker's own, `crl` the revocation list; all PEM.
        cert: see `ca`.
        key: see `ca`.
        crl: see `ca`.
        fleet: whose topics are served.
        address: to listen on.
        user: whom Mosquitto becomes when started by root; empty for its default, `mosquitto`.
        revoked: device ids that are denied everything.
        websocket_port: to listen on for MQTT in a WebSocket, at the same address; None: not at all.

    Raises:
        BrokerError: a path cannot be written into a Mosquitto configuration (spaces or line breaks at its ends).
    """
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    (folder / "data").mkdir(mode=0o700, exist_ok=True)
    paths = {"dir": folder.resolve(), "ca": ca.resolve(), "cert": cert.resolve(), "key": key.resolve()}
    paths["crl"] = crl.resolve()
    for path in paths.values():
        if "\n" in str(path) or str(path) != str(path).strip():
            raise BrokerError(f"{str(path)!r} cannot stand in a Mosquitto configuration; choose another directory")
    text = _template("mosquitto.conf.template").substitute(
        paths,
        port=port,
        address=address,
        user_line=f"user {user}\n" if user else "",
        packet_bytes=PACKET_BYTES,
        queued_bytes=QUEUED_BYTES,
    )
    if websocket_port is not None:
        text += _template("websockets.conf.template").substitute(paths, port=websocket_port, address=address)
    files = BrokerFiles(folder / "mosquitto.conf", folder / "acl", folder / "mosquitto.pid")
    write_durably(files.conf, text.encode(), mode=PUBLIC)
    write_acl(files.acl, fleet, revoked)
    return files


def require_websockets(program: str | None) -> None:
    """Refuse a Mosquitto that cannot be trusted with WebSockets.

    2.0.11 (Debian 12) and 2.0.21 (Debian 13) crash when a session over a WebSocket is taken over, by a device that
    comes back before its old connection is found dead or by a revocation: the one at once, the other when the new
    connection ends soon.
    2.1.2, whose WebSockets are its own, does not.

    Args:
        program: the Mosquitto of this machine; None, with the broker elsewhere: nothing can be said.

    Raises:
        BrokerError: it is older than 2.1.2.
    """
    if program is None:
        return
    told = subprocess.run([program, "-h"], check=False, capture_output=True, text=True, timeout=10).stdout  # noqa: S603 - found on PATH
    match = re.match(r"mosquitto version (\d+)\.(\d+)\.(\d+)", told)
    found = tuple(int(number) for number in match.groups()) if match is not None else (0, 0, 0)
    if found < WEBSOCKETS_FROM:
        shown, wanted = (".".join(map(str, version)) for version in (found, WEBSOCKETS_FROM))
        raise BrokerError(
            f"mosquitto {shown} crashes when a device comes back over a WebSocket; install {wanted} or later, or use "
            '--port 443 instead, with broker = "mqtts://HOST:443" on devices: that goes through a proxy too'
        )


def write_acl(path: Path, fleet: str, revoked: Sequence[str]) -> None:
    """Write who may do what; a device in `revoked` nothing at all."""
    denied = "".join(f"\nuser {device_id}\ntopic deny #\n" for device_id in revoked)
    text = _template("acl.template").substitute(fleet=fleet, coordinator=coordinator_name(fleet), revoked=denied)
    write_durably(path, text.encode(), mode=PUBLIC)


def reload(pid: int, *, proc: Path = Path("/proc")) -> None:
    """Make the Mosquitto with this process id read its ACL and CRL again.

    Raises:
        BrokerError: no such process, it is no Mosquitto (a stale pid file), or this user may not signal it.
    """
    try:
        name = (proc / str(pid) / "comm").read_text().strip()
    except OSError:
        raise BrokerError(f"no process {pid}; is the broker running?") from None
    if name != "mosquitto":
        raise BrokerError(f"process {pid} is {name!r}, not mosquitto; remove the stale pid file")
    try:
        os.kill(pid, signal.SIGHUP)
    except ProcessLookupError:
        raise BrokerError(f"no process {pid}; is the broker running?") from None
    except PermissionError:
        raise BrokerError(
            f"this user may not signal process {pid}; reload it by systemd instead (deploy/mosquitto/README.md)"
        ) from None


def read_pid(path: Path) -> int:
    """The process id in a pid file.

    Raises:
        BrokerError: no such file, or no number in it.
    """
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        raise BrokerError(f"{path} holds no process id; is the broker running?") from None


def evict(
    eviction: Eviction,
    *,
    timeout_s: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Take a revoked device's session over and end it. Returns when the broker lets that name do nothing any more.

    A broker that is not running has no sessions; when it starts it reads the new lists.

    Raises:
        BrokerError: the broker still lets that name publish, or does not answer, after `timeout_s`.
    """
    deadline_s = clock() + timeout_s
    fault = "it never answered"
    while clock() < deadline_s:
        try:
            if _denied(eviction, deadline_s, clock):
                return
            fault = "it still lets that name publish; has it read the new acl?"
        except ConnectionRefusedError:
            return
        except (OSError, ssl.SSLError) as error:
            fault = str(error)
        sleep(_RETRY_S)
    raise BrokerError(f"the session of {eviction.device_id} at {eviction.host}:{eviction.port} was not ended: {fault}")


def _denied(eviction: Eviction, deadline_s: float, clock: Callable[[], float]) -> bool:
    """Connect under the device's name and say whether the broker forbids it to publish."""
    codes: list[int] = []

    def acknowledged(_client: mqtt.Client, _data: object, _mid: int, code: Any, _properties: object) -> None:
        codes.append(int(code.value))

    def connected(client: mqtt.Client, _data: object, _flags: object, code: Any, _properties: object) -> None:
        if not code.is_failure:
            # an empty retained message also clears the revoked device's presence, should it be let through
            client.publish(f"fedge/v1/{eviction.fleet}/device/{eviction.device_id}/presence", b"", qos=1, retain=True)

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=eviction.device_id, protocol=mqtt.MQTTv5)
    client.on_connect = connected
    client.on_publish = acknowledged
    client.tls_set_context(_context(eviction))
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho declares no types here
    properties.SessionExpiryInterval = 0
    client.connect(eviction.host, eviction.port, keepalive=10, clean_start=True, properties=properties)
    while not codes and clock() < deadline_s and client.loop(timeout=0.2) == mqtt.MQTT_ERR_SUCCESS:
        continue
    client.disconnect()
    client.loop(timeout=0.2)
    return codes == [_NOT_AUTHORISED]


def _context(eviction: Eviction) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=eviction.ca.public_bytes(serialization.Encoding.PEM).decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "eviction.pem"
        pem = private_pem(eviction.key) + eviction.certificate.public_bytes(serialization.Encoding.PEM)
        write_durably(path, pem, mode=PRIVATE)
        context.load_cert_chain(path)
    return context


def _template(name: str) -> Template:
    return Template(resources.files("fedge_coordinator.enrolment").joinpath("mosquitto", name).read_text())
