"""User space's copy of bpf/fedge.h, what root writes: keys of the allow-list, the rule, the budget. Tests compare."""

import struct

from fedge_agent.kernel.frozen import dataclass

PEER = struct.Struct("=IHBB16s")  # prefixlen in host order; the port is put in as two network-order bytes
RULE = struct.Struct("=QI4x")
BUDGET = struct.Struct("=qqQ")
MAX_RATE_BYTES_PER_S = 0xFFFFFFFE  # SO_MAX_PACING_RATE takes 32 bits, all ones meaning unlimited


@dataclass(frozen=True, slots=True)
class Rule:
    """struct fedge_rule: everything of the network policy but the allow-list.

    Attributes:
        rate_bytes_per_s: pace of every TCP connection; 0: not paced.
        audit: report what would be refused, refuse nothing.
    """

    rate_bytes_per_s: int = 0
    audit: bool = False

    def encode(self) -> bytes:
        """As the kernel reads it."""
        return RULE.pack(self.rate_bytes_per_s, self.audit)

    @classmethod
    def decode(cls, record: bytes) -> "Rule":
        """From the kernel's map."""
        rate, audit = RULE.unpack(record)
        return cls(rate, bool(audit))


@dataclass(frozen=True, slots=True)
class Budget:
    """struct fedge_budget: what is left of a day's bytes.

    Attributes:
        left_bytes: below 0 by what small packets used past the end.
        limit_bytes: of a day; 0: there is none.
        day: days since 1970-01-01 UTC for which `left_bytes` holds.
    """

    left_bytes: int
    limit_bytes: int
    day: int

    def encode(self) -> bytes:
        """As the kernel reads it."""
        return BUDGET.pack(self.left_bytes, self.limit_bytes, self.day)

    @classmethod
    def decode(cls, record: bytes) -> "Budget":
        """From the kernel's map."""
        return cls(*BUDGET.unpack(record))
