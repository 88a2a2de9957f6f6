"""What to bid for a place in a block (EIP-1559)."""

from dataclasses import dataclass
from statistics import median

from fedge_coordinator.settlement.errors import RpcUnavailableError
from fedge_coordinator.settlement.rpc import JsonRpc, hexed, quantity

_HISTORY_BLOCKS = 10


@dataclass(frozen=True, slots=True)
class FeePolicy:
    """Bounds of what is paid, in wei per gas. A replacement bids 12.5 % more, which every client accepts."""

    min_priority_fee_wei: int = 1_000_000
    max_fee_wei: int = 200_000_000_000


@dataclass(frozen=True, slots=True)
class Fee:
    """A bid, in wei per gas."""

    max_fee_wei: int
    priority_fee_wei: int

    def raised(self, policy: FeePolicy) -> "Fee":
        """Return the bid that replaces this one, or this one when the policy's bound is reached."""
        max_fee_wei = self.max_fee_wei * 9 // 8 + 1
        if max_fee_wei > policy.max_fee_wei:
            return self
        return Fee(max_fee_wei, min(self.priority_fee_wei * 9 // 8 + 1, max_fee_wei))


async def suggest_fee(rpc: JsonRpc, policy: FeePolicy) -> Fee:
    """Bid the median tip of the last blocks on top of twice the next base fee, within the policy.

    Raises:
        RpcError, RpcUnavailableError: when the node does not tell its fee history.
    """
    history = await rpc.call("eth_feeHistory", hexed(_HISTORY_BLOCKS), "latest", [50])
    if not isinstance(history, dict) or not history.get("baseFeePerGas"):
        raise RpcUnavailableError("the node sent no fee history")
    base_wei = quantity(history["baseFeePerGas"][-1])
    tips_wei = [quantity(reward[0]) for reward in history.get("reward") or [] if reward]
    tip_wei = max(policy.min_priority_fee_wei, int(median(tips_wei)) if tips_wei else 0)
    max_fee_wei = min(2 * base_wei + tip_wei, policy.max_fee_wei)
    return Fee(max_fee_wei, min(tip_wei, max_fee_wei))
