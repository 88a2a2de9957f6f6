"""A real Mosquitto for tests: mutual TLS 1.3, access lists by certificate name, killed and started again at will."""

import datetime as dt
import ipaddress
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

COORDINATOR = "coordinator"
_START_S = 10.0


@dataclass(frozen=True)
class Identity:
    """A certificate, its key and the authority that vouches for it, as PEM files."""

    name: str
    ca_file: Path
    cert_file: Path
    key_file: Path


class ThrowawayAuthority:
    """A P-256 certificate authority that lives as long as its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throw-away authority")])
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = directory / "ca.pem"
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, server_names: tuple[str, ...] = ()) -> Identity:
        """A certificate for `name`; with `server_names` (DNS names or addresses) one for a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if server_names else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if server_names:
            names = x509.SubjectAlternativeName([_general_name(one) for one in server_names])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        cert_file, key_file = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.touch(mode=0o600)
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return Identity(name, self.ca_file, cert_file, key_file)

    def _builder(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


class Broker:
    """One Mosquitto on a free loopback port, with the access rules of the design.

    The coordinator (certificate name `coordinator`) reads and writes everything of the fleet; a device writes its own
    `up/#` and `presence`, reads its own `down/#`, offers and blobs.
    """

    def __init__(self, directory: Path, authority: ThrowawayAuthority, fleet: str) -> None:
        self.directory = directory
        self.authority = authority
        self.fleet = fleet
        self.host = "127.0.0.1"
        self.port = _free_port()
        self.websocket_port = _free_port()
        self.log_file = directory / "mosquitto.log"
        self.unix_path = directory / "mosquitto.sock"
        self._data = directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._identities: dict[str, Identity] = {}
        self._configure()

    def identity(self, name: str) -> Identity:
        """A client certificate for `name`; the same one when asked again."""
        if name not in self._identities:
            self._identities[name] = self.authority.issue(name)
        return self._identities[name]

    def start(self) -> None:
        """Start and wait until it accepts connections."""
        self._data.mkdir(exist_ok=True)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                ["mosquitto", "-c", str(self.directory / "mosquitto.conf")], stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"mosquitto did not start:\n{self.log_file.read_text()}")
            time.sleep(0.02)

    def save(self) -> None:
        """Have it write its state to disk, as it does at intervals (SIGUSR1)."""
        store = self._data / "mosquitto.db"
        before = store.stat().st_mtime_ns if store.exists() else 0
        self._running().send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + _START_S
        while not store.exists() or store.stat().st_mtime_ns == before:
            if time.monotonic() > deadline:
                raise RuntimeError("mosquitto did not write its state")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it at once (SIGKILL): what was not saved is lost."""
        process = self._running()
        process.kill()
        process.wait()
        self._process = None
        self.unix_path.unlink(missing_ok=True)

    def stop(self) -> None:
        """End it in good order; nothing to do when it does not run."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=_START_S)
            self._process = None

    def forget(self) -> None:
        """Delete its saved state; it must not run."""
        shutil.rmtree(self._data, ignore_errors=True)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("mosquitto does not run: call start()")
        return self._process

    def _answers(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _configure(self) -> None:
        server = self.authority.issue(f"broker-{self.port}", server_names=("localhost", "127.0.0.1"))
        tree = f"fedge/v1/{self.fleet}"
        (self.directory / "acl").write_text(
            "topic readwrite local/#\n"  # of the anonymous, whom only the Unix socket lets in
            f"user {COORDINATOR}\n"
            f"topic readwrite {tree}/#\n"
            f"pattern read {tree}/job/+/offer\n"
            f"pattern read {tree}/blob/+/+\n"
            f"pattern write {tree}/device/%u/up/#\n"
            f"pattern write {tree}/device/%u/presence\n"
            f"pattern read {tree}/device/%u/down/#\n"
        )
        secured = (
            f"cafile {self.authority.ca_file}\n"
            f"certfile {server.cert_file}\n"
            f"keyfile {server.key_file}\n"
            "tls_version tlsv1.3\n"
            "require_certificate true\n"
            "use_identity_as_username true\n"
            "use_username_as_clientid true\n"
        )
        (self.directory / "mosquitto.conf").write_text(
            "user root\n"
            "persistence true\n"
            f"persistence_location {self._data}/\n"
            "autosave_interval 0\n"
            "set_tcp_nodelay true\n"
            "max_queued_messages 10000\n"
            "message_size_limit 1200000\n"
            "per_listener_settings false\n"
            "allow_anonymous true\n"
            f"acl_file {self.directory / 'acl'}\n"
            f"listener {self.port} {self.host}\n"
            f"{secured}"
            f"listener {self.websocket_port} {self.host}\n"
            "protocol websockets\n"
            f"{secured}"
            f"listener 0 {self.unix_path}\n"
        )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
