"""Whom this machine has TCP connections with, by /proc/net/tcp and tcp6: such an address is not taken away."""

import ipaddress
from pathlib import Path

from fedge_agent.kernel.records import Address

_ESTABLISHED = "01"
_MOST_BYTES = 1024 * 1024
_V4_DIGITS, _V6_DIGITS = 8, 32
Peer = tuple[Address, int]


def live_peers(root: Path = Path("/")) -> frozenset[Peer]:
    """The far ends, address and port, of established connections; none where /proc does not tell."""
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            with (root / "proc/net" / name).open(encoding="ascii", errors="replace") as file:
                lines = file.read(_MOST_BYTES).splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) > 3 and words[3] == _ESTABLISHED and (peer := _peer(words[2])) is not None:  # noqa: PLR2004 - the state
                found.add(peer)
    return frozenset(found)


def _peer(text: str) -> Peer | None:
    """`0100007F:1F90`: the address in words of the machine's byte order, the port in hexadecimal."""
    digits, _, port = text.partition(":")
    try:
        words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
        packed = b"".join(word.to_bytes(4, "little") for word in words)
        if len(digits) == _V4_DIGITS:
            return ipaddress.IPv4Address(packed), int(port, 16)
        if len(digits) == _V6_DIGITS:
            address = ipaddress.IPv6Address(packed)
            return address.ipv4_mapped or address, int(port, 16)
    except (ValueError, OverflowError):
        return None
    return None
