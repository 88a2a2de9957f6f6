"""What the owner wrote: rules from policy files, and the `[kernel]` tables of agent.toml and agent.d, with their lines.

`fedge-bpf` runs without anything beyond the standard library, so it reads its part of the configuration itself, from
the same files by the same rules as the daemon, which checks the whole (`fedge_agent.config`). It takes nothing from the
environment: what it does it does as root.
"""

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fedge_agent.kernel.allowlist import MAX_ENTRIES, Allowed, Rule, read_rule
from fedge_agent.kernel.endpoints import Resolved, Resolver
from fedge_agent.kernel.errors import NameUnknownError, PolicyError
from fedge_agent.kernel.frozen import TYPE_CHECKING, dataclass
from fedge_agent.kernel.network_urls import BrokerPlace, ProxyPlace, read_broker, read_proxy

if TYPE_CHECKING:
    from fedge_agent.config_layers import Layer

MAX_POLICY_BYTES = 256 * 1024
_MODES = ("require", "prefer", "audit", "off")
_KIB = 1024
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class WrittenRule:
    """A rule and where it stands, `FILE:LINE` or the option's name."""

    rule: Rule
    text: str
    place: str


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """The `[kernel]` and `[network]` tables, as far as the loader needs them; None: not set there.

    Attributes:
        broker: where the owner wants the broker to be, whatever the enrolment says.
        proxy: the rule for it. All else of the agent's own goes through it.
    """

    mode: str | None = None
    rules: tuple[WrittenRule, ...] = ()
    rate_bytes_per_s: int | None = None
    daily_budget_bytes: int | None = None
    address_expiry_s: int | None = None
    endpoints: Path | None = None
    pin_dir: Path | None = None
    cgroup: Path | None = None
    broker: WrittenRule | None = None
    proxy: WrittenRule | None = None


def written(text: str, place: str) -> WrittenRule:
    """A rule with its place.

    Raises:
        PolicyError: names the place, what is wrong and what would be right.
    """
    try:
        return WrittenRule(read_rule(text), text.strip(), place)
    except PolicyError as error:
        raise PolicyError(f"{place}: {error}") from error


def read_owned(path: Path) -> str:
    """A file that decides about privileges.

    Raises:
        PolicyError: missing, too long, or writable by others (who could then open the network to themselves).
    """
    try:
        status = path.stat()
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PolicyError(f"policy {path} is writable by group or others; chmod go-w {path}")
        if status.st_uid not in (0, os.geteuid()):
            raise PolicyError(f"policy {path} belongs to uid {status.st_uid}; chown root {path}")
        if status.st_size > MAX_POLICY_BYTES:
            raise PolicyError(f"policy {path} has {status.st_size} bytes, more than {MAX_POLICY_BYTES}")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"policy {path} cannot be read: {error}") from error


def read_policy(path: Path) -> tuple[WrittenRule, ...]:
    """The rules of a policy file: one a line, `#` starts a comment.

    Raises:
        PolicyError: as `read_owned`, or a rule is not acceptable.
    """
    lines = ((n, line.split("#", 1)[0].strip()) for n, line in enumerate(read_owned(path).splitlines(), start=1))
    return tuple(written(line, f"{path}:{n}") for n, line in lines if line)


def read_config(path: Path) -> KernelSettings:
    """The loader's part of agent.toml and of the files of agent.d.

    Raises:
        PolicyError: as `read_owned`, no TOML, or a value that cannot be used, with its line.
    """
    from fedge_agent import config_layers  # noqa: PLC0415 - only where there is a configuration

    _refuse_open_folder(config_layers.dropin_folder(path))
    try:
        layers = config_layers.file_layers(path, read_owned)
    except config_layers.LayerError as error:
        raise PolicyError(str(error)) from error
    for layer in layers:
        if not isinstance(layer.values.get("kernel", {}), dict):
            raise PolicyError(f"{layer.place(('kernel',))}: kernel: a table is needed")
    plain = config_layers.merged(layers)
    table = plain.get("kernel", {})
    found = _Table(layers, table)
    rate, limit = found.number("rate_kib_per_s", 4_194_303), found.number("daily_budget_mib", 1 << 40)
    pins, unit, runtime = table.get("pin_dir"), table.get("cgroup"), plain.get("runtime_dir", "/run/fedge")
    return KernelSettings(
        mode=found.choice("network", _MODES),
        rules=found.rules("allow"),
        rate_bytes_per_s=None if rate is None else rate * _KIB,
        daily_budget_bytes=None if limit is None else limit * _MIB,
        address_expiry_s=found.number("address_expiry_s", 604_800),
        endpoints=Path(f"{runtime}-bpf") / "endpoints",
        pin_dir=None if pins is None else Path(str(pins)),
        cgroup=None if unit is None else Path(str(unit)),
        broker=_network_rule(layers, plain, "broker", read_broker),
        proxy=_network_rule(layers, plain, "proxy", read_proxy),
    )


