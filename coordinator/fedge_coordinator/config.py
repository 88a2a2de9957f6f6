"""`coordinator.toml`: where the coordinator keeps its state, and whom it talks to. Checked whole, frozen."""

import tomllib
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from fedge_coordinator import credentials
from fedge_protocol.faults import faults, path_text
from fedge_protocol.ids import Fleet

DEFAULT_PATH: Final = Path("/etc/fedge/coordinator.toml")
_MAX_BYTES: Final = 256 * 1024
_OWN_KEY: Final = "fedge.coordinator.key"

AbsolutePath = Annotated[str, Meta(pattern="^/", description="an absolute path")]
Port = Annotated[int, Meta(ge=1, le=65535)]


class ConfigError(Exception):
    """The configuration cannot be used. One line for each fault."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file."""


class Identity(_Table, frozen=True):
    """`[identity]`: what `fedge-ca issue --kind coordinator` wrote (PEM)."""

    ca: AbsolutePath
    cert: AbsolutePath
    key: AbsolutePath


class Authority(_Table, frozen=True):
    """`[ca]`: where the fleet's CA serves its membership log."""

    url: Annotated[str, Meta(pattern="^https://")]


class Broker(_Table, frozen=True):
    """`[broker]`: the MQTT broker; `server_name` when its certificate carries another name than `host`."""

    host: str
    port: Port
    server_name: str | None = None


class Chain(_Table, frozen=True):
    """`[chain]`: an EVM chain. `urls` are tried in order; `manifest` is what `fedge-coordinator deploy` wrote."""

    urls: Annotated[list[str], Meta(min_length=1, max_length=8)]
    manifest: AbsolutePath
    sender_key: AbsolutePath


class Metrics(_Table, frozen=True):
    """`[metrics]`: where Prometheus finds `/metrics`; loopback only."""

    host: str = "127.0.0.1"
    port: Port = 9464


class Retention(_Table, frozen=True):
    """`[retention]`: how many finished rounds of a job keep vectors, journal and keys. Published records stay."""

    rounds: Annotated[int, Meta(ge=1, le=1_000_000)] = 8


class Config(_Table, frozen=True):
    """The whole file. Without `[chain]`, settlement goes to the local ledger.

    `held_out` names npz files by job, to score its checkpoints on. `committee_keys` sign checkpoints and reward roots.
    """

    fleet: Fleet
    state_dir: AbsolutePath
    socket: AbsolutePath
    identity: Identity
    ca: Authority
    broker: Broker
    committee_keys: Annotated[list[AbsolutePath], Meta(min_length=1, max_length=16)]
    chain: Chain | None = None
    metrics: Metrics | None = None
    retention: Retention = Retention()
    held_out: dict[str, list[AbsolutePath]] = {}
    log_level: Annotated[str, Meta(pattern=r"^(debug|info|warning|error)\Z")] = "info"


def load(path: Path) -> Config:
    """Read and check a configuration file. A key that the service manager gave as a credential comes before its file.

    Raises:
        ConfigError: with every fault.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(f"{path}: more than {_MAX_BYTES} bytes")
        plain = tomllib.loads(content.decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from None
    found = faults(plain, Config)
    if found:
        raise ConfigError("\n".join(f"{path}: {path_text(fault.path)}: {fault.message}" for fault in found))
    return _with_credentials(msgspec.convert(plain, Config))


def _with_credentials(config: Config) -> Config:
    own = credentials.path_of(Path(config.identity.key), name=_OWN_KEY)
    chain = config.chain
    if chain is not None:
        chain = msgspec.structs.replace(chain, sender_key=str(credentials.path_of(Path(chain.sender_key))))
    return msgspec.structs.replace(
        config,
        identity=msgspec.structs.replace(config.identity, key=str(own)),
        committee_keys=[str(credentials.path_of(Path(key))) for key in config.committee_keys],
        chain=chain,
    )
