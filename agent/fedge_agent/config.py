"""What the owner of the device decides, in all its layers: read once, checked whole, frozen."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from fedge_agent.admission.policy import AdmissionPolicy, Places, PolicyValueError
from fedge_agent.config_environment import EnvironmentRefusedError, environment_layer
from fedge_agent.config_layers import DEFAULT_PATH, MAX_FILE_BYTES, Layer, LayerError, file_layers, merged, place_of
from fedge_agent.federation.consent import Consent
from fedge_agent.kernel.allowlist import read_rule
from fedge_agent.kernel.errors import PolicyError
from fedge_agent.kernel.network_urls import read_broker, read_proxy
from fedge_protocol.faults import Fault, faults, path_text
from fedge_protocol.secagg.params import SECURE_FLOOR

__all__ = ["DEFAULT_PATH", "EX_CONFIG", "Config", "ConfigError", "load"]
EX_CONFIG: Final = 78


class ConfigError(Exception):
    """The configuration cannot be used. One line for each fault: file, line, setting, what is accepted."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file."""


class ConsentTable(_Table, frozen=True):
    """`[consent]`. Fewer than `minimum_cohort` devices are accepted only by saying `allow_small_cohort = true`."""

    allow_small_cohort: bool = False
    minimum_cohort: Annotated[int, Meta(ge=SECURE_FLOOR, le=4096)] = SECURE_FLOOR
    max_epochs: Annotated[int, Meta(ge=1, le=1000)] = 100
    max_parameters: Annotated[int, Meta(ge=1, le=8_000_000)] = 2_000_000


class SourceTable(_Table, frozen=True):
    """`[sources.NAME]`."""

    kind: Literal["directory"]
    path: Annotated[str, Meta(pattern="^/", description="an absolute path")]


class KernelTable(_Table, frozen=True):
    """`[kernel]`, of which `fedge-bpf --config` reads its part too (`fedge_agent.kernel.policy_file`).

    Attributes:
        network: network admission; `audit` refuses nothing and reports what `require` would refuse.
        cgroup: the unit's cgroup v2 directory, by default the one the daemon runs in.
        allow: HOST_OR_CIDR:PORT/PROTO rules.
        rate_kib_per_s: pace of every TCP connection.
        daily_budget_mib: most bytes a day, both ways.
        address_expiry_s: how long an address stays allowed that a host name no longer has.
        telemetry_file: the ring of ten-second windows; by default `telemetry.ring` in the state directory.
        telemetry_mib: its size, which it never exceeds; 0: none is kept.
    """

    network: Literal["require", "prefer", "audit", "off"] = "prefer"
    pin_dir: Annotated[str, Meta(pattern="^/")] = "/sys/fs/bpf/fedge"
    cgroup: Annotated[str, Meta(pattern="^/")] | None = None
    allow: Annotated[tuple[str, ...], Meta(max_length=1024)] = ()
    rate_kib_per_s: Annotated[int, Meta(ge=1, le=4_194_303)] | None = None
    daily_budget_mib: Annotated[int, Meta(ge=1, le=1 << 40)] | None = None
    address_expiry_s: Annotated[int, Meta(ge=1, le=604_800)] = 3600
    telemetry_file: Annotated[str, Meta(pattern="^/")] | None = None
    telemetry_mib: Annotated[int, Meta(ge=0, le=1024)] = 4


class NetworkTable(_Table, frozen=True):
    """`[network]`: the way out, of which `fedge-bpf --config` reads its part too (`fedge_agent.kernel.network_urls`).

    Attributes:
        broker: mqtts://HOST[:PORT] or wss://HOST[:PORT][/PATH], instead of what the enrolment says.
        proxy: http://HOST[:PORT], through which everything goes.
        proxy_credentials: a file with user:password in one line, mode 0640 or stricter.
    """

    broker: Annotated[str, Meta(max_length=512)] | None = None
    proxy: Annotated[str, Meta(max_length=512)] | None = None
    proxy_credentials: Annotated[str, Meta(pattern="^/", description="an absolute path")] | None = None


class WorkerTable(_Table, frozen=True):
    """`[worker]`: most memory and CPU of the training worker, where the kernel can enforce them."""

    memory_max_mib: Annotated[int, Meta(ge=32, le=65536)] | None = None
    cpu_max_percent: Annotated[int, Meta(ge=1, le=10_000)] | None = None


class InferenceTable(_Table, frozen=True):
    """`[inference]`: the server of the present model.

    Attributes:
        idle_exit_s: it ends after so long without a request; systemd starts it again with the next one.
        max_request_kib: longest body of a request.
    """

    idle_exit_s: Annotated[int, Meta(ge=10, le=86_400)] = 60
    max_request_kib: Annotated[int, Meta(ge=1, le=65_536)] = 1024


class File(_Table, frozen=True):
    """The whole file but `[admission]`, which `AdmissionPolicy` decodes."""

    state_dir: Annotated[str, Meta(pattern="^/")] = "/var/lib/fedge"
    runtime_dir: Annotated[str, Meta(pattern="^/")] = "/run/fedge"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    consent: ConsentTable = ConsentTable()
    sources: Annotated[dict[str, SourceTable], Meta(max_length=32)] = {}
    kernel: KernelTable = KernelTable()
    network: NetworkTable = NetworkTable()
    worker: WorkerTable = WorkerTable()
    inference: InferenceTable = InferenceTable()


