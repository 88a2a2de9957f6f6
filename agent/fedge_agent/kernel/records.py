"""User space's copy of bpf/fedge.h: counters, denial events, keys of the allow-list. Tests compare the two."""

import dataclasses
import enum
import ipaddress
import struct

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

HISTOGRAM_SLOTS = 32
PEER = struct.Struct("=IHBB16s")  # prefixlen in host order; the port is put in as two network-order bytes
DENIAL = struct.Struct("=QI2sBB16s")
PORT_PROTOCOL_BITS = 32
ADDRESS_BYTES = 16


class Hook(enum.IntEnum):
    """Where a refusal happened."""

    CONNECT = 1
    SENDMSG = 2
    EGRESS = 3


class Protocol(enum.IntEnum):
    """Transport protocols that a rule may allow (IPPROTO numbers)."""

    TCP = 6
    UDP = 17


class Counter(enum.IntEnum):
    """Totals of struct fedge_counts, in the order of enum fedge_counter."""

    EGRESS_BYTES = 0
    EGRESS_PACKETS = 1
    INGRESS_BYTES = 2
    INGRESS_PACKETS = 3
    ALLOWED_CONNECT = 4
    ALLOWED_SENDMSG = 5
    DENIED_CONNECT = 6
    DENIED_SENDMSG = 7
    DENIED_EGRESS = 8
    EVENTS_SENT = 9
    EVENTS_SUPPRESSED = 10
    EVENTS_LOST = 11


class MachineCounter(enum.IntEnum):
    """Slots of map fedge_tel, in the order of enum fedge_tel_counter."""

    EXEC = 0
    RETRANSMITS = 1
    WAKE_LOST = 2
    BLOCK_LOST = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Denial:
    """One refused peer, as the kernel reported it.

    Attributes:
        stamp_ns: CLOCK_MONOTONIC.
        hook: where it was refused.
        address: the peer.
        port: 0 when the packet had none that could be read.
        protocol: IPPROTO number.
        suppressed: refusals before this one that were counted but not reported (16 a second are).
    """

    stamp_ns: int
    hook: Hook
    address: Address
    port: int
    protocol: int
    suppressed: int

    @classmethod
    def decode(cls, record: bytes) -> "Denial":
        """Reads a struct fedge_denial.

        Raises:
            ValueError: wrong length or unknown hook.
        """
        if len(record) != DENIAL.size:
            raise ValueError(f"denial record of {len(record)} bytes instead of {DENIAL.size}; reattach with fedge-bpf")
        stamp_ns, suppressed, port, protocol, hook, packed = DENIAL.unpack(record)
        v6 = ipaddress.IPv6Address(packed)
        address = v6.ipv4_mapped or v6
        return cls(stamp_ns, Hook(hook), address, int.from_bytes(port, "big"), protocol, suppressed)
