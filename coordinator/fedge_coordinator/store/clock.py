"""The clock that the store stamps its rows with; tests pass their own."""

import time
from collections.abc import Callable
from typing import TypeAlias

ClockMs: TypeAlias = Callable[[], int]
"""Milliseconds since the Unix epoch."""


def wall_clock_ms() -> int:
    """Milliseconds since the Unix epoch, by this machine's clock."""
    return time.time_ns() // 1_000_000