def _network_rule(
    layers: "Sequence[Layer]", plain: dict[str, object], name: str, read: Callable[[str], BrokerPlace | ProxyPlace]
) -> WrittenRule | None:
    from fedge_agent.config_layers import place_of  # noqa: PLC0415 - imported by then

    table = plain.get("network", {})
    if not isinstance(table, dict):
        raise PolicyError(f"{place_of(layers, ('network',))}: network: a table is needed")
    value = table.get(name)
    if value is None:
        return None
    place = place_of(layers, ("network", name))
    try:
        return WrittenRule(read(str(value)).rule, str(value), place)
    except PolicyError as error:
        raise PolicyError(f"{place}: network.{name}: {error}") from error


def _refuse_open_folder(folder: Path) -> None:
    """Whoever may put a file into the folder decides as whoever may write agent.toml does."""
    try:
        status = folder.stat()
    except OSError:
        return  # none, or `file_layers` says what is wrong with it
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PolicyError(f"policy {folder} is writable by group or others; chmod go-w {folder}")
    if status.st_uid not in (0, os.geteuid()):
        raise PolicyError(f"policy {folder} belongs to uid {status.st_uid}; chown root {folder}")


@dataclass(frozen=True, slots=True)
class _Table:
    layers: "Sequence[Layer]"
    values: dict[str, object]

    def place(self, name: str, needle: str = "") -> str:
        from fedge_agent.config_layers import place_of  # noqa: PLC0415 - imported by then

        return place_of(self.layers, ("kernel", name), needle)

    def refuse(self, name: str, why: str) -> PolicyError:
        return PolicyError(f"{self.place(name)}: kernel.{name}: {why}")

    def choice(self, name: str, accepted: tuple[str, ...]) -> str | None:
        value = self.values.get(name)
        if value is None or value in accepted:
            return None if value is None else str(value)
        raise self.refuse(name, f"{value!r} is not one of {', '.join(accepted)}")

    def number(self, name: str, highest: int) -> int | None:
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
            raise self.refuse(name, f"{value!r} is not a whole number of 1 to {highest}")
        return value

    def rules(self, name: str) -> tuple[WrittenRule, ...]:
        value = self.values.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.refuse(name, "a list of rules is needed")
        return tuple(written(item, f"{self.place(name, item)}: kernel.{name}") for item in value)


def resolve(rules: Iterable[WrittenRule], resolver: Resolver) -> tuple[tuple[Allowed, ...], tuple[Resolved, ...]]:
    """All entries of the rules, without repeats, and the endpoints among them that are single addresses.

    Raises:
        PolicyError: an unknown name or too many entries, with the place.
        ResolverError: a name cannot be resolved now, and nothing is known of it from before.
    """
    entries: dict[Allowed, None] = {}
    endpoints = []
    for item in rules:
        try:
            found = resolver.endpoint(item.rule)
        except NameUnknownError as error:
            raise PolicyError(f"{item.place}: rule {item.text!r}: {error}") from error
        entries.update(dict.fromkeys(found.entries(item.rule)))
        if found.addresses:
            endpoints.append(found)
    if len(entries) > MAX_ENTRIES:
        raise PolicyError(f"{len(entries)} allow entries are more than {MAX_ENTRIES}; use wider networks")
    return tuple(entries), tuple(endpoints)
