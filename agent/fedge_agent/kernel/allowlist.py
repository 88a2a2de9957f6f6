"""Allow rules `HOST_OR_CIDR:PORT/PROTO`, and the keys they become in the kernel's LPM trie."""

import ipaddress
import re
import socket
import struct
from collections.abc import Callable, Iterable

from fedge_agent.kernel.errors import NameUnknownError, PolicyError, ResolverError
from fedge_agent.kernel.frozen import dataclass
from fedge_agent.kernel.records import PORT_PROTOCOL_BITS, Address, Protocol

MAX_ENTRIES = 1024
_V4_MAPPED_BITS = 96
_RULE = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^\[\]:]+)):(?P<port>\d{1,5})/(?P<protocol>tcp|udp)", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str], Iterable[Address]]


@dataclass(frozen=True, slots=True)
class Allowed:
    """One entry of the allow-list: a network, one port, one protocol."""

    network: Network
    port: int
    protocol: Protocol

    def key(self) -> bytes:
        """The struct fedge_peer of this entry, 24 bytes."""
        if isinstance(self.network, ipaddress.IPv4Network):
            bits = _V4_MAPPED_BITS + self.network.prefixlen
            packed = bytes(10) + b"\xff\xff" + self.network.network_address.packed
        else:
            bits = self.network.prefixlen
            packed = self.network.network_address.packed
        prefix = struct.pack("=I", PORT_PROTOCOL_BITS + bits)
        return prefix + struct.pack("!HBB", self.port, self.protocol, 0) + packed

    def __str__(self) -> str:
        bare = self.network.prefixlen == self.network.max_prefixlen
        where = str(self.network.network_address) if bare else str(self.network)
        where = f"[{where}]" if self.network.version == 6 else where  # noqa: PLR2004 - IPv6
        return f"{where}:{self.port}/{self.protocol.name.lower()}"


def resolve_by_system(name: str) -> Iterable[Address]:
    """All addresses of a host name by the system's resolver.

    Raises:
        NameUnknownError: there is no such name.
        ResolverError: no resolver answers now.
    """
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", -5)):
            raise NameUnknownError(f"host name {name!r} is not known ({error.strerror}); correct it") from error
        raise ResolverError(f"host name {name!r} cannot be resolved now ({error.strerror}); try again") from error
    except (OSError, UnicodeError) as error:
        raise ResolverError(f"host name {name!r} cannot be resolved ({error}); give its address") from error
    return sorted({ipaddress.ip_address(str(item[4][0]).split("%")[0]) for item in found}, key=str)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as written: a network, or a host name that is still to be resolved."""

    where: Network | str
    port: int
    protocol: Protocol

    def at(self, network: Network) -> Allowed:
        """The entry for one address or network of this rule.

        Raises:
            PolicyError: in the trie IPv4 lies inside IPv6, so this would allow IPv4 in disguise.
        """
        if isinstance(network, ipaddress.IPv6Network) and network.overlaps(ipaddress.IPv6Network("::ffff:0:0/96")):
            raise PolicyError(
                f"{network} covers IPv4-mapped addresses; write IPv4 as IPv4, and IPv6 as 2000::/3 or narrower"
            )
        return Allowed(network, self.port, self.protocol)


def read_rule(text: str) -> Rule:
    """A rule, without resolving anything.

    Raises:
        PolicyError: not `HOST_OR_CIDR:PORT/PROTO`; IPv6 stands in brackets, with its prefix length inside.
    """
    match = _RULE.fullmatch(text.strip())
    if match is None:
        raise PolicyError(
            f"rule {text!r} is not HOST_OR_CIDR:PORT/tcp or /udp, e.g. 192.0.2.7:8883/tcp, [2001:db8::/32]:443/tcp"
        )
    port = int(match["port"])
    if not 1 <= port <= 65535:  # noqa: PLR2004 - the range of ports
        raise PolicyError(f"rule {text!r}: port {port} is not in 1-65535")
    protocol = Protocol[match["protocol"].upper()]
    where = match["v6"] or match["host"]
    try:
        rule = Rule(ipaddress.ip_network(where), port, protocol)
        if not isinstance(rule.where, str):
            rule.at(rule.where)
    except ValueError as error:
        if match["v6"] or "/" in where or not _NAME.fullmatch(where) or not re.search(r"[A-Za-z]", where):
            raise PolicyError(f"rule {text!r}: {error}") from error
        return Rule(where, port, protocol)
    except PolicyError as error:
        raise PolicyError(f"rule {text!r}: {error}") from error
    return rule


def parse_rule(text: str, resolve: Resolve = resolve_by_system) -> tuple[Allowed, ...]:
    """The entries of one rule: one, or one for each address of a host name.

    Raises:
        PolicyError: as `read_rule`.
    """
    rule = read_rule(text)
    if isinstance(rule.where, str):
        return tuple(rule.at(ipaddress.ip_network(address)) for address in resolve(rule.where))
    return (rule.at(rule.where),)


def parse_policy(rules: Iterable[str], resolve: Resolve = resolve_by_system) -> tuple[Allowed, ...]:
    """All entries of many rules, without repeats, in the order given.

    Raises:
        PolicyError: a rule is not acceptable, or there are more than 1024 entries.
    """
    entries = tuple(dict.fromkeys(entry for rule in rules for entry in parse_rule(rule, resolve)))
    if len(entries) > MAX_ENTRIES:
        raise PolicyError(f"{len(entries)} allow entries are more than {MAX_ENTRIES}; use wider networks")
    return entries
