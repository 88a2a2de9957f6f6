"""Allow rules `HOST_OR_CIDR:PORT/PROTO`, and the keys they become in the kernel's LPM trie."""

import dataclasses
import ipaddress
import re
import socket
import stat
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

from fedge_agent.kernel.errors import PolicyError
from fedge_agent.kernel.records import PORT_PROTOCOL_BITS, Address, Protocol

MAX_ENTRIES = 1024
MAX_POLICY_BYTES = 256 * 1024
_V4_MAPPED_BITS = 96
_RULE = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^\[\]:]+)):(?P<port>\d{1,5})/(?P<protocol>tcp|udp)", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str], Iterable[Address]]


@dataclasses.dataclass(frozen=True, slots=True, order=True)
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
        PolicyError: the name does not resolve now.
    """
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise PolicyError(f"host name {name!r} does not resolve ({error}); give its address, or start later") from error
    return sorted({ipaddress.ip_address(str(item[4][0]).split("%")[0]) for item in found}, key=str)


def parse_rule(text: str, resolve: Resolve = resolve_by_system) -> tuple[Allowed, ...]:
    """The entries of one rule: one, or one for each address of a host name.

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
    try:
        where = match["v6"] or match["host"]
        networks: list[Network] = [ipaddress.ip_network(where)]
    except ValueError as error:
        if match["v6"] or "/" in where or not _NAME.fullmatch(where) or not re.search(r"[A-Za-z]", where):
            raise PolicyError(f"rule {text!r}: {error}") from error
        networks = [ipaddress.ip_network(address) for address in resolve(where)]
    for network in networks:
        # In the trie IPv4 lies inside IPv6, so ::/0 would cover it too; a rule must say what it means.
        if isinstance(network, ipaddress.IPv6Network) and network.overlaps(ipaddress.IPv6Network("::ffff:0:0/96")):
            raise PolicyError(
                f"rule {text!r} covers IPv4-mapped addresses; write IPv4 as IPv4, and IPv6 as 2000::/3 or narrower"
            )
    return tuple(Allowed(network, port, protocol) for network in networks)


def parse_policy(rules: Iterable[str], resolve: Resolve = resolve_by_system) -> tuple[Allowed, ...]:
    """All entries of many rules, without repeats, in the order given.

    Raises:
        PolicyError: a rule is not acceptable, or there are more than 1024 entries.
    """
    entries = tuple(dict.fromkeys(entry for rule in rules for entry in parse_rule(rule, resolve)))
    if len(entries) > MAX_ENTRIES:
        raise PolicyError(f"{len(entries)} allow entries are more than {MAX_ENTRIES}; use wider networks")
    return entries


def read_policy(path: Path) -> tuple[str, ...]:
    """The rules of a policy file: one a line, `#` starts a comment.

    Raises:
        PolicyError: missing, too long, or writable by others (who could then open the network to themselves).
    """
    try:
        status = path.stat()
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PolicyError(f"policy {path} is writable by group or others; chmod go-w {path}")
        if status.st_size > MAX_POLICY_BYTES:
            raise PolicyError(f"policy {path} has {status.st_size} bytes, more than {MAX_POLICY_BYTES}")
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"policy {path} cannot be read: {error}") from error
    lines = (line.split("#", 1)[0].strip() for line in text.splitlines())
    return tuple(line for line in lines if line)
