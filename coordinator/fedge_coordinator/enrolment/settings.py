"""`ca.toml`: what the operator chose for this CA. Written once by `fedge-ca init`, edited by hand after."""

import tomllib
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from msgspec import Meta

from fedge_coordinator.enrolment.errors import SettingsError
from fedge_protocol.enrolment import BrokerUrl
from fedge_protocol.ids import Counter, Fleet

_HostPort = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.:\[\]-]{1,253}:[0-9]{1,5}\Z")]
_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.:-]{1,253}\Z")]
_AddressText = Annotated[str, Meta(pattern=r"^0x[0-9a-fA-F]{40}\Z")]
_SpkiHex = Annotated[str, Meta(pattern=r"^[0-9a-f]{2,512}\Z")]
_Days = Annotated[int, Meta(ge=1, le=3650)]
MAX_SETTINGS_BYTES: Final = 64 * 1024


class BrokerLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Mosquitto on this machine that the CA keeps informed of revocations.

    `dir` holds `acl`, `crl.pem` and `mosquitto.pid` as `fedge-ca broker` wrote them. Without `pid_file` nobody is
    signalled: a systemd path unit on `dir/crl.pem` may reload the broker instead.
    """

    dir: str
    pid_file: str = ""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The CA's configuration. `names` are what the HTTPS certificate is for; the first one goes into tokens."""

    fleet: Fleet
    listen: _HostPort
    names: Annotated[tuple[_Name, ...], Meta(min_length=1, max_length=16)]
    broker_url: BrokerUrl
    chain_id: Counter = 0
    registry: _AddressText = "0x" + 40 * "0"
    device_days: _Days = 90
    service_days: _Days = 397
    job_signers: Annotated[tuple[_SpkiHex, ...], Meta(max_length=16)] = ()
    broker: BrokerLink | None = None

    @property
    def host(self) -> str:
        """The address to listen on."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port to listen on."""
        return int(self.listen.rpartition(":")[2])

    @property
    def url(self) -> str:
        """Where devices enrol."""
        name = f"[{self.names[0]}]" if ":" in self.names[0] else self.names[0]
        return f"https://{name}:{self.port}"

    @property
    def registry_address(self) -> bytes:
        """DeviceRegistry's 20-byte address; zero without a chain."""
        return bytes.fromhex(self.registry[2:])


def load(path: Path) -> Settings:
    """Read `ca.toml`.

    Raises:
        SettingsError: missing, no TOML, or a value out of its bounds; names the field.
    """
    try:
        with path.open("rb") as file:
            return msgspec.convert(tomllib.loads(file.read(MAX_SETTINGS_BYTES).decode()), Settings)
    except FileNotFoundError:
        raise SettingsError(
            f"{path} is missing; make a CA with: fedge-ca init --fleet NAME --dir {path.parent}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise SettingsError(f"{path}: {error}; correct that line and start again") from None


def check(**values: object) -> Settings:
    """Settings from the arguments of `fedge-ca init`.

    Raises:
        SettingsError: a value out of its bounds; names the field.
    """
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{error}; see fedge-ca init --help") from None


def as_toml(settings: Settings) -> str:
    """The text of `ca.toml`."""

    def quoted(values: tuple[str, ...]) -> str:
        return "[" + ", ".join(f'"{value}"' for value in values) + "]"

    lines = [
        "# The fleet's certificate authority. `fedge-ca run` reads this at its start.",
        f'fleet = "{settings.fleet}"',
        f'listen = "{settings.listen}"',
        f"names = {quoted(settings.names)}",
        f'broker_url = "{settings.broker_url}"',
        "# the chain whose DeviceRegistry the devices' bindings are for; 0 and the zero address: no chain",
        f"chain_id = {settings.chain_id}",
        f'registry = "{settings.registry}"',
        f"device_days = {settings.device_days}",
        f"service_days = {settings.service_days}",
        "# public keys (SPKI DER, hex) whose jobs devices trust; empty: the coordinator's",
        f"job_signers = {quoted(settings.job_signers)}",
    ]
    if settings.broker is not None:
        lines += [
            "# the broker on this machine that is told about revocations",
            "[broker]",
            f'dir = "{settings.broker.dir}"',
            f'pid_file = "{settings.broker.pid_file}"',
        ]
    return "\n".join(lines) + "\n"


def spki_hex(pem: bytes) -> str:
    """The public key in a PEM file as `job_signers` wants it.

    Raises:
        SettingsError: no public key in PEM.
    """
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError("a job signer is a public key in PEM (openssl ec -pubout)") from None
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo).hex()
