"""Short rests while training, in which the scheduler may bring others' waiting tasks to this CPU.

A task in SCHED_IDLE gives way at once to whoever wakes on its CPU. But a CPU that runs one is never idle, so it does
not come for tasks that wait on another CPU; these wait for the next periodic balance, milliseconds later. A rest makes
it look. `bench/kernel.py` measures what that does for a foreground task; training gives up a quarter of its speed.
"""

import time
from collections.abc import Callable

WORK_S = 0.0003
REST_S = 0.00005
"""The kernel adds its timer slack, 50 us by default."""


class Breath:
    """Call `breathe` between steps; it rests once `WORK_S` have passed since the last rest."""

    def __init__(
        self,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._monotonic_s = monotonic_s
        self._sleep = sleep
        self._rested_s = monotonic_s()

    def breathe(self) -> None:
        """Rest, if it is time."""
        if self._monotonic_s() - self._rested_s >= WORK_S:
            self._sleep(REST_S)
            self._rested_s = self._monotonic_s()
