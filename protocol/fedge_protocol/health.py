"""What a device says about its own condition, beside the features of its kernel layer."""

from typing import Final

NETWORK_UNGUARDED: Final = 1 << 32
"""Bit of `Presence.missing_features`, far above the features: the kernel does not guard the network of the agent."""


def network_guarded(missing_features: int) -> bool:
    """Whether the device says that its kernel enforces the allow-list of its agent."""
    return not missing_features & NETWORK_UNGUARDED
