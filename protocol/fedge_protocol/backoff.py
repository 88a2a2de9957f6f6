"""How long to wait before the next attempt: exponential, with full jitter, so that a fleet does not return as one."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_CERTAINLY_AT_THE_CEILING: Final = 256

Uniform = Callable[[], float]
"""Source of randomness: a number in [0, 1), as `random.random`."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits `floor_s` plus a random part of min(`first_s` * `factor` ** attempt, `ceiling_s`).

    Args:
        first_s: upper end of the first wait, seconds.
        factor: growth from one attempt to the next, at least 1.
        ceiling_s: upper end of every wait, seconds.
        floor_s: lower end of every wait, seconds; 0 is "full jitter".

    Raises:
        ValueError: when the numbers contradict each other.
    """

    first_s: float = 1.0
    factor: float = 2.0
    ceiling_s: float = 60.0
    floor_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.ceiling_s or self.factor < 1 or not 0 <= self.floor_s <= self.first_s:
            raise ValueError(f"{self}: want 0 <= floor_s <= first_s <= ceiling_s, first_s > 0 and factor >= 1")

    def delay_s(self, attempt: int, uniform: Uniform) -> float:
        """Seconds to wait after attempt number `attempt` (from 0) failed."""
        if attempt * math.log2(self.factor) > _CERTAINLY_AT_THE_CEILING:  # and the power might overflow
            upper_s = self.ceiling_s
        else:
            upper_s = min(self.first_s * self.factor**attempt, self.ceiling_s)
        return self.floor_s + (upper_s - self.floor_s) * uniform()
