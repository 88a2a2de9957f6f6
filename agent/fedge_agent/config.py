"""`agent.toml`: what the owner of the device decides. Read once, checked whole, frozen."""

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from fedge_agent.admission.policy import AdmissionPolicy, Places, PolicyValueError
from fedge_agent.federation.consent import Consent
from fedge_agent.kernel.allowlist import read_rule
from fedge_agent.kernel.errors import PolicyError
from fedge_agent.kernel.policy_file import line_of
from fedge_protocol.faults import Fault, faults, path_text
from fedge_protocol.secagg.params import SECURE_FLOOR

DEFAULT_PATH: Final = Path("/etc/fedge/agent.toml")
EX_CONFIG: Final = 78
_MAX_BYTES: Final = 256 * 1024


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


class WorkerTable(_Table, frozen=True):
    """`[worker]`: most memory and CPU of the training worker, where the kernel can enforce them."""

    memory_max_mib: Annotated[int, Meta(ge=32, le=65536)] | None = None
    cpu_max_percent: Annotated[int, Meta(ge=1, le=10_000)] | None = None


class File(_Table, frozen=True):
    """The whole file but `[admission]`, which `AdmissionPolicy` decodes."""

    state_dir: Annotated[str, Meta(pattern="^/")] = "/var/lib/fedge"
    runtime_dir: Annotated[str, Meta(pattern="^/")] = "/run/fedge"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    consent: ConsentTable = ConsentTable()
    sources: Annotated[dict[str, SourceTable], Meta(max_length=32)] = {}
    kernel: KernelTable = KernelTable()
    worker: WorkerTable = WorkerTable()


@dataclass(frozen=True)
class Config:
    """The checked configuration."""

    path: Path
    state_dir: Path
    runtime_dir: Path
    log_level: str
    consent: Consent
    sources: Mapping[str, SourceTable]
    kernel: KernelTable
    worker: WorkerTable
    admission: AdmissionPolicy = field(default_factory=AdmissionPolicy)

    @property
    def control_socket(self) -> Path:
        """Where `fedge-agent status` asks the daemon."""
        return self.runtime_dir / "control.sock"


def load(path: Path) -> Config:
    """Read and check a configuration file; a missing file at the default path means all defaults.

    Raises:
        ConfigError: with every fault.
    """
    text = _read(path)
    try:
        plain = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from None
    marks = plain.pop("admission", {})
    found = [_located(path, text, fault) for fault in faults(plain, File)] or _rule_faults(path, text, plain)
    if found:
        raise ConfigError("\n".join(found))
    file = msgspec.convert(plain, File)
    try:
        policy = AdmissionPolicy.from_mapping(marks if isinstance(marks, dict) else {"admission": marks})
    except PolicyValueError as error:
        raise ConfigError(_located(path, text, Fault(("admission",), str(error)))) from None
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
        admission=dataclasses.replace(policy, places=Places(Path(file.state_dir), Path(file.kernel.pin_dir))),
    )


def _rule_faults(path: Path, text: str, plain: Mapping[str, Any]) -> list[str]:
    """What is wrong with the allow rules; whether host names exist is found out by `fedge-bpf`, which resolves them."""
    found = []
    for rule in plain.get("kernel", {}).get("allow", ()):
        try:
            read_rule(rule)
        except PolicyError as error:
            found.append(f"{path}:{line_of(text, 'allow', rule)}: kernel.allow: {error}")
    return found


def _with_ring(file: File) -> KernelTable:
    table = file.kernel
    if table.telemetry_file is None and table.telemetry_mib:
        return msgspec.structs.replace(table, telemetry_file=f"{file.state_dir}/telemetry.ring")
    return table


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(f"{path}: more than {_MAX_BYTES} bytes")
        return content.decode()
    except FileNotFoundError:
        if path == DEFAULT_PATH:
            return ""
        raise ConfigError(f"{path}: no such file; copy /usr/share/doc/fedge-agent/agent.toml there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _located(path: Path, text: str, fault: Fault) -> str:
    line = _line_of(text, fault.path)
    return f"{path}:{line}: {path_text(fault.path)}: {fault.message}"


def _line_of(text: str, path: tuple[str | int, ...]) -> int:
    """The line that sets this path, or the table it is missing from, or 1."""
    names = [str(part) for part in path]
    table: list[str] = []
    best = 1
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\s*([^\]]+?)\s*\]", line)
        if header:
            table = [part.strip().strip("\"'") for part in header[1].split(".")]
            if table == names[: len(table)]:
                best = number
        setting = re.match(r"\s*([\w.\"'-]+)\s*=", line)
        if setting:
            key = [*table, *(part.strip("\"'") for part in setting[1].split("."))]
            if key == names[: len(key)] and len(key) > len(table):
                return number
    return best