TOP_LEVEL: Final = ("state_dir", "runtime_dir", "log_level")
"""The settings that stand in no table."""


@dataclass(frozen=True)
class Config:
    """The checked configuration; `layers` are the sources that it was put together from, the last one wins."""

    path: Path
    state_dir: Path
    runtime_dir: Path
    log_level: str
    consent: Consent
    sources: Mapping[str, SourceTable]
    kernel: KernelTable
    worker: WorkerTable
    network: NetworkTable = field(default_factory=NetworkTable)
    admission: AdmissionPolicy = field(default_factory=AdmissionPolicy)
    inference: InferenceTable = field(default_factory=InferenceTable)
    layers: tuple[Layer, ...] = field(default=(), compare=False, repr=False)

    @property
    def control_socket(self) -> Path:
        """Where `fedge-agent status` asks the daemon."""
        return self.runtime_dir / "control.sock"

    @property
    def inference_socket(self) -> Path:
        """Where `fedge-agent infer` asks the inference server.

        Not in the runtime directory: that is the daemon's, which could put another socket there, or a link for the
        service manager's chown to follow; and it goes when the daemon stops.
        """
        return Path(f"{self.runtime_dir}-inference.sock")

    @property
    def model_dir(self) -> Path:
        """Where the daemon puts the present models for the inference server."""
        return self.state_dir / "model"


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read and check all layers; a missing file at the default path means all defaults.

    Args:
        path: `agent.toml`; the files of `agent.d` beside it follow in the order of their names.
        environment: variables, which come last.

    Raises:
        ConfigError: with every fault of every layer, also of values that a later layer replaces.
    """
    layers = read_layers(path, environment)
    found = [f"{place}: {path_text(fault.path)}: {fault.message}" for place, fault in _faults(layers)]
    found += [line for layer in layers for line in _rule_faults(layer)] if not found else []
    if found:
        raise ConfigError("\n".join(dict.fromkeys(found)))
    plain = merged(layers)
    policy = AdmissionPolicy.from_mapping(plain.pop("admission", {}))
    file = msgspec.convert(plain, File)
    return Config(
        path=path,
        state_dir=Path(file.state_dir),
        runtime_dir=Path(file.runtime_dir),
        log_level=file.log_level,
        consent=Consent(
            sources=frozenset(file.sources),
            allow_small_cohort=file.consent.allow_small_cohort,
            minimum_cohort=file.consent.minimum_cohort,
            max_epochs=file.consent.max_epochs,
            max_dim=file.consent.max_parameters,
        ),
        sources=file.sources,
        kernel=_with_ring(file),
        worker=file.worker,
        network=file.network,
        admission=dataclasses.replace(policy, places=Places(Path(file.state_dir), Path(file.kernel.pin_dir))),
        inference=file.inference,
        layers=layers,
    )


def read_layers(path: Path, environment: Mapping[str, str]) -> tuple[Layer, ...]:
    """All layers, unchecked, the first one first.

    Raises:
        ConfigError: one cannot be read.
    """
    try:
        last = environment_layer(environment, TOP_LEVEL)
        return (*file_layers(path, _read), *([] if last is None else [last]))
    except (LayerError, EnvironmentRefusedError) as error:
        raise ConfigError(str(error)) from None


def _faults(layers: Sequence[Layer]) -> Iterator[tuple[str, Fault]]:
    """What is wrong with each layer by itself, and what is missing from all of them together; with the place."""
    for layer in layers:
        rest = {name: value for name, value in layer.values.items() if name != "admission"}
        for fault in (*faults(rest, File), *_admission_faults(layer)):
            if layer.sets(fault.path):
                yield layer.place(fault.path), fault
    rest = {name: value for name, value in merged(layers).items() if name != "admission"}
    for fault in faults(rest, File):
        if not any(layer.sets(fault.path) for layer in layers):
            yield place_of(layers, fault.path), fault


def _admission_faults(layer: Layer) -> Iterator[Fault]:
    marks = layer.values.get("admission", {})
    if not isinstance(marks, dict):
        yield Fault(("admission",), f"{marks!r}: a table is needed")
        return
    for name, value in marks.items():
        try:
            AdmissionPolicy.from_mapping({name: value})
        except PolicyValueError as error:
            yield Fault(("admission", name), str(error))


def _rule_faults(layer: Layer) -> Iterator[str]:
    """What is wrong with rules and places; whether a name exists is found out by `fedge-bpf`, which resolves it."""
    for rule in layer.values.get("kernel", {}).get("allow", ()):
        try:
            read_rule(rule)
        except PolicyError as error:
            yield f"{layer.place(('kernel', 'allow'), rule)}: kernel.allow: {error}"
    for name, read in (("broker", read_broker), ("proxy", read_proxy)):
        value = layer.values.get("network", {}).get(name)
        try:
            if value is not None:
                read(value)
        except PolicyError as error:
            yield f"{layer.place(('network', name))}: network.{name}: {error}"


def _with_ring(file: File) -> KernelTable:
    table = file.kernel
    if table.telemetry_file is None and table.telemetry_mib:
        return msgspec.structs.replace(table, telemetry_file=f"{file.state_dir}/telemetry.ring")
    return table


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: more than {MAX_FILE_BYTES} bytes")
        return content.decode()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; copy /usr/share/doc/fedge-agent/agent.toml there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
