"""The network policy of one agent as the kernel holds it: allow-list, pace, budget, and whether it only looks on."""

import struct
from collections.abc import Callable

from fedge_agent.kernel import budget_file, libbpf
from fedge_agent.kernel.frozen import dataclass
from fedge_agent.kernel.policy_records import BUDGET, PEER, Budget, Rule


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """What the owner of the device allows.

    Attributes:
        allow: keys of the trie, in the order of the rules.
        rate_bytes_per_s: pace of every TCP connection, None: unpaced.
        audit: report what would be refused, refuse nothing.
        daily_budget_bytes: both ways, None: not counted.
    """

    allow: tuple[bytes, ...]
    rate_bytes_per_s: int | None = None
    audit: bool = False
    daily_budget_bytes: int | None = None

    @property
    def rule(self) -> Rule:
        """The part in map fedge_rule."""
        return Rule(self.rate_bytes_per_s or 0, self.audit)


def put(policy: NetworkPolicy, map_fd: Callable[[str], int], prior: Budget | None, day: int) -> None:
    """Makes the maps say what the policy says; what stays allowed is allowed throughout.

    `map_fd` gives writable descriptors by name; `prior` is the budget until now, `day` as `budget_file.today`.
    """
    set_allowed(map_fd("fedge_allow"), policy.allow)
    if policy.daily_budget_bytes is None:
        libbpf.update(map_fd("fedge_budget"), bytes(4), Budget(0, 0, day).encode(), "the budget")
    else:
        wanted = budget_file.carried(prior, policy.daily_budget_bytes, day)
        held = Budget.decode(libbpf.lookup(map_fd("fedge_budget"), bytes(4), BUDGET.size, "the budget"))
        counting = prior is not None and (held.limit_bytes, held.day) == (wanted.limit_bytes, wanted.day)
        if not counting or wanted != prior:  # the kernel goes on counting: never put an older number back
            libbpf.update(map_fd("fedge_budget"), bytes(4), wanted.encode(), "the budget")
    libbpf.update(map_fd("fedge_rule"), bytes(4), policy.rule.encode(), "the rule")


def set_allowed(map_fd: int, allow: tuple[bytes, ...]) -> None:
    """Makes the trie hold exactly `allow`: entries are added before others are taken away."""
    wanted = {key: number for number, key in enumerate(allow, start=1)}
    lib = libbpf.library()
    for key, number in wanted.items():
        libbpf.update(map_fd, key, struct.pack("=I", number), "an allow entry")
    for key in set(libbpf.keys(map_fd, PEER.size)) - set(wanted):
        libbpf.checked(lib.bpf_map_delete_elem(map_fd, key), "cannot take an allow entry away")
