"""How a budget of token units is shared: integers only, so that everybody computes the same to the last unit."""

from collections.abc import Iterable, Mapping


class RewardError(ValueError):
    """A budget or weight is not a non-negative integer; the message names it."""


def participation_v1(budget: int, weights: Mapping[bytes, int]) -> dict[bytes, int]:
    """Share `budget` units in proportion to integer weights by largest remainder, ties by ascending address.

    Args:
        budget: token units of one round.
        weights: device address (20 bytes) to its weight.

    Returns:
        An amount for each device in ascending order of address; the amounts sum to `budget` exactly. When the weights
        sum to zero nothing is allocated (an empty mapping) and the budget stays in the pool.

    Raises:
        RewardError: when the budget or a weight is negative.
    """
    if budget < 0:
        raise RewardError(f"a budget of {budget} units is negative")
    for address, weight in weights.items():
        if weight < 0:
            raise RewardError(f"the weight {weight} of 0x{address.hex()} is negative")
    total = sum(weights.values())
    if total == 0:
        return {}
    addresses = sorted(weights)
    shares = {address: budget * weights[address] // total for address in addresses}
    left_over = budget - sum(shares.values())
    by_remainder = sorted(addresses, key=lambda address: (-(budget * weights[address] % total), address))
    for address in by_remainder[:left_over]:
        shares[address] += 1
    return shares


def fold(cumulative: Mapping[bytes, int], rounds: Iterable[Mapping[bytes, int]]) -> dict[bytes, int]:
    """Add each round's amounts to what accounts had earned before; accounts in ascending order, zero earners left out.

    Raises:
        RewardError: when an amount is negative: cumulative earnings never fall.
    """
    totals = dict(cumulative)
    for amounts in rounds:
        for account, amount in amounts.items():
            totals[account] = totals.get(account, 0) + amount
            if amount < 0:
                raise RewardError(f"the amount {amount} of 0x{account.hex()} is negative")
    return {account: totals[account] for account in sorted(totals) if totals[account]}
