"""User space's copy of bpf/fedge.h, what is read: counters and denial events. Tests compare the two."""

import enum
import ipaddress
import struct

from fedge_agent.kernel.frozen import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

HISTOGRAM_SLOTS = 32
PEER_SLOTS = 256
DENIAL = struct.Struct("=QI2sBB16sBB6x")
PORT_PROTOCOL_BITS = 32
ADDRESS_BYTES = 16


class Hook(enum.IntEnum):
    """Where a refusal happened."""

    CONNECT = 1
    SENDMSG = 2
    EGRESS = 3
    INGRESS = 4


class DenialReason(enum.IntEnum):
    """Why something was refused (enum fedge_reason)."""

    NOT_ALLOWED = 1
    BUDGET_SPENT = 2


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
    DENIED_BUDGET = 12
    AUDITED = 13
    PACED = 14
    PACE_FAILED = 15


class MachineCounter(enum.IntEnum):
    """Slots of map fedge_tel, in the order of enum fedge_tel_counter."""

    EXEC = 0
    RETRANSMITS = 1
    WAKE_LOST = 2
    BLOCK_LOST = 3
    RECLAIMS = 4
    OOM_KILLS = 5


@dataclass(frozen=True, slots=True)
class Denial:
    """One refused peer, as the kernel reported it.

    Attributes:
        stamp_ns: CLOCK_MONOTONIC.
        hook: where it was refused.
        address: the peer.
        port: 0 when the packet had none that could be read.
        protocol: IPPROTO number.
        suppressed: refusals before this one that were counted but not reported (16 a second are).
        reason: why.
        audited: audit mode let it pass.
    """

    stamp_ns: int
    hook: Hook
    address: Address
    port: int
    protocol: int
    suppressed: int
    reason: DenialReason
    audited: bool

    @classmethod
    def decode(cls, record: bytes) -> "Denial":
        """Reads a struct fedge_denial.

        Raises:
            ValueError: wrong length, unknown hook or reason.
        """
        if len(record) != DENIAL.size:
            raise ValueError(f"denial record of {len(record)} bytes instead of {DENIAL.size}; reattach with fedge-bpf")
        stamp_ns, suppressed, port, protocol, hook, packed, reason, audited = DENIAL.unpack(record)
        v6 = ipaddress.IPv6Address(packed)
        address = v6.ipv4_mapped or v6
        return cls(
            stamp_ns,
            Hook(hook),
            address,
            int.from_bytes(port, "big"),
            protocol,
            suppressed,
            DenialReason(reason),
            bool(audited),
        )
