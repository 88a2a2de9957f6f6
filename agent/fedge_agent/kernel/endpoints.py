"""The addresses that the refresher resolved and allowed: the only ones the daemon connects to.

The file (`/run/fedge-bpf/endpoints`, JSON) is written by `fedge-bpf attach` and `refresh` after the kernel allows what
stands in it. It lies in a directory of root's: the loader has no capability that would let it write into the daemon's,
and the daemon must not be able to put another file in its place. An older file is believed only if it is root's own.
"""

import ipaddress
import json
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from fedge_agent.kernel.allowlist import Allowed, Rule
from fedge_agent.kernel.errors import NameUnknownError, ResolverError
from fedge_agent.kernel.frozen import dataclass
from fedge_agent.kernel.records import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fedge_agent.kernel.dns import Answer

DEFAULT_EXPIRY_S = 3600
UNKNOWN_TTL_S = 300
MAX_FILE_BYTES = 1024 * 1024
SHORTEST_TTL_S, LONGEST_TTL_S = 30, 3600
"""A name server may neither keep this device asking nor bind it to an answer for days."""
MOST_KEPT = 32
"""Former addresses of one name that stay allowed: answers that change every time must not fill the allow-list."""
_VERSION = 2


@dataclass(frozen=True, slots=True)
class Resolved:
    """One rule's addresses.

    Attributes:
        host: as the rule says: a name or an address.
        addresses: each with the time (CLOCK_BOOTTIME, s) until which it is allowed; None: without end.
        fresh_until_s: when the name server's word ends (CLOCK_BOOTTIME); None: an address needs no name server.
    """

    host: str
    port: int
    protocol: str
    addresses: tuple[tuple[Address, int | None], ...]
    fresh_until_s: int | None = None

    def entries(self, rule: Rule) -> tuple[Allowed, ...]:
        """The allow entries: the rule's network, or one for each address."""
        if not isinstance(rule.where, str):
            return (rule.at(rule.where),)
        return tuple(rule.at(ipaddress.ip_network(address)) for address, _ in self.addresses)


def boot_time_s() -> int:
    """Seconds since boot, sleep included: a wrong clock does not matter."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))


class Resolver:
    """Resolves rules, keeping an address that a name no longer has until it expires. Asks once for each name.

    Args:
        known: endpoints of the former refresh.
        grace_s: how long an address stays allowed after the name server's word for it has ended, so that connections
            outlive a change.
        ask_for: name to answer; by default the DNS (`fedge_agent.kernel.dns`).
        now_s: CLOCK_BOOTTIME.
        in_use: far ends of present connections: a former address among them stays, for a grace time at least.
    """

    def __init__(
        self,
        known: Iterable[Resolved] = (),
        *,
        grace_s: int = DEFAULT_EXPIRY_S,
        ask_for: "Callable[[str], Answer] | None" = None,
        now_s: Callable[[], int] = boot_time_s,
        in_use: "Callable[[], frozenset[tuple[Address, int]]] | None" = None,
    ) -> None:
        self._known = {(item.host, item.port, item.protocol): item for item in known}
        self._grace_s = grace_s
        self._ask_for = ask_for or _ask_dns
        self._now_s = now_s
        self._in_use = in_use or _live_peers
        self._answers: dict[str, Answer | NameUnknownError | ResolverError] = {}
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
        former = self._known.get((rule.where, rule.port, protocol))
        kept = self._kept(former, now_s) if former else {}
        answer = self._answer(rule.where)
        fresh: dict[Address, int | None] = {}
        fresh_until_s = now_s
        if not isinstance(answer, Exception):
            said_s = UNKNOWN_TTL_S if answer.ttl_s is None else answer.ttl_s
            fresh_until_s = now_s + min(max(said_s, SHORTEST_TTL_S), LONGEST_TTL_S)
            fresh = dict.fromkeys(answer.addresses, fresh_until_s + self._grace_s)
        elif kept:
            self._warn(f"{answer}; its known addresses serve until they expire")
        else:
            raise answer
        both: dict[Address, int | None] = {**dict(sorted(kept.items(), key=_latest_first)[:MOST_KEPT]), **fresh}
        listed = tuple(sorted(both.items(), key=lambda item: str(item[0])))
        return Resolved(rule.where, rule.port, protocol, listed, fresh_until_s)

    def _kept(self, former: Resolved, now_s: int) -> dict[Address, int]:
        known = {address: until for address, until in former.addresses if until is not None}
        last_s = now_s + self._grace_s
        if all(until > last_s for until in known.values()):
            return known
        used = self._in_use()
        live = {address: max(until, last_s) for address, until in known.items() if (address, former.port) in used}
        return {address: until for address, until in known.items() if until > now_s} | live

    def _answer(self, name: str) -> "Answer | NameUnknownError | ResolverError":
        if name in self._answers:
            return self._answers[name]
        try:
            answer = self._ask_for(name)
        except (NameUnknownError, ResolverError) as error:
            self._answers[name] = error
            return error
        for note in answer.notes:
            self._warn(note)
        self._answers[name] = answer
        return answer

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def _ask_dns(name: str) -> "Answer":
    from fedge_agent.kernel.dns import ask  # noqa: PLC0415 - only where there are names

    return ask(name)


def _live_peers() -> "frozenset[tuple[Address, int]]":
    from fedge_agent.kernel.live_peers import live_peers  # noqa: PLC0415 - only where there are former addresses

    return live_peers()


def _latest_first(item: tuple[Address, int]) -> int:
    return -item[1]


def encoded(endpoints: Iterable[Resolved]) -> str:
    """The text of the file."""
    record = {
        "version": _VERSION,
        "endpoints": [
            {
                "host": item.host,
                "port": item.port,
                "protocol": item.protocol,
                "fresh_until_boot_s": item.fresh_until_s,
                "addresses": [{"address": str(a), "until_boot_s": until} for a, until in item.addresses],
            }
            for item in endpoints
        ],
    }
    return json.dumps(record, indent=1) + "\n"


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
    fresh = plain["fresh_until_boot_s"]
    fresh_until_s = None if fresh is None else int(str(fresh))
    return Resolved(str(plain["host"]), int(str(plain["port"])), str(plain["protocol"]), addresses, fresh_until_s)


def endpoint_of(endpoints: Iterable[Resolved], host: str, port: int) -> Resolved | None:
    """What the refresher wrote about `host:port` by TCP."""
    found = (item for item in endpoints if (item.host, item.port, item.protocol) == (host, port, "tcp"))
    return next(found, None)


def addresses_of(endpoints: Iterable[Resolved], host: str, port: int, now_s: int) -> tuple[str, ...]:
    """Where the daemon may connect for `host:port` by TCP; empty: nowhere, the refresher has not allowed it.

    Those of the name server's latest answer come first.
    """
    found = endpoint_of(endpoints, host, port)
    if found is None:
        return ()
    good = [(address, until) for address, until in found.addresses if until is None or until > now_s]
    newest = max((until for _, until in good if until is not None), default=None)
    return tuple(str(address) for address, _ in sorted(good, key=lambda item: item[1] != newest))
