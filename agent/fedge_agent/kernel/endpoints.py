"""The addresses that the refresher resolved and allowed: the only ones the daemon connects to.

The file (`/run/fedge-bpf/endpoints`, JSON) is written by `fedge-bpf attach` and `refresh` after the kernel allows what
stands in it. It lies in a directory of root's: the loader has no capability that would let it write into the daemon's,
and the daemon must not be able to put another file in its place. An older file is believed only if it is root's own.
"""

import contextlib
import dataclasses
import ipaddress
import json
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from fedge_agent.kernel.allowlist import Allowed, Resolve, Rule, resolve_by_system
from fedge_agent.kernel.errors import NameUnknownError, ResolverError
from fedge_agent.kernel.records import Address

DEFAULT_EXPIRY_S = 3600
MAX_FILE_BYTES = 1024 * 1024
_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Resolved:
    """One rule's addresses.

    Attributes:
        host: as the rule says: a name or an address.
        addresses: each with the time (CLOCK_BOOTTIME, s) until which it is allowed; None: without end.
    """

    host: str
    port: int
    protocol: str
    addresses: tuple[tuple[Address, int | None], ...]

    def entries(self, rule: Rule) -> tuple[Allowed, ...]:
        """The allow entries: the rule's network, or one for each address."""
        if not isinstance(rule.where, str):
            return (rule.at(rule.where),)
        return tuple(rule.at(ipaddress.ip_network(address)) for address, _ in self.addresses)


def boot_time_s() -> int:
    """Seconds since boot, sleep included: a wrong clock does not matter."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))


class Resolver:
    """Resolves rules, keeping an address that a name no longer has until it expires.

    Args:
        known: endpoints of the former refresh.
        expiry_s: how long an address stays allowed after it was last seen; getaddrinfo tells no TTL.
    """

    def __init__(
        self,
        known: Iterable[Resolved] = (),
        *,
        expiry_s: int = DEFAULT_EXPIRY_S,
        ask: Resolve = resolve_by_system,
        now_s: Callable[[], int] = boot_time_s,
    ) -> None:
        self._known = {(item.host, item.port, item.protocol): item.addresses for item in known}
        self._expiry_s = expiry_s
        self._ask = ask
        self._now_s = now_s
        self.warnings: list[str] = []

    def endpoint(self, rule: Rule) -> Resolved:
        """The addresses of one rule; none for a network of many.

        Raises:
            NameUnknownError: the name does not exist, and nothing unexpired is known of it.
            ResolverError: as above, no resolver answers.
        """
        protocol = rule.protocol.name.lower()
        if not isinstance(rule.where, str):
            single = rule.where.prefixlen == rule.where.max_prefixlen
            address = rule.where.network_address
            return Resolved(str(address), rule.port, protocol, ((address, None),) if single else ())
        now_s = self._now_s()
        former = self._known.get((rule.where, rule.port, protocol), ())
        kept = {address: until for address, until in former if until is not None and until > now_s}
        try:
            fresh = dict.fromkeys(self._ask(rule.where), now_s + self._expiry_s)
        except (NameUnknownError, ResolverError) as error:
            if not kept:
                raise
            self.warnings.append(f"{error}; its known addresses serve until they expire")
            fresh = {}
        both: dict[Address, int | None] = {**kept, **fresh}
        return Resolved(rule.where, rule.port, protocol, tuple(sorted(both.items(), key=lambda item: str(item[0]))))


def write_endpoints(path: Path, endpoints: Iterable[Resolved]) -> None:
    """Puts the file in place in one step, readable by all."""
    record = {
        "version": _VERSION,
        "endpoints": [
            {
                "host": item.host,
                "port": item.port,
                "protocol": item.protocol,
                "addresses": [{"address": str(a), "until_boot_s": until} for a, until in item.addresses],
            }
            for item in endpoints
        ],
    }
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    try:
        with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123 - a descriptor
            os.fchmod(descriptor, 0o644)
            file.write(json.dumps(record, indent=1) + "\n")
        fresh.rename(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        raise


def read_endpoints(path: Path, *, owner_uid: int = 0) -> tuple[Resolved, ...]:
    """The endpoints of a file; none when it is missing, damaged, or not `owner_uid`'s alone to write."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ()
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != owner_uid or status.st_mode & 0o022:
            return ()
        try:
            plain = json.loads(file.read(MAX_FILE_BYTES))
            return tuple(_decoded(item) for item in plain["endpoints"] if plain["version"] == _VERSION)
        except (ValueError, KeyError, TypeError):
            return ()


def _decoded(plain: dict[str, object]) -> Resolved:
    listed = plain["addresses"]
    if not isinstance(listed, list):
        raise TypeError("addresses: a list is needed")
    addresses = tuple(
        (ipaddress.ip_address(item["address"]), None if item["until_boot_s"] is None else int(item["until_boot_s"]))
        for item in listed
    )
    return Resolved(str(plain["host"]), int(str(plain["port"])), str(plain["protocol"]), addresses)


def addresses_of(endpoints: Iterable[Resolved], host: str, port: int, now_s: int) -> tuple[str, ...]:
    """Where the daemon may connect for `host:port` by TCP; empty: nowhere, the refresher has not allowed it."""
    return tuple(
        str(address)
        for item in endpoints
        if (item.host, item.port, item.protocol) == (host, port, "tcp")
        for address, until in item.addresses
        if until is None or until > now_s
    )
